"""Points as coordinate tokens, two codes each in the bins of a box codec, and as Molmo writes them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import escape, unescape

import numpy as np
from numpy.typing import ArrayLike

from perceptok.boxes.arrays import number_array
from perceptok.boxes.codec import BoxCodec
from perceptok.boxes.frames import ImageFrame
from perceptok.errors import BoxError, MalformedBoxError
from perceptok.tokens import PIXEL, TokenSet

__all__ = ["MolmoPoints", "PointCodec", "points_from_molmo", "points_to_molmo"]

_PAIR = re.compile(rf"\(\s*+<{PIXEL.name}_([0-9]{{1,9}})>\s*+,\s*+<{PIXEL.name}_([0-9]{{1,9}})>\s*+\)")


@dataclass(frozen=True)
class PointCodec:
    """Points <-> codes x, y: a point takes the codes that a corner of a box there would take.

    Attributes:
        boxes: Whose bins, rounding, decoding and policy for what lies outside the image ("drop" drops points).
    """

    boxes: BoxCodec = field(default_factory=BoxCodec)

    def encode(
        self, points: ArrayLike, *, image_size: tuple[int, int] | None = None, frame: ImageFrame | None = None
    ) -> np.ndarray:
        """Points (N, 2) in pixels of the image -> codes (N, 2) int64, x first.

        Raises:
            BoxError: Another shape, NaN or infinity, or a point outside the image (unless such are dropped).
        """
        array = _pairs(points, "points")
        codes = np.asarray(self._plain.encode(np.tile(array, 2), image_size=image_size, frame=frame))
        return codes[:, :2]

    def decode(
        self, codes: ArrayLike, *, image_size: tuple[int, int] | None = None, frame: ImageFrame | None = None
    ) -> np.ndarray:
        """Codes (N, 2) -> points (N, 2) float64 in pixels of the image; raises BoxError for what are no codes."""
        array = _pairs(codes, "codes")
        whole = array.astype(np.int64)
        if (whole != array).any():
            raise BoxError("codes are integers; encode coordinates first")
        return np.asarray(self._plain.decode(np.tile(whole, 2), image_size=image_size, frame=frame))[:, :2]

    def to_text(self, codes: ArrayLike) -> str:
        """Codes (N, 2) -> `(<PIXEL_x>,<PIXEL_y>)`, point after point.

        Args:
            codes: Integers, (N, 2), each in 0..size - 1, x first.

        Raises:
            MalformedBoxError: A code out of range.
        """
        tokens, size = TokenSet(PIXEL.name, self.boxes.size).tokens, self.boxes.size
        array = _pairs(codes, "codes").astype(np.int64)
        if array.size and (array.min() < 0 or array.max() >= size):
            raise MalformedBoxError(f"codes are 0..{size - 1}; got {array.min()}..{array.max()}")
        return "".join(f"({tokens[x]},{tokens[y]})" for x, y in array.tolist())

    def from_text(self, text: str, *, strict: bool = True) -> np.ndarray:
        """The inverse of `to_text`, white space between tokens allowed; codes (N, 2) int64.

        Args:
            text: Points and nothing else; anything, if not `strict`: the points in it are found.
            strict: Refuse what is no point.

        Raises:
            MalformedBoxError: Strictly, anything that is no point, or a code out of range; the message says where.
        """
        found, position = [], 0
        for match in _PAIR.finditer(text):
            pair, between = [int(match[1]), int(match[2])], text[position : match.start()]
            known = max(pair) < self.boxes.size and all(str(int(one)) == one for one in match.groups())
            if strict and (between.strip() or not known):
                at, what = (position, between) if between.strip() else (match.start(), match[0])
                raise MalformedBoxError(f"expected (<PIXEL_x>,<PIXEL_y>) at character {at}, found {what[:40]!r}")
            position = match.end()
            if known:
                found.append(pair)
        if strict and text[position:].strip():
            raise MalformedBoxError(
                f"expected (<PIXEL_x>,<PIXEL_y>) at character {position}, found {text[position:][:40]!r}"
            )
        return np.array(found, dtype=np.int64).reshape(-1, 2)

    @property
    def _plain(self) -> BoxCodec:
        """The box codec for two corners in one place: written x first, edges named as they are."""
        return BoxCodec(**{**self.boxes.to_dict(), "order": "xyxy", "inclusive": False, "degenerate": "keep"})


@dataclass(frozen=True)
class MolmoPoints:
    """What `<point ...>` and `<points ...>` of a text say.

    Attributes:
        points: (N, 2) float64, shares of the image's width and height in 0..1.
        labels: What each tag says of its points (its `alt`, else its text), one for each point.
        malformed: Tags without coordinates, or with some outside 0..100.
    """

    points: np.ndarray
    labels: tuple[str, ...]
    malformed: tuple[str, ...]


_TAG = re.compile(r"<points?\s([^<>]*+)>(?:([^<>]*+)</points?>)?+")
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
        good = [[one["x"] / 100, one["y"] / 100] for one in pairs.values() if one.keys() == {"x", "y"}]
        if not good or len(good) < len(pairs) or not all(0 <= share <= 1 for one in good for share in one):
            malformed.append(tag[0])
            continue
        alt = _ALT.search(tag[1])
        points += good
        labels += [unescape(alt[1] if alt else tag[2] or "").strip()] * len(good)
    return MolmoPoints(np.array(points, dtype=np.float64).reshape(-1, 2), tuple(labels), tuple(malformed))


def points_to_molmo(shares: ArrayLike, label: str) -> str:
    """Points (N, 2), shares of the image in 0..1 -> one tag of Molmo's, in tenths of a percent; "" for none.

    Raises:
        BoxError: Another shape, or a point outside the image.
    """
    array, name = _pairs(shares, "points"), escape(label)
    if array.size and not ((array >= 0) & (array <= 1)).all():
        raise BoxError("Molmo's points are shares of the image, 0..1; divide pixels by its width and height")
    if not len(array):
        return ""
    numbers = [""] if len(array) == 1 else [str(at) for at in range(1, len(array) + 1)]
    said = " ".join(
        f'x{number}="{100 * x:.1f}" y{number}="{100 * y:.1f}"'
        for number, (x, y) in zip(numbers, array.tolist(), strict=True)
    )
    tag = "point" if len(array) == 1 else "points"
    return f'<{tag} {said} alt="{name}">{name}</{tag}>'


def _pairs(values: ArrayLike, what: str) -> np.ndarray:
    array = np.asarray(number_array(values, what), dtype=np.float64)
    if array.size == 0:
        return np.zeros((0, 2))
    if array.ndim != 2 or array.shape[1] != 2 or not np.isfinite(array).all():
        raise BoxError(f"{what} are finite numbers of shape (N, 2); got {array.shape}")
    return array
