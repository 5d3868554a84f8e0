"""`perceptok llava eval`: a model asked a benchmark's questions, and its answers scored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from perceptok.errors import OutputError
from perceptok_cli.console import note, progress_bar
from perceptok_cli.evaluation import (
    BenchmarkOption,
    DataOption,
    ForceOption,
    ImagesOption,
    checked,
    load,
    show_scores,
    write_scores,
)

__all__ = ["evaluate"]


def evaluate(
    model: Annotated[Path, typer.Argument(help="A folder that train, merge or save_adapter wrote.")],
    benchmark: BenchmarkOption,
    data: DataOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for predictions, scores and page.")],
    images: ImagesOption = None,
    constraints: Annotated[bool, typer.Option("--constraints/--no-constraints", help="Hold to the grammar.")] = True,
    force_block: Annotated[
        Literal["first", "somewhere"] | None, typer.Option("--force-block", help="Every answer holds a depth block.")
    ] = None,
    consistency: Annotated[
        list[str] | None, typer.Option("--consistency", help="Hold conclusions to evidence: count, list, marker.")
    ] = None,
    specialist: Annotated[
        Path | None, typer.Option("--specialist", help="A depth network (ONNX), as the ceiling and the teacher.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Budget of an answer.")] = 512,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Questions at once.")] = 8,
    base: Annotated[str | None, typer.Option("--base", help="Where the base is, if not where it was.")] = None,
    device: Annotated[str, typer.Option("--device", help="Where to compute, e.g. cpu or cuda.")] = "cpu",
    force: ForceOption = False,
) -> None:
    """Ask a model every question of a benchmark and score its answers.

    The answers are kept in predictions.jsonl, in the form that `perceptok eval score` and `compare` read. An
    interrupted run is continued by the same command. Blocks and boxes are checked.
    """
    from perceptok.evaluation.benchmarks.scoring import evaluate as score
    from perceptok.llava.folders.benchmarks import answer_benchmark, model_stamp
    from perceptok.llava.inference.settings import InferenceConfig
    from perceptok.llava.pipeline import PerceptionPipeline

    if (output / "scores.json").exists() and not force:
        raise OutputError(f"{output / 'scores.json'} exists already; replace it with --force")
    items = load(benchmark, data, images)
    settings = InferenceConfig(
        constraints=constraints,
        force_block=force_block,
        consistency=cast(Any, tuple(consistency or ())),
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
    )
    pipe = PerceptionPipeline.from_pretrained(model, base=base, device=device, config=settings)
    output.mkdir(parents=True, exist_ok=True)
    predictions = output / "predictions.jsonl"
    with progress_bar("asking", len(items)) as advance:
        texts = answer_benchmark(
            pipe, items, predictions, model=[model_stamp(model), base], start_over=force, advance=advance
        )
    scores = score(texts, items)
    show_scores(scores, model.name)
    evidence = checked(scores, pipe.codec, specialist)
    write_scores(scores, model.name, output, True, evidence=evidence)
    predictions.with_name(predictions.name + ".partial").unlink(missing_ok=True)
    note(f"answers in {predictions}")
