"""`perceptok eval`: predictions scored on benchmarks, and systems compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perceptok_cli.console import (
    ForceOption,
    finish,
    note,
    print_table,
    progress_bar,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from perceptok.depth import DepthMap
    from perceptok.evaluation import EvidenceReport, Judge, Scores

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Answers scored on benchmarks.")

BENCHMARK_HELP = "hardblink-3, -4, -5, blink-depth, blink-count, cvbench-depth, cvbench-count, seed-count, records"
DATA_HELP = "Folder, file or hub id of the benchmark; a hub id is downloaded."
BenchmarkOption = Annotated[str, typer.Option("--benchmark", help=f"{BENCHMARK_HELP} or atomic.")]
DataOption = Annotated[str, typer.Option("--data", help=DATA_HELP)]
ImagesOption = Annotated[Path | None, typer.Option("--images", help="Folder of the images, if not beside the data.")]
MissingOption = Annotated[bool, typer.Option("--missing", help="Questions without a prediction count as wrong.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder for scores.json, scores.csv, scores.md and page.html.")
]
CodecOption = Annotated[str | None, typer.Option("--codec", help="Folder or hub id of a codec; default: shipped.")]
JudgeOption = Annotated[
    str | None,
    typer.Option(
        "--judge",
        help="URL of an OpenAI-compatible API whose model extracts answers from texts that the rules leave unread, "
        "e.g. http://localhost:8000/v1.",
    ),
]
JudgeModelOption = Annotated[str | None, typer.Option("--judge-model", help="Name of the judge's model.")]
JudgeKeyOption = Annotated[
    str | None, typer.Option("--judge-api-key", envvar="OPENAI_API_KEY", help="The judge's key.", show_envvar=True)
]


@app.command()
def score(
    predictions: Annotated[Path, typer.Argument(help="JSON lines with an id and a text, of any system.")],
    benchmark: BenchmarkOption,
    data: DataOption,
    images: ImagesOption = None,
    missing: MissingOption = False,
    codec: CodecOption = None,
    judge: JudgeOption = None,
    judge_model: JudgeModelOption = None,
    judge_api_key: JudgeKeyOption = None,
    output: OutputOption = None,
    force: ForceOption = False,
) -> None:
    """Score predictions: accuracy with its interval, by markers, count or category, beside published figures.

    The replies of a judge are kept in judge.jsonl in the output folder, and not asked for again.
    """
    from perceptok.depth import DepthCodec
    from perceptok.evaluation import check_evidence, evaluate, load_benchmark, read_predictions, write_scores

    reader = make_judge(judge, judge_model, judge_api_key, output)
    items = load_benchmark(benchmark, data, images=images)
    scores = evaluate(read_predictions(predictions), items, missing=missing, judge=reader)
    evidence = check_evidence(scores, DepthCodec.from_pretrained(codec))
    print_agreement(scores, evidence)
    print_scores(scores, predictions.stem)
    print_evidence(evidence)
    if output:
        write_scores(scores, output, system=predictions.stem, evidence=evidence, force=force)
        note(f"scores and page in {output}")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="JSON lines of one system.")],
    second: Annotated[Path, typer.Argument(help="JSON lines of the other, on the same items.")],
    benchmark: BenchmarkOption,
    data: DataOption,
    missing: MissingOption = False,
) -> None:
    """Compare two systems on the same items: paired bootstrap and McNemar's exact test."""
    from perceptok.evaluation import compare_scores, comparison_rows, evaluate, load_benchmark, read_predictions

    items = load_benchmark(benchmark, data)
    a, b = (evaluate(read_predictions(path), items, missing=missing) for path in (first, second))
    rows = comparison_rows(compare_scores(a, b), first.stem, second.stem)
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
    """The ceiling: the accuracy of a depth specialist itself, and what remains of it after 100 tokens."""
    from perceptok.depth import DepthCodec
    from perceptok.evaluation import (
        compare_scores,
        comparison_rows,
        estimate_case,
        evaluate_specialist,
        load_benchmark,
        outcome_case,
        write_scores,
    )

    items = load_benchmark(benchmark, data, images=images)
    estimate = load_specialist(model)
    with progress_bar("estimating", len(items)) as advance:
        result = evaluate_specialist(items, estimate, DepthCodec.from_pretrained(codec), advance=advance)
    system = f"{model.stem} through 100 tokens"
    print_scores(result.direct, model.stem)
    print_scores(result.through_codec, system)
    rows = comparison_rows(compare_scores(result.direct, result.through_codec), "the estimate", "its tokens")
    print_table("What the tokens lose", ("", ""), rows)
    if output:
        write_scores(
            result.through_codec,
            output,
            system=system,
            case=lambda outcome: (
                estimate_case(result.estimates[outcome.item.id], outcome)
                if outcome.item.id in result.estimates
                else outcome_case(outcome)
            ),
            force=force,
        )
        note(f"scores and page in {output}")
    finish([*result.unread.items()], len(items))


@app.command("lmms-eval")
def lmms_eval(
    benchmark: Annotated[str | None, typer.Option("--benchmark", help="Write a task of this benchmark.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="Folder, file or hub id of the benchmark.")] = None,
    images: ImagesOption = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the task and its data.")] = None,
    force: ForceOption = False,
) -> None:
    """Print the folder of tasks for lmms-eval's --include_path; or write a task of local data, and print its folder.

    Without options: the tasks of the package, whose data lmms-eval itself takes from the Hugging Face hub.
    """
    from perceptok.evaluation import load_benchmark, tasks_folder, write_task

    if benchmark is None and data is None and images is None and output is None:
        typer.echo(tasks_folder())
        return
    if benchmark is None or data is None or output is None:
        raise typer.BadParameter("a task is written from --benchmark and --data to --output")
    note(f"task {write_task(load_benchmark(benchmark, data, images=images), output, force=force)}")
    typer.echo(output)


def make_judge(url: str | None, model: str | None, api_key: str | None, folder: Path | None) -> Judge | None:
    """The judge of the options, with its cache in the output folder; None without a URL."""
    from perceptok.evaluation import Judge

    if url is None and model is None:
        return None
    if url is None or model is None:
        raise typer.BadParameter("a judge needs both --judge URL and --judge-model NAME")
    return Judge(url, model, api_key=api_key, cache=None if folder is None else folder / "judge.jsonl")


def print_agreement(scores: Scores, evidence: EvidenceReport | None) -> None:
    """Print how often conclusions follow from their own evidence: one line on standard output."""
    from perceptok.evaluation import describe_agreement

    typer.echo(describe_agreement(scores, evidence))


def print_scores(scores: Scores, system: str) -> None:
    """Print the table on standard output, and on standard error where published figures come from."""
    from perceptok.evaluation import PUBLISHED_NOTE, SCORE_HEADER, describe_judge, score_rows

    print_table(f"{system} on {scores.benchmark}", SCORE_HEADER, score_rows(scores))
    if scores.judge is not None:
        note(describe_judge(scores.judge))
    if scores.published:
        note(PUBLISHED_NOTE)


def print_evidence(evidence: EvidenceReport | None) -> None:
    """Print the tables of checked evidence, if there is any."""
    from perceptok.evaluation import evidence_tables

    for table in [] if evidence is None else evidence_tables(evidence):
        print_table(table.title, table.header, table.rows)


def load_specialist(path: Path) -> Callable[[Image], DepthMap]:
    """A depth network in an ONNX file as a function of one RGB image."""
    from perceptok.data import OnnxDepth

    network = OnnxDepth(path, kind="inverse")
    return lambda image: network.estimate([image])[0]
