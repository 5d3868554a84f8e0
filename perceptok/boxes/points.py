"""Points as coordinate tokens, two codes each in the bins of a box codec, and as Molmo writes them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import escape, unescape

import numpy as np
from numpy.typing import ArrayLike

from perceptok.boxes.arrays import check_numbers
from perceptok.boxes.codec import BoxCodec
from perceptok.boxes.frames import ImageFrame
from perceptok.errors import BoxError, MalformedBoxError
from perceptok.tokens import PIXEL, TokenSet

__all__ = ["MolmoPoints", "PointCodec", "points_from_molmo", "points_to_molmo"]

_POINT = re.compile(rf"\(\s*+<{PIXEL.name}_([0-9]{{1,9}})>\s*+,\s*+<{PIXEL.name}_([0-9]{{1,9}})>\s*+\)")


@dataclass(frozen=True)
class PointCodec:
    """Points <-> codes x, y: a point takes the codes that a corner of a box there would take.

    Attributes:
        boxes: The codec whose bins, rounding, decoding and policy for what lies outside the image ("drop" drops
            points) hold for points too.
    """

    boxes: BoxCodec = field(default_factory=BoxCodec)

    def encode(
        self, points: ArrayLike, *, image_size: tuple[int, int] | None = None, frame: ImageFrame | None = None
    ) -> np.ndarray:
        """Points (N, 2) in pixels of the image -> codes (N, 2) int64, x first.

        Raises:
            BoxError: Another shape, NaN or infinity, or a point outside the image (unless such are dropped).
        """
        array = _check_pairs(points, "points")
        codes = np.asarray(self._make_corner_codec.encode(np.tile(array, 2), image_size=image_size, frame=frame))
        return codes[:, :2]

    def decode(
        self, codes: ArrayLike, *, image_size: tuple[int, int] | None = None, frame: ImageFrame | None = None
    ) -> np.ndarray:
        """Codes (N, 2) -> points (N, 2) float64 in pixels of the image; raises BoxError for invalid codes."""
        codes = _check_point_codes(codes)
        return np.asarray(self._make_corner_codec.decode(np.tile(codes, 2), image_size=image_size, frame=frame))[:, :2]

    def to_text(self, codes: ArrayLike) -> str:
        """Codes (N, 2) -> `(<PIXEL_x>,<PIXEL_y>)`, point after point.

        Args:
            codes: Integers, (N, 2), each in 0..size - 1, x first.

        Raises:
            BoxError: Another shape or type.
            MalformedBoxError: A code out of range.
        """
        array, size = _check_point_codes(codes), self.boxes.size
        if array.size and (array.min() < 0 or array.max() >= size):
            raise MalformedBoxError(f"codes are 0..{size - 1}; got {array.min()}..{array.max()}")
        tokens = TokenSet(PIXEL.name, size).tokens
        return "".join(f"({tokens[x]},{tokens[y]})" for x, y in array.tolist())

    def from_text(self, text: str, *, strict: bool = True) -> np.ndarray:
        """The inverse of `to_text`, white space between tokens allowed; codes (N, 2) int64.

        Args:
            text: Points and nothing else; with `strict=False` any text, in which the points are found.
            strict: Refuse everything that is not a point.

        Raises:
            MalformedBoxError: Strictly, anything else than points, or a code out of range; the message gives the
                position.
        """
        points, position = [], 0
        for match in _POINT.finditer(text):
            pair, between = [int(match[1]), int(match[2])], text[position : match.start()]
            valid = max(pair) < self.boxes.size and all(str(int(number)) == number for number in match.groups())
            if strict and (between.strip() or not valid):
                raise (
                    _make_unexpected_error(position, between)
                    if between.strip()
                    else _make_unexpected_error(match.start(), match[0])
                )
            position = match.end()
            if valid:
                points.append(pair)
        if strict and text[position:].strip():
            raise _make_unexpected_error(position, text[position:])
        return np.array(points, dtype=np.int64).reshape(-1, 2)

    @property
    def _make_corner_codec(self) -> BoxCodec:
        """The box codec for two corners in one place: x first, edges continuous."""
        return BoxCodec(**{**self.boxes.to_dict(), "order": "xyxy", "inclusive": False, "degenerate": "keep"})


@dataclass(frozen=True)
class MolmoPoints:
    """The points in the `<point ...>` and `<points ...>` tags of a text.

    Attributes:
        points: (N, 2) float64, fractions of the image's width and height in 0..1.
        labels: The label of each point: its tag's `alt`, else the tag's text.
        malformed: Tags without coordinates, or with some outside 0..100.
    """

    points: np.ndarray
    labels: tuple[str, ...]
    malformed: tuple[str, ...]


_TAG = re.compile(r"<points?\s([^<>]*+)>(?>(?:([^<>]*+)</points?>)?)")
_COORDINATE = re.compile(r"\b([xy])([0-9]*+)\s*+=\s*+\"\s*+([0-9.+-]++)\s*+\"")
_ALT = re.compile(r"\balt\s*+=\s*+\"([^\"]*+)\"")


def points_from_molmo(text: str) -> MolmoPoints:
    """Points of Molmo's tags in any text: `<point x="50.1" y="20.0" alt="dog">dog</point>`, percent of the image.

    Several points of one tag are numbered, `x1= y1= x2= y2=`.
    """
    points: list[list[float]] = []
    labels: list[str] = []
    malformed: list[str] = []
    for tag in _TAG.finditer(text):
        pairs: dict[str, dict[str, float]] = {}
        try:
            for axis, number, value in _COORDINATE.findall(tag[1]):
                pairs.setdefault(number, {})[axis] = float(value)
        except ValueError:
            pairs = {}
        complete = [[pair["x"] / 100, pair["y"] / 100] for pair in pairs.values() if pair.keys() == {"x", "y"}]
        inside = all(0 <= fraction <= 1 for point in complete for fraction in point)
        if not complete or len(complete) < len(pairs) or not inside:
            malformed.append(tag[0])
            continue
        alt = _ALT.search(tag[1])
        points += complete
        labels += [unescape(alt[1] if alt else tag[2] or "").strip()] * len(complete)
    return MolmoPoints(np.array(points, dtype=np.float64).reshape(-1, 2), tuple(labels), tuple(malformed))


def points_to_molmo(points: ArrayLike, label: str) -> str:
    """Points (N, 2), fractions of the image in 0..1 -> one of Molmo's tags, in tenths of a percent; "" for none.

    Raises:
        BoxError: Another shape, or a point outside the image.
    """
    array, name = _check_pairs(points, "points"), escape(label)
    if array.size and not ((array >= 0) & (array <= 1)).all():
        raise BoxError("Molmo's points are fractions of the image, 0..1; divide pixels by its width and height")
    if not len(array):
        return ""
    numbers = [""] if len(array) == 1 else [str(number) for number in range(1, len(array) + 1)]
    coordinates = " ".join(
        f'x{number}="{100 * x:.1f}" y{number}="{100 * y:.1f}"'
        for number, (x, y) in zip(numbers, array.tolist(), strict=True)
    )
    tag = "point" if len(array) == 1 else "points"
    return f'<{tag} {coordinates} alt="{name}">{name}</{tag}>'


def _check_pairs(values: ArrayLike, what: str) -> np.ndarray:
    array = np.asarray(check_numbers(values, what), dtype=np.float64)
    if array.size == 0:
        return np.zeros((0, 2))
    if array.ndim != 2 or array.shape[1] != 2 or not np.isfinite(array).all():
        raise BoxError(f"{what} are finite numbers of shape (N, 2); got {array.shape}")
    return array


def _check_point_codes(codes: ArrayLike) -> np.ndarray:
    array = _check_pairs(codes, "codes")
    if (array != np.floor(array)).any():
        raise BoxError("codes are integers; encode coordinates first")
    return array.astype(np.int64)


def _make_unexpected_error(position: int, found: str) -> MalformedBoxError:
    return MalformedBoxError(f"expected (<PIXEL_x>,<PIXEL_y>) at character {position}, found {found[:40]!r}")
