"""What can still be seen in a block that is none: every code in its place, and what is missing or strange, by name.

For looking at a model's answers only; everything else in the library takes whole blocks or refuses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from perceptok.errors import MalformedBlockError
from perceptok.tokens import DEPTH, DEPTH_GRID

__all__ = ["SalvagedBlock", "salvage_blocks"]

_CELLS = DEPTH_GRID[0] * DEPTH_GRID[1]
_PIECE = re.compile(r"<[^<>\s]*>?")
_NUMBERS = re.compile(r"[\s\[\](){},;:]*(?:[-+]?\d+[\s\[\](){},;:]*)+")


@dataclass(frozen=True, eq=False)
class SalvagedBlock:
    """The codes of a block as far as there are any.

    Attributes:
        codes: (10, 10) int64, row-major; -1 where a code is missing or strange.
        problems: What is wrong, in words; empty for a whole block.
    """

    codes: np.ndarray
    problems: tuple[str, ...]

    @property
    def missing(self) -> np.ndarray:
        """(10, 10) bool, True where there is no code."""
        return np.asarray(self.codes < 0)


def salvage_blocks(text: str) -> list[SalvagedBlock]:
    """Every depth block in a text, whole or not, in order; or one block of plain integers.

    A block goes from its start token to its end token, the next start or the end of the text. Each token in it, strange
    ones too, takes the next of the 100 places; words between tokens take none.

    Args:
        text: A model's answer, a block, or nothing but integers between spaces, commas and brackets.

    Raises:
        MalformedBlockError: There is no depth token, and the text is not a list of integers.
    """
    if _NUMBERS.fullmatch(text):
        return [_of_places(re.findall(r"[-+]?\d+", text), "number", [])]
    if f"<{DEPTH.name}_" not in text:
        shown = text.strip()[:40]
        raise MalformedBlockError(
            f"no depth tokens in {shown!r}; expected {DEPTH.start}, {_CELLS} codes, {DEPTH.end}, or {_CELLS} integers"
        )
    if DEPTH.start not in text:
        found = [match for match in _PIECE.finditer(text) if match[0].startswith(f"<{DEPTH.name}_")]
        stretch = text[found[0].start() : found[-1].end()]
        return [_of_stretch(stretch, [f"the block does not begin with {DEPTH.start}"])]
    stretches = text.split(DEPTH.start)[1:]
    return [_of_stretch(stretch, []) for stretch in stretches]


def _of_stretch(stretch: str, problems: list[str]) -> SalvagedBlock:
    inside, end, _ = stretch.partition(DEPTH.end)
    pieces = _PIECE.findall(inside)
    if not end:
        problems = [*problems, f"the block does not end with {DEPTH.end}"]
        # Without its end the rest of the answer would count as strange tokens.
        last = max((place for place, piece in enumerate(pieces) if piece.startswith(f"<{DEPTH.name}_")), default=-1)
        pieces = pieces[: last + 1]
        inside = inside[: max((match.end() for match in _PIECE.finditer(inside) if match[0] in pieces), default=0)]
    if words := [word for word in _PIECE.sub(" ", inside).split() if word]:
        problems = [*problems, f"{_many(len(words), 'word')} between the codes, such as {words[0][:20]!r}"]
    return _of_places(pieces, "token", problems)


def _of_places(pieces: list[str], what: str, problems: list[str]) -> SalvagedBlock:
    codes = np.full(_CELLS, -1, dtype=np.int64)
    strange: list[str] = []
    for place, piece in enumerate(pieces[:_CELLS]):
        code = DEPTH.codes.get(piece if what == "token" else DEPTH.token(int(piece)) if _is_code(piece) else "")
        if code is None:
            strange.append(f"{piece[:20]} at place {place} (row {place // 10}, column {place % 10})")
        else:
            codes[place] = code
    if strange:
        more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
        verb = "is" if len(strange) == 1 else "are"
        listed = "; ".join(strange[:5]) + more
        problems = [*problems, f"{_many(len(strange), what)} that {verb} no code: {listed}"]
    if len(pieces) < _CELLS:
        problems = [*problems, f"{len(pieces)} codes instead of {_CELLS}: the last {_CELLS - len(pieces)} are missing"]
    if len(pieces) > _CELLS:
        problems = [
            *problems,
            f"{len(pieces)} codes instead of {_CELLS}: the last {len(pieces) - _CELLS} are not shown",
        ]
    return SalvagedBlock(codes.reshape(DEPTH_GRID), tuple(problems))


def _is_code(number: str) -> bool:
    # By its length first: int() takes no number of a hundred thousand digits.
    return len(number) <= 8 and 0 <= int(number) < DEPTH.size


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
