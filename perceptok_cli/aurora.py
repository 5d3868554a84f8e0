"""`perceptok aurora`: the paper's experiments, from the data sets on disk to the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perceptok_cli.console import DeviceOption, choose_device, note, print_table

if TYPE_CHECKING:
    from perceptok.evaluation import AuroraStage

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="AURORA's experiments, from the data sets on disk to the table.")

_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}
ImagesOption = Annotated[str, typer.Option("--images", help="Folder of the training images, searched recursively.")]
IncludeOption = Annotated[
    list[str] | None,
    typer.Option("--include", help='Use these images only, such as "*.jpg"; default: the preset\'s; repeatable.'),
]
BaseOption = Annotated[str, typer.Option("--base", help="Folder or hub id of the model to start from.")]
BenchmarksOption = Annotated[
    str, typer.Option("--benchmarks", help="Folder of all benchmarks, in the layout of AURORA's repository.")
]
TestOption = Annotated[
    list[str] | None,
    typer.Option("--test", help="Run this test of the tables alone, such as blink-depth or blink-count; repeatable."),
]
OutputOption = Annotated[str, typer.Option("--output", "-o", help="Folder of all outputs.")]
TableOption = Annotated[
    list[str] | None, typer.Option("--table", help="Ablation preset to run, a table of the paper; repeatable.")
]
ScaleOption = Annotated[
    float, typer.Option("--scale", help="Fraction of the preset's images, records and steps, above 0 and at most 1.")
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, help="Maximum number of questions of each benchmark.")
]
PlanOption = Annotated[
    bool,
    typer.Option("--plan", help="Print the parts, how much each does, and the time of finished ones; run nothing."),
]
PilotOption = Annotated[
    bool, typer.Option("--pilot", help="As --plan, with times estimated by a run of everything on a few images.")
]


@app.command(context_settings=_SETTINGS)
def depth(
    context: typer.Context,
    images: ImagesOption,
    base: BaseOption,
    estimator: Annotated[
        str,
        typer.Option(
            "--estimator",
            help="Network of relative inverse depth: an ONNX file, a folder or hub id of transformers, or a YAML file "
            "of SpecialistConfig.",
        ),
    ],
    benchmarks: BenchmarksOption,
    output: OutputOption,
    include: IncludeOption = None,
    table: TableOption = None,
    test: TestOption = None,
    scale: ScaleOption = 1.0,
    limit: LimitOption = None,
    plan: PlanOption = False,
    pilot: PilotOption = False,
    device: DeviceOption = None,
) -> None:
    """Relative depth: estimate maps, train the codec, encode, build records, fine-tune, evaluate, report.

    The same command continues an interrupted run. Settings of the presets can be overridden: those of the fine-tuning
    as in `llava train` (--learning_rate 1e-4), those of the codec, the data and the asking with their prefix
    (--codec.max_steps 9, --inference.batch_size 8).
    """
    _run(
        context.args, plan, pilot, task="depth", images=images, include=include, base=base, estimator=estimator,
        benchmarks=benchmarks, output=output, table=table, test=test, scale=scale, limit=limit, device=device,
    )  # fmt: skip


@app.command(context_settings=_SETTINGS)
def counting(
    context: typer.Context,
    images: ImagesOption,
    annotations: Annotated[str, typer.Option("--annotations", help="LVIS or COCO file of the images.")],
    base: BaseOption,
    benchmarks: BenchmarksOption,
    output: OutputOption,
    include: IncludeOption = None,
    table: TableOption = None,
    test: TestOption = None,
    scale: ScaleOption = 1.0,
    limit: LimitOption = None,
    plan: PlanOption = False,
    pilot: PilotOption = False,
    device: DeviceOption = None,
) -> None:
    """Counting: build records from annotations, fine-tune, evaluate, report.

    The same command continues an interrupted run. Settings of the presets can be overridden: those of the fine-tuning
    as in `llava train` (--learning_rate 1e-4), those of the data and the asking with their prefix (--data.seed 1).
    """
    _run(
        context.args, plan, pilot, task="counting", images=images, include=include, base=base,
        annotations=annotations, benchmarks=benchmarks, output=output, table=table, test=test, scale=scale,
        limit=limit, device=device,
    )  # fmt: skip


def _run(
    words: Sequence[str],
    plan: bool,
    pilot: bool,
    *,
    include: list[str] | None,
    table: list[str] | None,
    test: list[str] | None,
    **settings: Any,
) -> None:
    from perceptok.config import parse_overrides
    from perceptok.evaluation import (
        ABLATION_HEADER,
        PUBLISHED_NOTE,
        AuroraExperiment,
        aurora_rows,
        measure_aurora,
        plan_aurora,
        run_aurora,
    )

    settings["device"] = choose_device(settings["device"], ("cpu", "cuda"))
    settings["include"] = None if include is None else tuple(include)
    settings |= {"tables": tuple(table or ()), "tests": tuple(test or ())}
    changes: dict[str, dict[str, Any]] = {"codec": {}, "data": {}, "inference": {}, "train": {}}
    for name, value in parse_overrides(words).items():
        part, dot, setting = name.partition(".")
        part, setting = (part, setting) if dot and part in changes else ("train", name)
        changes[part][setting] = value
    config = AuroraExperiment(**{**settings, **changes})
    if plan or pilot:
        _print_plan(measure_aurora(config, _report) if pilot else plan_aurora(config))
        return
    note(", ".join(f"{part.name} {part.amount:,} {part.unit}" for part in plan_aurora(config)))
    results = run_aurora(config, _report)
    if not results:  # in another process than the first
        return
    print_table(f"aurora {config.task}", ABLATION_HEADER, aurora_rows(results))
    note(PUBLISHED_NOTE)
    note(f"tables, answers and pages in {Path(config.output)}")


def _report(stage: str, message: str) -> None:
    note(f"{stage}: {message}")


def _print_plan(stages: Sequence[AuroraStage]) -> None:
    rows = [
        (stage.name, f"{stage.amount:,} {stage.unit}", "" if stage.seconds is None else f"{stage.seconds:,.0f} s")
        for stage in stages
    ]
    print_table("Parts of the run", ("part", "amount", "time"), rows)
