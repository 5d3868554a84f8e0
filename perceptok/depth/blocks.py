"""Surface forms of one grid of codes: a block of text, and 88 bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from perceptok.errors import MalformedBlockError
from perceptok.tokens import DEPTH, DEPTH_GRID

__all__ = [
    "BLOCK_BYTES",
    "SalvagedBlock",
    "block_from_bytes",
    "block_from_text",
    "block_to_bytes",
    "block_to_text",
    "checked_codes",
    "salvage_blocks",
]


# What can still be seen in a block that is none: every code in its place, and what is missing or strange, by name.
#
# For looking at a model's answers only; everything else in the library takes whole blocks or refuses.


_CELLS_salvage = DEPTH_GRID[0] * DEPTH_GRID[1]
_PIECE_salvage = re.compile(r"<[^<>\s]*>?")
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
            f"no depth tokens in {shown!r}; expected {DEPTH.start}, {_CELLS_salvage} codes, {DEPTH.end}, or {_CELLS_salvage} integers"
        )
    if DEPTH.start not in text:
        found = [match for match in _PIECE_salvage.finditer(text) if match[0].startswith(f"<{DEPTH.name}_")]
        stretch = text[found[0].start() : found[-1].end()]
        return [_of_stretch(stretch, [f"the block does not begin with {DEPTH.start}"])]
    stretches = text.split(DEPTH.start)[1:]
    return [_of_stretch(stretch, []) for stretch in stretches]


def _of_stretch(stretch: str, problems: list[str]) -> SalvagedBlock:
    inside, end, _ = stretch.partition(DEPTH.end)
    pieces = _PIECE_salvage.findall(inside)
    if not end:
        problems = [*problems, f"the block does not end with {DEPTH.end}"]
        # Without its end the rest of the answer would count as strange tokens.
        last = max((place for place, piece in enumerate(pieces) if piece.startswith(f"<{DEPTH.name}_")), default=-1)
        pieces = pieces[: last + 1]
        inside = inside[
            : max((match.end() for match in _PIECE_salvage.finditer(inside) if match[0] in pieces), default=0)
        ]
    if words := [word for word in _PIECE_salvage.sub(" ", inside).split() if word]:
        problems = [*problems, f"{_many(len(words), 'word')} between the codes, such as {words[0][:20]!r}"]
    return _of_places(pieces, "token", problems)


def _of_places(pieces: list[str], what: str, problems: list[str]) -> SalvagedBlock:
    codes = np.full(_CELLS_salvage, -1, dtype=np.int64)
    strange: list[str] = []
    for place, piece in enumerate(pieces[:_CELLS_salvage]):
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
    if len(pieces) < _CELLS_salvage:
        problems = [
            *problems,
            f"{len(pieces)} codes instead of {_CELLS_salvage}: the last {_CELLS_salvage - len(pieces)} are missing",
        ]
    if len(pieces) > _CELLS_salvage:
        problems = [
            *problems,
            f"{len(pieces)} codes instead of {_CELLS_salvage}: the last {len(pieces) - _CELLS_salvage} are not shown",
        ]
    return SalvagedBlock(codes.reshape(DEPTH_GRID), tuple(problems))


def _is_code(number: str) -> bool:
    # By its length first: int() takes no number of a hundred thousand digits.
    return len(number) <= 8 and 0 <= int(number) < DEPTH.size


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


_CELLS = DEPTH_GRID[0] * DEPTH_GRID[1]
_BITS = (DEPTH.size - 1).bit_length()

BLOCK_BYTES = -(-_CELLS * _BITS // 8)
"""Length of the compact form: 100 codes of 7 bits in 88 bytes."""

_BLOCK = re.compile(f"{DEPTH.start}((?:<{DEPTH.name}_[0-9]+>){{{_CELLS}}}){DEPTH.end}")
_SPACE = re.compile(r"(?:^|(?<=>))\s+(?=<|$)")
"""White space between tokens and around them, which decoding with some tokenizers puts there."""
_PIECE = re.compile(r"\s*(<[A-Za-z0-9_]*>?|[^<\s]+|)")
_TOKENS = np.array([DEPTH.token(code) for code in range(DEPTH.size)], dtype=object)


def checked_codes(codes: ArrayLike) -> np.ndarray:
    """Codes as int64 of shape (10, 10) or (B, 10, 10); raises MalformedBlockError for anything else."""
    try:
        array = np.asarray(codes)
    except ValueError as error:
        raise MalformedBlockError(
            f"codes have shape (10, 10) or (B, 10, 10); got no regular array ({error})"
        ) from error
    if array.ndim not in (2, 3) or array.shape[-2:] != DEPTH_GRID:
        raise MalformedBlockError(f"codes have shape (10, 10) or (B, 10, 10); got {array.shape}")
    if array.dtype.kind not in "iu":
        raise MalformedBlockError(f"codes are integers; got {array.dtype}")
    outside = (array < 0) | (array >= DEPTH.size)
    if outside.any():
        place = tuple(int(index) for index in np.argwhere(outside)[0])
        raise MalformedBlockError(f"codes are 0..{DEPTH.size - 1}; found {array[place]} at {place}")
    return array.astype(np.int64)


def block_to_text(codes: ArrayLike) -> str:
    """One grid of codes (10, 10) -> `<DEPTH_START>`, 100 code tokens in row-major order, `<DEPTH_END>`.

    Raises:
        MalformedBlockError: Another shape, or a code outside 0..127.
    """
    return DEPTH.start + "".join(_TOKENS[_one_grid(codes).ravel()]) + DEPTH.end


def block_from_text(text: str) -> np.ndarray:
    """The inverse of `block_to_text`: the text must be one block and nothing else but white space between its tokens.

    Returns:
        Codes (10, 10) int64.

    Raises:
        MalformedBlockError: The message gives the character position, what was expected there and what was found.
    """
    match = _BLOCK.fullmatch(text) or _BLOCK.fullmatch(_SPACE.sub("", text))
    if match is None:
        raise _explained(text)
    pieces = match.group(1)[1:-1].split("><")
    codes = [DEPTH.codes.get(f"<{piece}>", -1) for piece in pieces]
    if -1 in codes:
        raise _explained(text)
    return np.array(codes, dtype=np.int64).reshape(DEPTH_GRID)


def block_to_bytes(codes: ArrayLike) -> bytes:
    """One grid of codes (10, 10) -> 88 bytes: 7 bits a code, most significant first, row-major, then 4 zero bits."""
    shifts = np.arange(_BITS - 1, -1, -1)
    bits = (_one_grid(codes).ravel()[:, None] >> shifts) & 1
    return np.packbits(bits.astype(np.uint8)).tobytes()


def block_from_bytes(data: bytes) -> np.ndarray:
    """The exact inverse of `block_to_bytes`; raises MalformedBlockError for another length or non-zero padding."""
    if len(data) != BLOCK_BYTES:
        raise MalformedBlockError(f"a compact block has {BLOCK_BYTES} bytes; got {len(data)}")
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
    if bits[_CELLS * _BITS :].any():
        raise MalformedBlockError("the last 4 bits of a compact block are zero; these are not: the bytes are no block")
    weights = 1 << np.arange(_BITS - 1, -1, -1)
    return (bits[: _CELLS * _BITS].reshape(_CELLS, _BITS) @ weights).astype(np.int64).reshape(DEPTH_GRID)


def _one_grid(codes: ArrayLike) -> np.ndarray:
    array = checked_codes(codes)
    if array.ndim != 2:
        raise MalformedBlockError(f"one block holds codes of shape (10, 10); got {array.shape}: pass them one by one")
    return array


def _explained(text: str) -> MalformedBlockError:
    """What is wrong with a text that is no block: the first piece that does not belong where it stands."""
    position = 0
    for index in range(_CELLS + 2):
        expected = DEPTH.start if index == 0 else DEPTH.end if index == _CELLS + 1 else "a code token"
        piece = _PIECE.match(text, position)
        assert piece is not None
        position, found = piece.start(1), piece.group(1)
        if (found not in DEPTH.codes) if expected == "a code token" else (found != expected):
            shown = repr(found if len(found) <= 40 else found[:37] + "...") if found else "the end of the text"
            read = f" after {index - 1} of {_CELLS} codes" if index else ""
            reason = ""
            if found.startswith(f"<{DEPTH.name}_") and found[len(DEPTH.name) + 2 : -1].isdecimal():
                reason = f" (codes are 0..{DEPTH.size - 1}, one spelling each)" if found not in DEPTH.codes else ""
            return MalformedBlockError(
                f"not a depth block: expected {expected} at character {position}{read}, found {shown}{reason}"
            )
        position += len(found)
    position += len(text[position:]) - len(text[position:].lstrip())
    return MalformedBlockError(
        f"not a depth block: expected the end of the text at character {position}, found {text[position:][:40]!r}"
    )
