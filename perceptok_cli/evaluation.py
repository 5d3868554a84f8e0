"""`perceptok eval`: predictions scored on benchmarks, and systems compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perceptok_cli.console import note, print_table, progress_bar

if TYPE_CHECKING:
    from perceptok.depth import DepthCodec
    from perceptok.evaluation import Benchmark, EvidenceReport, Outcome, Scores
    from perceptok.pages import Case

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Answers scored on benchmarks.")

BenchmarkOption = Annotated[
    str,
    typer.Option(
        "--benchmark",
        help="hardblink-3, -4, -5, blink-depth, blink-count, cvbench-depth, cvbench-count, seed-count, or records.",
    ),
]
DataOption = Annotated[
    str, typer.Option("--data", help="Folder, file or hub id of the benchmark; a hub id is downloaded.")
]
ImagesOption = Annotated[Path | None, typer.Option("--images", help="Folder of the images, if not beside the data.")]
MissingOption = Annotated[bool, typer.Option("--missing", help="Questions without a prediction count as wrong.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder for scores.json, scores.csv, scores.md and page.html.")
]
CodecOption = Annotated[str | None, typer.Option("--codec", help="Folder or hub id of a codec; default: shipped.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace existing outputs.")]


@app.command()
def score(
    predictions: Annotated[Path, typer.Argument(help="JSON lines with an id and a text, of any system.")],
    benchmark: BenchmarkOption,
    data: DataOption,
    images: ImagesOption = None,
    missing: MissingOption = False,
    codec: CodecOption = None,
    output: OutputOption = None,
    force: ForceOption = False,
) -> None:
    """Score predictions: accuracy with its interval, by markers, count or category, beside published figures."""
    items = load(benchmark, data, images)
    scores = _scored(predictions, items, missing)
    show_scores(scores, predictions.stem)
    evidence = checked(scores, codec)
    if output:
        write_scores(scores, predictions.stem, output, force, evidence=evidence)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="JSON lines of one system.")],
    second: Annotated[Path, typer.Argument(help="JSON lines of the other, on the same items.")],
    benchmark: BenchmarkOption,
    data: DataOption,
    missing: MissingOption = False,
) -> None:
    """Compare two systems on the same items: paired bootstrap and McNemar's exact test."""
    from perceptok.evaluation import compare as compare_scores, compared

    items = load(benchmark, data, None)
    told = compare_scores(_scored(first, items, missing), _scored(second, items, missing))
    rows = [list(row) for row in compared(told, first.stem, second.stem)]
    print_table(f"{first.stem} against {second.stem} on {benchmark}", ("", ""), rows)


@app.command()
def specialist(
    model: Annotated[Path, typer.Argument(help="A depth network in an ONNX file: relative inverse depth.")],
    benchmark: BenchmarkOption,
    data: DataOption,
    images: ImagesOption = None,
    codec: CodecOption = None,
    output: OutputOption = None,
    force: ForceOption = False,
) -> None:
    """The ceiling: what a depth specialist answers itself, and what is left of it after 100 tokens."""
    from perceptok.data import OnnxDepth
    from perceptok.depth import DepthCodec
    from perceptok.evaluation import (
        Benchmark,
        answer_of,
        compare as compare_scores,
        compared,
        estimate_case,
        evaluate,
        specialist_estimates,
    )

    items = load(benchmark, data, images)
    network = OnnxDepth(model, kind="inverse")
    found = {}
    with progress_bar("estimating", len(items)) as advance:
        loaded = DepthCodec.from_pretrained(codec)
        for one in specialist_estimates(items, lambda picture: network.estimate([picture])[0], loaded):
            found[one.item.id] = one
            advance()
    placed = Benchmark(items.name, tuple(one.item for one in found.values()), items.published)
    own = evaluate({name: f"({one.own})" for name, one in found.items()}, placed)
    through = evaluate({name: answer_of(one) for name, one in found.items()}, placed)
    show_scores(own, model.stem)
    show_scores(through, f"{model.stem} through 100 tokens")
    rows = [list(row) for row in compared(compare_scores(own, through), "the estimate", "its tokens")]
    print_table("What the tokens lose", ("", ""), rows)
    if output:
        system = f"{model.stem} through 100 tokens"
        write_scores(
            through, system, output, force, case=lambda outcome: estimate_case(found[outcome.item.id], outcome)
        )


