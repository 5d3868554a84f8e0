"""`perceptok box`: annotation files to coordinate tokens and back, drawings, scores."""

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
from perceptok_cli.console import finish, note, print_table, progress_bar

if TYPE_CHECKING:
    from perceptok.boxes import (
        AnnotationFile,
        BoxFailure,
        BoxRecord,
        BoxScores,
        GroundTruth,
        ImageBoxes,
        TextPrediction,
    )

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Boxes <-> four coordinate tokens each.")

ForceOption = Annotated[bool, typer.Option("--force", help="Replace existing outputs.")]
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
        typer.Option("--frame", help="What the model sees of an image: all of it squashed, all padded, its middle."),
    ] = "squash",
    size: Annotated[int, typer.Option("--size", min=1, help="Codes along a side.")] = 336,
    order: Annotated[Literal["xyxy", "yxyx"], typer.Option("--order", help="Order of the four codes.")] = "xyxy",
    rounding: Annotated[
        Literal["floor", "round"], typer.Option("--rounding", help="Which code an edge takes; see BoxCodec.")
    ] = "floor",
    decode_to: Annotated[
        Literal["center", "corner"], typer.Option("--decode", help="What part of its bin a code stands for.")
    ] = "center",
    outside: Annotated[
        Literal["clip", "raise", "drop"], typer.Option("--outside", help="Boxes that reach out of the image.")
    ] = "clip",
    degenerate: Annotated[
        Literal["keep", "drop", "raise"], typer.Option("--degenerate", help="Boxes without width or height.")
    ] = "keep",
    min_visible: Annotated[
        float,
        typer.Option(
            "--min-visible", min=0, max=1, help="Drop boxes of which the frame shows less than this fraction."
        ),
    ] = 0.0,
    text: Annotated[
        Literal["aurora", "compact", "numeral"] | None,
        typer.Option("--text", help="Write tokens too, in this form."),
    ] = None,
    header: Annotated[
        Path | None,
        typer.Option("--header", help="For a list of results: the COCO or LVIS file that has their images."),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Encode the boxes of an annotation file to tokens."""
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
    refused = len(failures) - len(unread)
    dropped = boxes - encoded - refused
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
            help="The file that they came from: everything else in it is kept, as outlines, licences, addresses and "
            "all categories. Default: only what the records contain.",
        ),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Decode tokens to a COCO file, or to an LVIS file where they came from one."""
    from perceptok.boxes import rewrite_annotations, write_annotations

    failures: list[BoxFailure] = []
    left_out = 0
    with _open_output(output, force) as out:
        images = [record.decode() for record in _read_records(records, failures)]
        if header:
            left_out = rewrite_annotations(out, images, header)
        else:
            write_annotations(out, images)
    left = f"; {left_out} annotations of {header} have no box in the records" if left_out else ""
    note(f"{sum(len(image.boxes) for image in images)} boxes of {len(images)} images -> {output}{left}")
    finish(failures, len(images) + len(failures))


@app.command()
def draw(
    records: RecordsArgument,
    images: Annotated[Path, typer.Option("--images", exists=True, file_okay=False, help="Folder of the images.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", file_okay=False, help="Folder for PNG files, named as the images.")
    ],
    framed: Annotated[bool, typer.Option("--framed", help="Draw on the image that the model sees.")] = False,
    force: ForceOption = False,
) -> None:
    """Draw the boxes of the records on their images. Existing files are kept without --force."""
    from perceptok.boxes import BoxFailure
    from perceptok.files import resolve_inside

    failures: list[BoxFailure] = []
    to_draw = list(_read_records(records, failures))
    total = len(to_draw) + len(failures)
    drawn: set[Path] = set()
    with progress_bar("drawing", len(to_draw)) as advance:
        for record in to_draw:
            try:
                target = resolve_inside(output, record.name, suffix=".png")
                if target in drawn:
                    raise OutputError(f"{target} was already drawn for another record")
                if force or not target.exists():
                    _draw(record, resolve_inside(images, record.name), target, framed)
                drawn.add(target)
            except (PerceptokError, OSError) as error:
                failures.append(BoxFailure(record.name, str(error)))
            advance()
    note(f"{len(drawn)} images in {output}")
    finish(failures, total)


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
    """Score predicted boxes, or a model's answers, against the true ones."""
    from perceptok.boxes import read_box_predictions, read_results, score_predictions
    from perceptok.files import atomic_write

    if output and output.exists() and not force:
        raise OutputError(f"{output} exists already; replace it with --force")
    failures: list[BoxFailure] = []
    ground_truth = _read_ground_truth(truth, failures)
    with _open_predictions(predictions) as (lines, is_list):
        predicted: Iterable[BoxRecord | ImageBoxes | TextPrediction | BoxFailure]
        if is_list:
            known = [image.image for image in ground_truth.values()]
            predicted = read_results("".join(lines), predictions, known)
        else:
            predicted = read_box_predictions(lines, predictions)
        report = score_predictions(predicted, ground_truth)
    failures += report.failures
    rows = [_make_row(label or "(all)", scores) for label, scores in report.by_label.items()]
    print_table("Boxes against the truth, crowds left out", _HEADER, [*rows, _make_row("all", report.total)])
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


def _draw(record: BoxRecord, source: Path, target: Path, framed: bool) -> None:
    from perceptok.boxes import draw_record, orient_image
    from perceptok.files import atomic_write
    from perceptok.images import open_image

    image = open_image(source, apply_orientation=False)
    _, turned = orient_image(image, record.frame.image_size)
    if turned:
        note(f"{record.name}: turned as its EXIF orientation says; its boxes are of the turned image")
    elif image.getexif().get(0x0112, 1) != 1:
        note(f"{record.name}: has an EXIF orientation, but its boxes are of the image as it is stored")
    drawn = draw_record(image, record, framed=framed)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target, force=True) as file:
        drawn.save(file, format="PNG")


