"""`perceptok data`: images and annotations become records that train and test a model."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from perceptok_cli.console import (
    DeviceOption,
    choose_device,
    finish,
    format_count,
    note,
    print_presets,
    print_table,
    progress_bar,
)

if TYPE_CHECKING:
    from perceptok.data import BuildReport

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Images and annotations become records that train and test a model.")

Records = Annotated[
    Path, typer.Argument(help="A file of records (.jsonl, .json, .parquet), or the folder of a data set.")
]


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def build(
    context: typer.Context,
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe (YAML or JSON) with paths relative to its folder, or a preset with paths relative to the "
            "current folder."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for records, images and manifest.")],
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Number of processes; the output does not depend on it. Default: 1; with Ray 2."),
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Processes of this machine, or of a Ray cluster (extra ray).")
    ] = "local",
    address: Annotated[
        str | None, typer.Option(help="Ray: the cluster's address; default: RAY_ADDRESS, or this machine.")
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="Multiply the counts of all sets, such as 0.01 for a small data set.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace an existing data set.")] = False,
) -> None:
    """Build a data set. An interrupted build is resumed by the same command and gives the same bytes.

    Settings of the recipe can be overridden: `perceptok data build aurora-depth -o out --sources.ade20k.images ADE20K`.
    A recipe's specialists have the form onnx_depth, transformers_depth, yolox_onnx or transformers_boxes.
    """
    from perceptok.config import parse_overrides
    from perceptok.data import DataRecipe, build_data
    from perceptok.errors import ConfigError
    from perceptok.jobs import LocalEngine, RayEngine

    if address is not None and engine != "ray":
        raise ConfigError(f"--address {address} is for a Ray cluster; add --engine ray, or leave it out")
    settings = DataRecipe.read(recipe, parse_overrides(context.args))
    if scale is not None:
        settings = settings.scale_counts(scale)
    with progress_bar("building", sum(config.count for config in settings.sets)) as advance:

        def advance_by(added: int) -> None:
            for _ in range(added):
                advance()

        with RayEngine(workers or 2, address) if engine == "ray" else LocalEngine(workers or 1) as workers_engine:
            report = build_data(settings, output, engine=workers_engine, force=force, advance=advance_by, warn=note)
    rows = [
        [built.name, str(built.records), str(built.candidates), str(built.candidates - built.records)]
        for built in report.sets
    ]
    print_table(
        f"{format_count(report.records, 'record')} in {output}", ("set", "records", "images tried", "rejected"), rows
    )
    for name, count, reason in _list_rejections(report):
        note(f"  {name}: {count} rejected: {reason}")
    if any(built.rejected for built in report.sets):
        note(f"  the rejected images and their reasons: {output / 'rejected.jsonl'}")
    for built in report.sets:
        for warning, number in built.warnings.items():
            note(f"  {built.name}: {number} records with a warning: {warning}")


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(help="Print the file of this preset.")] = None,
) -> None:
    """List the configurations that come with perceptok; each can be named wherever such a file is asked for."""
    print_presets(["data"], name)


@app.command()
def estimate(
    images: Annotated[Path, typer.Argument(help="Folder of images, searched recursively.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the maps, 16-bit PNG.")],
    model: Annotated[
        str,
        typer.Option(
            help="Depth network: an ONNX file (onnx_depth), or a folder or hub id of transformers (transformers_depth)."
        ),
    ],
    kind: Annotated[
        Literal["inverse", "metric"],
        typer.Option(help="Kind of its output: inverse (larger = nearer) or metric (distances)."),
    ],
    unit: Annotated[str | None, typer.Option(help="Unit of distances, such as m.")] = None,
    device: DeviceOption = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images in a batch.")] = 1,
    force: Annotated[bool, typer.Option(help="Replace the maps of another network.")] = False,
) -> None:
    """Estimate a depth map of every image. An interrupted run is resumed by the same command."""
    from perceptok.config import config_from_dict
    from perceptok.data import SpecialistConfig, estimate_maps, make_depth_specialist, select_images

    form = "onnx_depth" if model.endswith(".onnx") else "transformers_depth"
    values = {
        "form": form,
        "model": model,
        "kind": kind,
        "unit": unit,
        "batch_size": batch_size,
        "device": choose_device(device, ("cpu", "cuda")),
    }
    specialist = make_depth_specialist(config_from_dict(SpecialistConfig, values))
    selection = select_images(images)
    for remark in selection.describe():
        note(remark)
    names = list(selection.files.values())
    with progress_bar("estimating", len(names)) as advance:
        failures = estimate_maps(
            specialist, images, output, names=names, batch_size=batch_size, force=force, advance=advance
        )
    finish([(failure.name, failure.reason) for failure in failures], len(names))
    note(f"{format_count(len(names), 'map')} in {output}")


@app.command()
def stats(
    records: Records,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the counts as JSON too.")] = None,
    force: Annotated[bool, typer.Option(help="Replace an existing output.")] = False,
) -> None:
    """Count tasks, regimes, answers, markers and codes; for the folder of a data set also rejections by reason."""
    from perceptok.data import BuildReport, compute_statistics, read_records
    from perceptok.files import atomic_write

    statistics = compute_statistics(read_records(records))
    rows = [[task, regime, str(count)] for (task, regime), count in sorted(statistics.kinds.items())]
    print_table(format_count(statistics.records, "record"), ("task", "regime", "records"), rows)
    for task, counts in sorted(statistics.answers.items()):
        total = sum(counts.values())
        rows = [
            [answer, str(count), f"{count / total:.1%}"]
            for answer, count in sorted(counts.items(), key=lambda item: (len(item[0]), item[0]))
        ]
        print_table(f"answers: {task}", ("answer", "records", "share"), rows)
    if statistics.markers:
        rows = [[str(number), str(count)] for number, count in sorted(statistics.markers.items())]
        print_table("markers per image", ("markers", "images"), rows)
        print_table(
            "positions of markers (quarters of the frame)",
            ("rows", "0-1/4", "1/4-1/2", "1/2-3/4", "3/4-1"),
            [[f"{row}/4", *map(str, counts)] for row, counts in enumerate(statistics.positions, 1)],
        )
    if statistics.num_used_codes:
        note(f"depth codes used: {statistics.num_used_codes} of {len(statistics.codes)}")
    if (records / "manifest.json").is_file():
        print_table("rejected", ("set", "images", "reason"), _list_rejections(BuildReport.read(records)))
    if output:
        with atomic_write(output, force=force) as file:
            file.write((json.dumps(statistics.to_dict(), indent=2) + "\n").encode())


def _list_rejections(report: BuildReport) -> list[list[str]]:
    """Set, number and reason, the most frequent reason of each set first."""
    return [
        [built.name, str(count), reason]
        for built in report.sets
        for reason, count in sorted(built.rejected.items(), key=lambda item: -item[1])
    ]


@app.command()
def check(
    records: Records,
    images: Annotated[bool, typer.Option(help="Report missing and unreadable image files too.")] = True,
) -> None:
    """List the problems of a file: damaged, malformed or contradictory records, repeated ids, unreadable images."""
    from perceptok.data import check_records

    counter = itertools.count()
    problems = list(check_records(records, images=images, advance=lambda: next(counter)))
    total = next(counter)
    summary = f"{format_count(len(problems), 'problem')} in {format_count(total, 'record')}:"
    finish([(problem.name, problem.reason) for problem in problems], total, summary=summary)
    note(f"no problems found in {format_count(total, 'record')}")


@app.command()
def show(
    records: Records,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")],
    number: Annotated[int, typer.Option("--count", min=1, help="Number of records, spread evenly over the file.")] = 48,
    codec: Annotated[str | None, typer.Option(help="Folder of a codec. Default: the weights of the package.")] = None,
    force: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
) -> None:
    """Write a page of records: image, markers, boxes, decoded depth, question and answer."""
    from perceptok.data import write_records_page
    from perceptok.depth import DepthCodec

    shown = write_records_page(records, output, count=number, codec=DepthCodec.from_pretrained(codec), force=force)
    note(f"{format_count(shown, 'record')} in {output}")