@app.command("lmms-eval")
def lmms_eval(
    benchmark: Annotated[str | None, typer.Option("--benchmark", help="Write a task of this benchmark.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="Folder, file or hub id of the benchmark.")] = None,
    images: ImagesOption = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the task and its data.")] = None,
    force: ForceOption = False,
) -> None:
    """Print the folder of tasks for lmms-eval's --include_path; or write one of local data, and print where.

    Without options: the tasks of the package, whose data lmms-eval itself takes from the Hugging Face hub.
    """
    from perceptok.evaluation import tasks_folder, write_task

    if benchmark is None and data is None and images is None and output is None:
        typer.echo(tasks_folder())
        return
    if benchmark is None or data is None or output is None:
        raise typer.BadParameter("a task is written from --benchmark and --data to --output")
    note(f"task {write_task(load(benchmark, data, images), output, force=force)}")
    typer.echo(output)


def show_scores(scores: Scores, system: str) -> None:
    """The table on standard output; on standard error whose figures the published ones are."""
    from perceptok.evaluation import HEADER, PUBLISHED_NOTE, rows_of

    print_table(f"{system} on {scores.benchmark}", HEADER, rows_of(scores))
    if scores.published:
        note(PUBLISHED_NOTE)


def write_scores(
    scores: Scores,
    system: str,
    folder: Path,
    force: bool,
    *,
    case: Callable[[Outcome], Case] | None = None,
    evidence: EvidenceReport | None = None,
) -> None:
    """The scores as JSON, CSV and Markdown, and the page, with the evidence where it was checked."""
    from perceptok.evaluation import to_csv, to_json, to_markdown, write_report
    from perceptok.files import atomic_write

    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "scores.csv": to_csv(scores, system),
        "scores.md": to_markdown(scores, system),
        "scores.json": to_json(scores, system, None if evidence is None else evidence.to_json()),
    }
    write_report(
        scores,
        folder / "page.html",
        title=f"{system} on {scores.benchmark}",
        case=case or (None if evidence is None else evidence.case),
        tables=() if evidence is None else evidence.tables(),
        force=force,
    )
    for name, text in texts.items():
        with atomic_write(folder / name, force=force) as file:
            file.write(text.encode("utf-8", "backslashreplace"))
    note(f"scores and page in {folder}")


def checked(scores: Scores, codec: DepthCodec | str | None, specialist: Path | None = None) -> EvidenceReport | None:
    """Check the evidence of the answers and print what it is worth; None where no answer has any."""
    from perceptok.depth import DepthCodec
    from perceptok.evaluation import check_evidence, specialist_estimates

    loaded = codec if isinstance(codec, DepthCodec) else DepthCodec.from_pretrained(codec)
    estimates = {}
    if specialist is not None:
        from perceptok.data import OnnxDepth
        from perceptok.evaluation import Benchmark

        network = OnnxDepth(specialist, kind="inverse")
        items = Benchmark(scores.benchmark, tuple(one.item for one in scores.outcomes))
        found = specialist_estimates(items, lambda picture: network.estimate([picture])[0], loaded)
        estimates = {one.item.id: one for one in found}
    report = check_evidence(scores, loaded, estimates)
    if report is not None:
        for table in report.tables():
            print_table(table.title, table.header, table.rows)
    return report


def load(name: str, data: str, images: Path | None) -> Benchmark:
    """A benchmark as the options name it."""
    from perceptok.evaluation import load_benchmark

    return load_benchmark(name, data, images=images)


def _scored(path: Path, items: Benchmark, missing: bool) -> Scores:
    from perceptok.evaluation import evaluate, read_predictions

    return evaluate(read_predictions(path), items, missing=missing)
