"""`perceptok llava eval`: a model asked a benchmark's questions, and its answers scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from perceptok.errors import OutputError
from perceptok_cli.console import note, progress_bar
from perceptok_cli.evaluation import (
    BenchmarkOption,
    DataOption,
    ForceOption,
    ImagesOption,
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
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Budget of an answer.")] = 512,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Questions at once.")] = 8,
    base: Annotated[str | None, typer.Option("--base", help="Where the base is, if not where it was.")] = None,
    device: Annotated[str, typer.Option("--device", help="Where to compute, e.g. cpu or cuda.")] = "cpu",
    force: ForceOption = False,
) -> None:
    """Ask a model every question of a benchmark and score its answers.

    The answers are kept in predictions.jsonl, in the form that `perceptok eval score` and `compare` read.
    """
    from perceptok.evaluation.benchmarks.scoring import evaluate as score
    from perceptok.files import atomic_write
    from perceptok.llava.pipeline import PerceptionPipeline

    if (output / "scores.json").exists() and not force:
        raise OutputError(f"{output / 'scores.json'} exists already; replace it with --force")
    items = load(benchmark, data, images)
    pipe = PerceptionPipeline.from_pretrained(model, base=base, device=device)
    texts: dict[str, str] = {}
    with progress_bar("asking", len(items)) as advance:
        for start in range(0, len(items), batch_size):
            some = items.items[start : start + batch_size]
            answers = pipe(
                [item.opened() for item in some],
                [item.question for item in some],
                constraints=constraints,
                max_new_tokens=max_new_tokens,
                batch_size=batch_size,
            )
            for item, answer in zip(some, answers, strict=True):
                texts[item.id] = answer.text
                advance()
    output.mkdir(parents=True, exist_ok=True)
    with atomic_write(output / "predictions.jsonl", force=True) as file:
        for name, text in texts.items():
            file.write((json.dumps({"id": name, "text": text}) + "\n").encode())
    scores = score(texts, items)
    show_scores(scores, model.name)
    write_scores(scores, model.name, output, force)
    note(f"answers in {output / 'predictions.jsonl'}")
