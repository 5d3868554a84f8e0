"""Boxes between the spellings of several models, each conversion with a bound on its error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike

from perceptok.boxes.arrays import upside_down
from perceptok.boxes.text.foreign import ParsedSpelling, Scheme, Size, parse_spelling
from perceptok.boxes.text.forms import Form
from perceptok.boxes.text.parsing import MalformedPiece
from perceptok.boxes.text.spellings import (
    Labels,
    Said,
    as_codes,
    read_florence2,
    read_form,
    read_kosmos2,
    read_paligemma,
    read_qwen,
    write_florence2,
    write_form,
    write_kosmos2,
    write_paligemma,
    write_qwen,
)
from perceptok.errors import BoxError, MalformedBoxError
from perceptok.tokens import PIXEL

__all__ = ["Conversion", "Scheme", "convert"]

_CELLS = 32
"""Patches along a side of Kosmos-2."""


@dataclass(frozen=True)
class Conversion:
    """Boxes in another model's spelling.

    Attributes:
        text: As the target writes them.
        codes: The target's own numbers in its own order, int64: (N, 4), for Kosmos-2 (N, 2) patch indices.
        labels: One for each box, "" where the source has none.
        added: No coordinate that the target's text says is farther than this from what the source's text says, as a
            fraction of the image's (width, height).
        total: The same from the box that the source's writer had in mind: the source's own quantisation included.
        malformed: What in the source's text was no box, where it was not read strictly.
        repaired: What was read as a box with something small put right, likewise.
    """

    text: str
    codes: np.ndarray
    labels: Labels
    added: tuple[float, float]
    total: tuple[float, float]
    malformed: tuple[MalformedPiece, ...] = ()
    repaired: tuple[MalformedPiece, ...] = ()


def convert(
    boxes: str | ArrayLike,
    *,
    source: Scheme,
    target: Scheme,
    labels: Sequence[str] | None = None,
    image_size: Size | None = None,
    strict: bool = True,
) -> Conversion:
    """Boxes from one model's spelling to another's.

    Every scheme but Qwen's divides the image, squashed to a square, into bins, and reads as follows; `added` is half a
    bin of the target (Kosmos-2: a whole patch), `total` that and as much of the source.

    - "aurora", "compact", "numeral": the forms of `boxes_to_text`; 336 bins, read at their centres.
    - "paligemma": `<loc0000>`, y first; 1024 points from edge to edge, 1/1023 apart (big_vision).
    - "florence2": `<loc_0>`; 1000 bins, read at their centres.
    - "kosmos2": two of 32x32 patches, top left and bottom right, read as `patch_index_to_coordinate` does: their
      centres (then 1/64), or their outer edges where they share a row or column.
    - "qwen": JSON, `{"bbox_2d": [x1, y1, x2, y2], "label": ...}`, whole pixels of the image that the model saw, which
      is seldom the original: `ImageFrame.smart_resize(size).shape`, or (1000, 1000) for Qwen3-VL, which writes
      thousandths.

    Args:
        boxes: Text of boxes and nothing else, labelled or not, or the codes in the source's own order. Numbered boxes
            ("Bounding box 1") and a label of null have no label.
        source: What they are.
        target: What they become.
        labels: One for each of the codes; a text brings its own.
        image_size: Width and height in pixels; Qwen only.
        strict: Without it, the text may be anything a model wrote: the boxes that `parse_spelling` finds in it are
            converted, and what it found wrong is in `malformed` and `repaired`.

    Raises:
        MalformedBoxError: The text or the codes are not the source's, or the target cannot hold a label.
        BoxError: Qwen without a valid image size.
        ValueError: Another scheme.
    """
    reader, writer = _scheme(source), _scheme(target)
    if "qwen" in (source, target) and (image_size is None or min(image_size) < 1):
        raise BoxError(f"Qwen's boxes are pixels: give image_size=(width, height) of at least 1; got {image_size}")
    if isinstance(boxes, str):
        if labels is not None:
            raise MalformedBoxError("a text has its own labels; give labels with codes only")
        parsed = None if strict else parse_spelling(boxes, source, image_size=image_size)
        read = reader.read(boxes) if parsed is None else Said(parsed.codes, parsed.labels)
    else:
        parsed = None
        array = as_codes(boxes, 2 if source == "kosmos2" else 4)
        read = Said(array, tuple(labels) if labels is not None else ("",) * len(array))
        if len(read.labels) != len(array):
            raise MalformedBoxError(f"expected a label for each of {len(array)} boxes; got {len(read.labels)}")
    fractions = reader.to_fractions(read.codes, image_size)
    codes = writer.from_fractions(fractions, image_size)
    added, own = writer.error(image_size), reader.error(image_size)
    total = (added[0] + own[0], added[1] + own[1])
    text, wrong = writer.write(codes, read.labels), parsed or _NOTHING
    return Conversion(text, codes, read.labels, added, total, wrong.malformed, wrong.repaired)


_NOTHING = ParsedSpelling(np.zeros((0, 4), dtype=np.int64), (), np.zeros((0, 2), dtype=np.int64), ())


class _Model(NamedTuple):
    """One scheme; fractions are (N, 4) float64, x1, y1, x2, y2 in 0..1."""

    read: Callable[[str], Said]
    write: Callable[[np.ndarray, Labels], str]
    to_fractions: Callable[[np.ndarray, Size | None], np.ndarray]
    from_fractions: Callable[[np.ndarray, Size | None], np.ndarray]
    error: Callable[[Size | None], tuple[float, float]]


def _scheme(name: Scheme) -> _Model:
    if name not in get_args(Scheme):
        raise ValueError(f"schemes are {', '.join(get_args(Scheme))}; got {name!r}")
    return _SCHEMES[name]


def _in_range(codes: np.ndarray, highest: ArrayLike) -> None:
    outside = (codes < 0) | (codes > np.asarray(highest))
    if outside.any():
        row, column = (int(index) for index in np.argwhere(outside)[0])
        limit = np.broadcast_to(highest, codes.shape)[row, column]
        raise MalformedBoxError(f"box {row}: {codes[row, column]} is outside 0..{limit}")


def _upright(boxes: np.ndarray) -> None:
    turned = upside_down(boxes)
    if turned is not None:
        raise MalformedBoxError(f"box {turned} has its far edge before its near one")


def _from_bins(codes: np.ndarray, _: Size | None, bins: int) -> np.ndarray:
    _in_range(codes, bins - 1)
    _upright(codes)
    return (codes.astype(np.float64) + 0.5) / bins


def _to_bins(fractions: np.ndarray, _: Size | None, bins: int) -> np.ndarray:
    codes: np.ndarray = np.floor(fractions * bins).astype(np.int64)
    return codes.clip(max=bins - 1)


def _half(_: Size | None, steps: int) -> tuple[float, float]:
    return (0.5 / steps, 0.5 / steps)


def _form(form: Form) -> _Model:
    bins = PIXEL.size
    return _Model(
        read_form,
        partial(write_form, form=form),
        partial(_from_bins, bins=bins),
        partial(_to_bins, bins=bins),
        partial(_half, steps=bins),
    )


_LOC_STEPS = 1023


def _from_locs(codes: np.ndarray, _: Size | None) -> np.ndarray:
    _in_range(codes, _LOC_STEPS)
    _upright(codes)
    return codes[:, [1, 0, 3, 2]].astype(np.float64) / _LOC_STEPS


def _to_locs(fractions: np.ndarray, _: Size | None) -> np.ndarray:
    return np.floor(fractions[:, [1, 0, 3, 2]] * _LOC_STEPS + 0.5).astype(np.int64)


_FLORENCE_BINS = 1000


def _from_patches(codes: np.ndarray, _: Size | None) -> np.ndarray:
    _in_range(codes, _CELLS**2 - 1)
    near = np.stack([codes[:, 0] % _CELLS, codes[:, 0] // _CELLS], axis=1)
    far = np.stack([codes[:, 1] % _CELLS, codes[:, 1] // _CELLS], axis=1)
    _upright(np.concatenate([near, far], axis=1))
    narrow = (near == far).any(axis=1, keepdims=True)
    inset = np.where(narrow, 0.0, 0.5)
    fractions: np.ndarray = np.concatenate([near + inset, far + 1 - inset], axis=1) / _CELLS
    return fractions


def _to_patches(fractions: np.ndarray, _: Size | None) -> np.ndarray:
    near = np.minimum(np.floor(fractions[:, :2] * _CELLS), _CELLS - 1).astype(np.int64)
    # A box without width that lies on the border of two patches would end before it begins.
    far = np.maximum(np.ceil(fractions[:, 2:] * _CELLS - 1).astype(np.int64), near)
    return np.stack([near[:, 1] * _CELLS + near[:, 0], far[:, 1] * _CELLS + far[:, 0]], axis=1)


def _from_pixels(codes: np.ndarray, size: Size | None) -> np.ndarray:
    assert size is not None
    _in_range(codes, (*size, *size))
    _upright(codes)
    fractions: np.ndarray = codes / np.array([*size, *size])
    return fractions


def _to_pixels(fractions: np.ndarray, size: Size | None) -> np.ndarray:
    assert size is not None
    codes: np.ndarray = np.floor(fractions * np.array([*size, *size]) + 0.5).astype(np.int64)
    return codes


def _half_pixel(size: Size | None) -> tuple[float, float]:
    assert size is not None
    return (0.5 / size[0], 0.5 / size[1])


_SCHEMES: dict[Scheme, _Model] = {
    "aurora": _form("aurora"),
    "compact": _form("compact"),
    "numeral": _form("numeral"),
    "paligemma": _Model(read_paligemma, write_paligemma, _from_locs, _to_locs, partial(_half, steps=_LOC_STEPS)),
    "florence2": _Model(
        read_florence2,
        write_florence2,
        partial(_from_bins, bins=_FLORENCE_BINS),
        partial(_to_bins, bins=_FLORENCE_BINS),
        partial(_half, steps=_FLORENCE_BINS),
    ),
    "kosmos2": _Model(read_kosmos2, write_kosmos2, _from_patches, _to_patches, lambda _: (1 / _CELLS, 1 / _CELLS)),
    "qwen": _Model(read_qwen, write_qwen, _from_pixels, _to_pixels, _half_pixel),
}