def _read_annotations(source: str) -> AnnotationFile:
    from perceptok.boxes import read_annotations

    annotations = read_annotations(sys.stdin if source == "-" else source, strict=False)
    for repair in annotations.repairs:
        note(f"repaired in {source}: {repair}")
    return annotations


def _read_images(source: str) -> tuple[Sequence[ImageBoxes], Sequence[BoxFailure]]:
    annotations = _read_annotations(source)
    return annotations.images, annotations.failures


def _read_results(source: str, header: Path) -> tuple[Sequence[ImageBoxes], Sequence[BoxFailure]]:
    """The boxes of a list of results, on the images of an annotation file."""
    from perceptok.boxes import ImageBoxes, read_results

    annotations = _read_annotations(str(header))
    with _open_predictions(source) as (lines, is_list):
        if not is_list:
            raise AnnotationError(f"{source}: not a list of results; --header is only for those, leave it out here")
        results = read_results("".join(lines), source, annotations.images)
    failures = [result for result in results if not isinstance(result, ImageBoxes)]
    return [result for result in results if isinstance(result, ImageBoxes)], [*annotations.failures, *failures]


def _read_records(source: str, failures: list[BoxFailure]) -> Iterator[BoxRecord]:
    """The records of JSON lines; invalid lines are added to the failures."""
    from perceptok.boxes import BoxFailure, read_box_records

    with _open_lines(source) as lines:
        for record in read_box_records(lines, source):
            if isinstance(record, BoxFailure):
                failures.append(record)
            else:
                yield record


def _read_ground_truth(source: Path, failures: list[BoxFailure]) -> dict[str, GroundTruth]:
    from perceptok.boxes import BoxFailure, GroundTruth

    images: Iterable[ImageBoxes | BoxRecord]
    if source.suffix == ".jsonl":
        images = _read_records(str(source), failures)
    else:
        images, unread = _read_images(str(source))
        failures += unread
    ground_truth: dict[str, GroundTruth] = {}
    for image in images:
        if image.name in ground_truth:
            failures.append(BoxFailure(image.name, f"repeated in {source}; the first is kept"))
        else:
            ground_truth[image.name] = GroundTruth.from_boxes(image)
    return ground_truth


@contextmanager
def _open_predictions(source: str) -> Iterator[tuple[Iterator[str], bool]]:
    """The lines of a file, and whether it is a JSON list rather than JSON lines."""
    with _open_lines(source) as lines:
        first = next(lines, "")
        yield chain([first], lines), first.removeprefix("\ufeff").lstrip().startswith("[")


@contextmanager
def _open_lines(source: str) -> Iterator[Iterator[str]]:
    if source == "-":
        yield iter(sys.stdin)
        return
    try:
        with Path(source).open(encoding="utf-8-sig") as file:
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
        # What the buffer still holds would fail once more, with a traceback, when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError(f"cannot write standard output: {error.strerror}") from error
