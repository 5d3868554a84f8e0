"""`perceptok box`: encode annotation files as coordinate tokens, decode, draw and score."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal

import typer

from perceptok.errors import AnnotationError, OutputError, PerceptokError
from perceptok_cli.console import (
    ForceOption,
    finish,
    note,
    print_table,
    progress_bar,
)

if TYPE_CHECKING:
    from perceptok.boxes import (
        AnnotationFile,
        BoxFailure,
        BoxRecord,
        BoxScores,
        ImageBoxes,
        TextPrediction,
    )

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Boxes <-> four coordinate tokens each.")

RecordsArgument = Annotated[str, typer.Argument(help="The output of encode; - reads JSON lines from standard input.")]


@app.command()
def encode(
    annotations: Annotated[
        str,
        typer.Argument(help="A COCO or LVIS file, or with --header a list of COCO results; - reads standard input."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON lines, one for each image; - prints them.")],
    frame: Annotated[
        Literal["squash", "letterbox", "center_crop"],
        typer.Option("--frame", help="How an image fits into the square: squashed, padded, or its centre cropped."),
    ] = "squash",
    size: Annotated[int, typer.Option("--size", min=1, help="Codes along a side.")] = 336,
    order: Annotated[Literal["xyxy", "yxyx"], typer.Option("--order", help="Order of the four codes.")] = "xyxy",
    rounding: Annotated[
        Literal["floor", "round"], typer.Option("--rounding", help="How an edge between two codes is rounded.")
    ] = "floor",
    decode_to: Annotated[
        Literal["center", "corner"], typer.Option("--decode", help="Point of its bin that a code is decoded to.")
    ] = "center",
    outside: Annotated[
        Literal["clip", "raise", "drop"],
        typer.Option("--outside", help="Policy for boxes that leave the image."),
    ] = "clip",
    degenerate: Annotated[
        Literal["keep", "drop", "raise"],
        typer.Option("--degenerate", help="Policy for boxes without width or height."),
    ] = "keep",
    min_visible: Annotated[
        float,
        typer.Option(
            "--min-visible", min=0, max=1, help="Drop boxes of which the frame shows less than this fraction."
        ),
    ] = 0.0,
    text: Annotated[
        Literal["aurora", "compact", "numeral"] | None,
        typer.Option("--text", help="Write the boxes as text too, in this form."),
    ] = None,
    header: Annotated[
        Path | None,
        typer.Option("--header", help="For a list of results: the COCO or LVIS file of their images."),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Encode the boxes of an annotation file as tokens."""
    from perceptok.boxes import BoxCodec, BoxRecord

    codec = BoxCodec(size, rounding=rounding, decode=decode_to, order=order, outside=outside, degenerate=degenerate)
    with _open_output(output, force) as out:
        images, unread = _read_results(annotations, header) if header else _read_images(annotations)
        failures = list(unread)
        encoded = 0
        for image in images:
            record = BoxRecord.from_boxes(image, codec, frame=frame, min_visible=min_visible, failures=failures)
            out.write((record.to_json(form=text) + "\n").encode())
            encoded += len(record.codes)
    boxes = sum(len(image.boxes) for image in images)
    dropped = boxes - encoded - (len(failures) - len(unread))
    note(f"{encoded} boxes of {len(images)} images -> {output}" + (f"; {dropped} dropped" if dropped else ""))
    finish(failures, boxes + len(unread))


