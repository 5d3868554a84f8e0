"""Lines of answers as a page to look at: each image with its evidence, its depth map and what was said."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from perceptok.boxes.frames.geometry import ImageFrame
from perceptok.errors import InferenceError
from perceptok.evaluation.report.cases import Case, Table
from perceptok.evaluation.report.page import write_page
from perceptok.llava.inference.geometry import depth_of_image
from perceptok.llava.inference.pictures import open_picture

if TYPE_CHECKING:
    from perceptok.depth.codec import DepthCodec

__all__ = ["case_of_line", "write_answer_page"]

_SIDE = 1280
"""Longest side of a picture on the page."""


def write_answer_page(
    path: Path, lines: Iterable[Mapping[str, Any]], codec: DepthCodec, *, title: str, force: bool = False
) -> int:
    """Write the page of answers, as `answer_files` wrote them; returns how many cases it has.

    Raises:
        InferenceError: There are no answers; a line is none; or its codes are another codec's.
        OutputError: The page exists, or cannot be written.
    """
    known = list(lines)
    if not known:
        raise InferenceError(f"{path}: there are no answers to show")
    return write_page(path, _cases(known, codec), title=title, tables=[_summary(known)], force=force)


def case_of_line(line: Mapping[str, Any], codec: DepthCodec) -> Case:
    """One line as a case; an image that is no longer there is left out.

    Raises:
        InferenceError: The line is no answer, or its codes are another codec's.
    """
    try:
        frame = ImageFrame.from_dict(line["frame"])
        if line["codes"] is not None and line["codec"] != codec.fingerprint:
            raise InferenceError(
                f"{line['name']}: its codes are of the codec {line['codec']}, this one is {codec.fingerprint}"
            )
        depth = None
        if line["codes"] is not None:
            found = depth_of_image(codec.decode(np.reshape(line["codes"], (10, 10)))[0], frame)
            depth = np.where(found.valid, found.values, np.float32(np.nan))
        markers = {one["letter"]: (one["x"], one["y"]) for one in [*line["points"], *line["markers"]]}
        return Case(
            line["name"],
            _picture(line.get("image", "")),
            text=line["text"],
            prompt=line["question"],
            markers=[(letter, x, y) for letter, (x, y) in markers.items()],
            boxes=line["boxes"],
            box_labels=line["labels"],
            frame=frame.image_size,
            codes=line["codes"],
            depth=depth,
            verdict=None if line["valid"] else "invalid",
            facts={
                "answer": line["answer"],
                "tokens": line["tokens"],
                "constrained": line["constrained"],
                "problems": "; ".join(line["problems"]),
            },
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InferenceError(f"a line is no answer of perceptok llava infer (it lacks {error})") from error


def _cases(lines: Iterable[Mapping[str, Any]], codec: DepthCodec) -> Iterator[Case]:
    for line in lines:
        yield case_of_line(line, codec)


def _picture(path: str) -> bytes | None:
    """The image as a person sees it, turned and scaled; None where it cannot be read any more."""
    try:
        image = open_picture(path)
    except InferenceError:
        return None
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


def _summary(lines: list[Mapping[str, Any]]) -> Table:
    count = len(lines)
    rows = [
        ["answers", str(count)],
        ["nothing wrong", f"{sum(line['valid'] for line in lines)}"],
        ["with a depth map", f"{sum(line['codes'] is not None for line in lines)}"],
        ["boxes", str(sum(len(line["boxes"]) for line in lines))],
        ["tokens of an answer, mean", f"{sum(line['tokens'] for line in lines) / count:.0f}"],
    ]
    return Table("Answers", ["", ""], rows, note="invalid marks answers with something malformed, missing or cut off.")