@app.command()
def decode(
    records: RecordsArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The annotation file; - prints it.")],
    header: Annotated[
        Path | None,
        typer.Option(
            "--header",
            help="The file that the records were made from; everything else in it (outlines, licences, all "
            "categories) is kept. Default: only what the records contain.",
        ),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Decode tokens to a COCO file, or to an LVIS file if they were made from one."""
    from perceptok.boxes import rewrite_annotations, write_annotations

    failures: list[BoxFailure] = []
    without_box = 0
    with _open_output(output, force) as out:
        images = [record.decode() for record in _read_records(records, failures)]
        if header:
            without_box = rewrite_annotations(out, images, header)
        else:
            write_annotations(out, images)
    remark = f"; {without_box} annotations of {header} have no box in the records" if without_box else ""
    note(f"{sum(len(image.boxes) for image in images)} boxes of {len(images)} images -> {output}{remark}")
    finish(failures, len(images) + len(failures))


@app.command()
def draw(
    records: RecordsArgument,
    images: Annotated[Path, typer.Option("--images", exists=True, file_okay=False, help="Folder of the images.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", file_okay=False, help="Folder for PNG files, named as the images.")
    ],
    framed: Annotated[bool, typer.Option("--framed", help="Draw on the image in the model's frame.")] = False,
    force: ForceOption = False,
) -> None:
    """Draw the boxes of records on their images. Existing files are kept unless --force is given."""
    from perceptok.boxes import draw_records

    failures: list[BoxFailure] = []
    read = list(_read_records(records, failures))
    with progress_bar("drawing", len(read)) as advance:
        report = draw_records(read, images, output, framed=framed, force=force, advance=advance)
    for name, remark in report.notes:
        note(f"{name}: {remark}")
    note(f"{report.drawn} images in {output}")
    finish([*failures, *report.failures], len(read) + len(failures))


@app.command(name="eval")
def evaluate_boxes(
    predictions: Annotated[
        str,
        typer.Argument(
            help="JSON lines: records, or answers with name, text and label; or a list of COCO results. "
            "- reads standard input."
        ),
    ],
    truth: Annotated[Path, typer.Option("--truth", help="A COCO or LVIS file (.json), or records (.jsonl).")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the report as JSON too.")] = None,
    force: ForceOption = False,
) -> None:
    """Score predicted boxes, or a model's answers, against the ground truth."""
    from perceptok.boxes import read_box_predictions, read_ground_truth, read_results, score_predictions
    from perceptok.files import atomic_write

    if output and output.exists() and not force:
        raise OutputError(f"{output} exists already; replace it with --force")
    ground_truth = read_ground_truth(truth)
    _report_repairs(truth, ground_truth.repairs)
    with _open_predictions(predictions) as (lines, is_list):
        predicted: Iterable[BoxRecord | ImageBoxes | TextPrediction | BoxFailure]
        if is_list:
            known = [image.image for image in ground_truth.images.values()]
            predicted = read_results("".join(lines), predictions, known)
        else:
            predicted = read_box_predictions(lines, predictions)
        report = score_predictions(predicted, ground_truth.images)
    failures = [*ground_truth.failures, *report.failures]
    rows = [_make_row(label or "(all)", scores) for label, scores in report.by_label.items()]
    print_table("boxes against the ground truth, without crowds", _HEADER, [*rows, _make_row("all", report.total)])
    if report.crowds or report.unanswered:
        note(f"{report.crowds} crowds left out; {report.unanswered} images without a prediction are not scored")
    if output:
        values = report.to_dict() | {"failures": [failure._asdict() for failure in failures]}
        with atomic_write(output, force=force) as file:
            file.write((json.dumps(values, indent=2) + "\n").encode())
    finish(failures, report.total.images + len(failures))


_HEADER = ("category", "images", "true", "predicted", "invalid", "count error", "IoU", "P50", "R50", "P75", "R75")


def _make_row(name: str, scores: BoxScores) -> list[str]:
    counts = [str(count) for count in (scores.images, scores.true, scores.predicted, scores.invalid)]
    rates = [scores.precision_50, scores.recall_50, scores.precision_75, scores.recall_75]
    means = [(scores.count_error, ".2f"), (scores.mean_iou, ".3f"), *((rate, ".1%") for rate in rates)]
    return [name, *counts, *("-" if math.isnan(mean) else format(mean, form) for mean, form in means)]


def _read_annotations(source: str) -> AnnotationFile:
    from perceptok.boxes import read_annotations

    annotations = read_annotations(sys.stdin if source == "-" else source, strict=False)
    _report_repairs(source, annotations.repairs)
    return annotations


def _report_repairs(source: str | Path, repairs: Iterable[str]) -> None:
    for repair in repairs:
        note(f"repaired in {source}: {repair}")


def _read_images(source: str) -> tuple[Sequence[ImageBoxes], Sequence[BoxFailure]]:
    annotations = _read_annotations(source)
    return annotations.images, annotations.failures


def _read_results(source: str, header: Path) -> tuple[Sequence[ImageBoxes], Sequence[BoxFailure]]:
    """Read a list of results on the images of an annotation file."""
    from perceptok.boxes import ImageBoxes, read_results

    annotations = _read_annotations(str(header))
    with _open_predictions(source) as (lines, is_list):
        if not is_list:
            raise AnnotationError(f"{source}: not a list of results; --header is only for those, leave it out here")
        results = read_results("".join(lines), source, annotations.images)
    failures = [result for result in results if not isinstance(result, ImageBoxes)]
    return [result for result in results if isinstance(result, ImageBoxes)], [*annotations.failures, *failures]


def _read_records(source: str, failures: list[BoxFailure]) -> Iterator[BoxRecord]:
    """Read the records of JSON lines; invalid lines are added to the failures."""
    from perceptok.boxes import BoxFailure, read_box_records

    with _open_lines(source) as lines:
        for record in read_box_records(lines, source):
            if isinstance(record, BoxFailure):
                failures.append(record)
            else:
                yield record


@contextmanager
def _open_predictions(source: str) -> Iterator[tuple[Iterator[str], bool]]:
    """Open the lines of a file, and find whether it is a JSON list rather than JSON lines."""
    with _open_lines(source) as lines:
        first = next(lines, "")
        yield chain([first], lines), first.removeprefix("\ufeff").lstrip().startswith("[")


@contextmanager
def _open_lines(source: str) -> Iterator[Iterator[str]]:
    from perceptok.files import open_text

    try:
        if source == "-":
            yield iter(open_text(sys.stdin))
            return
        with open_text(source, allow_pipe=True) as file:
            yield iter(file)
    except OSError as error:
        raise AnnotationError(f"{source}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{source}: not UTF-8 text ({error.reason})") from error


@contextmanager
def _open_output(output: Path, force: bool) -> Iterator[BinaryIO]:
    from perceptok.files import atomic_write

    if str(output) != "-":
        with atomic_write(output, force=force) as file:
            yield file
        return
    try:
        yield sys.stdout.buffer
        sys.stdout.flush()
    except OSError as error:
        if isinstance(error, PerceptokError | BrokenPipeError):
            raise
        # The rest of the buffer would fail again, with a traceback, when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError(f"cannot write standard output: {error.strerror}") from error
