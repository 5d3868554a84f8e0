"""Forms of one grid of codes: a block of text, 88 bytes, and what can be recovered from a malformed block."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from perceptok.errors import MalformedBlockError
from perceptok.tokens import DEPTH, DEPTH_GRID

__all__ = [
    "BLOCK_BYTES",
    "RecoveredBlock",
    "block_from_bytes",
    "block_from_text",
    "block_to_bytes",
    "block_to_text",
    "recover_blocks",
    "validate_codes",
]

_CELLS = DEPTH_GRID[0] * DEPTH_GRID[1]
_BITS = (DEPTH.size - 1).bit_length()

BLOCK_BYTES = -(-_CELLS * _BITS // 8)
"""Length of the compact form: 100 codes of 7 bits in 88 bytes."""

_BLOCK = re.compile(f"{DEPTH.start}((?:<{DEPTH.name}_[0-9]+>){{{_CELLS}}}){DEPTH.end}")
_SPACE = re.compile(r"(?:^|(?<=>))\s+(?=<|$)")
"""White space between tokens and around them, which decoding with some tokenizers inserts."""
_PIECE = re.compile(r"\s*(<[A-Za-z0-9_]*>?|[^<\s]+|)")
_TOKENS = np.array([DEPTH.token(code) for code in range(DEPTH.size)], dtype=object)

_ANY_TOKEN = re.compile(r"<[^<>\s]*>?")
_INTEGERS = re.compile(r"[\s\[\](){},;:]*+(?>(?:[-+]?\d++[\s\[\](){},;:]*+)+)")


def validate_codes(codes: ArrayLike) -> np.ndarray:
    """Copy codes to int64 of shape (10, 10) or (B, 10, 10); raises MalformedBlockError for anything else."""
    try:
        array = np.asarray(codes)
    except ValueError as error:
        raise MalformedBlockError(
            f"codes have shape (10, 10) or (B, 10, 10); the rows given differ in length ({error})"
        ) from error
    if array.ndim not in (2, 3) or array.shape[-2:] != DEPTH_GRID:
        raise MalformedBlockError(f"codes have shape (10, 10) or (B, 10, 10); got {array.shape}")
    if array.dtype.kind not in "iu":
        raise MalformedBlockError(f"codes are integers; got {array.dtype}")
    outside = (array < 0) | (array >= DEPTH.size)
    if outside.any():
        position = tuple(int(index) for index in np.argwhere(outside)[0])
        raise MalformedBlockError(f"codes are 0..{DEPTH.size - 1}; found {array[position]} at {position}")
    return array.astype(np.int64)


def block_to_text(codes: ArrayLike) -> str:
    """Write codes (10, 10) as `<DEPTH_START>`, 100 code tokens in row-major order, `<DEPTH_END>`.

    Raises:
        MalformedBlockError: Another shape, or a code outside 0..127.
    """
    return DEPTH.start + "".join(_TOKENS[_validate_grid(codes).ravel()]) + DEPTH.end


def block_from_text(text: str) -> np.ndarray:
    """Parse one block, the inverse of `block_to_text`; white space between tokens and around the block is ignored.

    Returns:
        Codes (10, 10) int64 in 0..127.

    Raises:
        MalformedBlockError: The text is anything else. The message gives the character position, what was expected
            there and what was found.
    """
    match = _BLOCK.fullmatch(text) or _BLOCK.fullmatch(_SPACE.sub("", text))
    if match is None:
        raise _explain_malformed(text)
    names = match.group(1)[1:-1].split("><")
    codes = [DEPTH.codes.get(f"<{name}>", -1) for name in names]
    if -1 in codes:
        raise _explain_malformed(text)
    return np.array(codes, dtype=np.int64).reshape(DEPTH_GRID)


def block_to_bytes(codes: ArrayLike) -> bytes:
    """Pack codes (10, 10) into 88 bytes: 7 bits a code, most significant first, row-major, then 4 zero bits.

    Raises:
        MalformedBlockError: Another shape, or a code outside 0..127.
    """
    shifts = np.arange(_BITS - 1, -1, -1)
    bits = (_validate_grid(codes).ravel()[:, None] >> shifts) & 1
    return np.packbits(bits.astype(np.uint8)).tobytes()


def block_from_bytes(data: bytes) -> np.ndarray:
    """Unpack codes (10, 10) int64 in 0..127, the inverse of `block_to_bytes`.

    Raises:
        MalformedBlockError: Another length, or padding that is not zero.
    """
    if len(data) != BLOCK_BYTES:
        raise MalformedBlockError(f"a compact block has {BLOCK_BYTES} bytes; got {len(data)}")
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
    if bits[_CELLS * _BITS :].any():
        raise MalformedBlockError("the last 4 bits of a compact block must be zero; these bytes are not a block")
    weights = 1 << np.arange(_BITS - 1, -1, -1)
    return (bits[: _CELLS * _BITS].reshape(_CELLS, _BITS) @ weights).astype(np.int64).reshape(DEPTH_GRID)


def _validate_grid(codes: ArrayLike) -> np.ndarray:
    array = validate_codes(codes)
    if array.ndim != 2:
        raise MalformedBlockError(f"one block holds codes of shape (10, 10); got {array.shape}: pass them one by one")
    return array


def _explain_malformed(text: str) -> MalformedBlockError:
    """The error for a malformed block: the first token that is not the expected one."""
    position = 0
    for index in range(_CELLS + 2):
        expected = DEPTH.start if index == 0 else DEPTH.end if index == _CELLS + 1 else "a code token"
        match = _PIECE.match(text, position)
        assert match is not None
        position, found = match.start(1), match.group(1)
        if (found not in DEPTH.codes) if expected == "a code token" else (found != expected):
            quoted = repr(found if len(found) <= 40 else found[:37] + "...") if found else "the end of the text"
            progress = f" after {index - 1} of {_CELLS} codes" if index else ""
            hint = ""
            if found.startswith(f"<{DEPTH.name}_") and found[len(DEPTH.name) + 2 : -1].isdecimal():
                hint = f" (codes are 0..{DEPTH.size - 1}, one spelling each)" if found not in DEPTH.codes else ""
            return MalformedBlockError(
                f"not a depth block: expected {expected} at character {position}{progress}, found {quoted}{hint}"
            )
        position += len(found)
    position += len(text[position:]) - len(text[position:].lstrip())
    return MalformedBlockError(
        f"not a depth block: expected the end of the text at character {position}, found {text[position:][:40]!r}"
    )


@dataclass(frozen=True, eq=False)
class RecoveredBlock:
    """The codes that can be recovered from a block, well-formed or not.

    Attributes:
        codes: (10, 10) int64, row-major; -1 where a code is missing or invalid.
        problems: What is wrong with the block; empty for a well-formed one.
    """

    codes: np.ndarray
    problems: tuple[str, ...]

    @property
    def missing(self) -> np.ndarray:
        """(10, 10) bool, True where a code is missing or invalid."""
        return np.asarray(self.codes < 0)


def recover_blocks(text: str) -> list[RecoveredBlock]:
    """Recover the codes of every depth block in a text, well-formed or not, in order.

    For looking at a model's answers; everything else in the library raises on malformed blocks. A block extends from
    its start token to its end token, the next start token or the end of the text. Each token in it, also an invalid
    one, fills the next of the 100 cells; words between tokens fill none.

    Args:
        text: A model's answer, a block, or nothing but integers separated by spaces, commas and brackets.

    Raises:
        MalformedBlockError: The text has no depth token and is not a list of integers.
    """
    if _INTEGERS.fullmatch(text):
        integers = re.findall(r"[-+]?\d+", text)
        # By length first: int() refuses numbers of thousands of digits.
        codes = [int(number) if len(number) <= 8 and 0 <= int(number) < DEPTH.size else -1 for number in integers]
        return [_fill_grid(integers, codes, "number", [])]
    if f"<{DEPTH.name}_" not in text:
        raise MalformedBlockError(
            f"no depth tokens in {text.strip()[:40]!r}; expected {DEPTH.start}, {_CELLS} codes, {DEPTH.end}, or "
            f"{_CELLS} integers"
        )
    if DEPTH.start in text:
        return [_recover_block(body, []) for body in text.split(DEPTH.start)[1:]]
    tokens = [match for match in _ANY_TOKEN.finditer(text) if match[0].startswith(f"<{DEPTH.name}_")]
    body = text[tokens[0].start() : tokens[-1].end()]
    return [_recover_block(body, [f"the block does not begin with {DEPTH.start}"])]


def _recover_block(body: str, problems: list[str]) -> RecoveredBlock:
    """Recover a block from the text that follows its start token."""
    inside, end, _ = body.partition(DEPTH.end)
    matches = list(_ANY_TOKEN.finditer(inside))
    if not end:
        problems = [*problems, f"the block does not end with {DEPTH.end}"]
        # What follows the last depth token is the rest of the answer, not invalid codes.
        while matches and not matches[-1][0].startswith(f"<{DEPTH.name}_"):
            matches.pop()
        inside = inside[: matches[-1].end()] if matches else ""
    if words := _ANY_TOKEN.sub(" ", inside).split():
        problems = [*problems, f"{_format_count(len(words), 'word')} between the codes, such as {words[0][:20]!r}"]
    tokens = [match[0] for match in matches]
    return _fill_grid(tokens, [DEPTH.codes.get(token, -1) for token in tokens], "token", problems)


def _fill_grid(found: list[str], codes: list[int], what: str, problems: list[str]) -> RecoveredBlock:
    """A block of the codes found, -1 for those that are not valid, with the problems that they show."""
    grid = np.full(_CELLS, -1, dtype=np.int64)
    grid[: len(codes)] = codes[:_CELLS]
    invalid = [
        f"{text[:20]} at place {place} (row {place // 10}, column {place % 10})"
        for place, (text, code) in enumerate(zip(found[:_CELLS], codes, strict=False))
        if code < 0
    ]
    if invalid:
        more = f" and {len(invalid) - 5} more" if len(invalid) > 5 else ""
        verb = "is not a code" if len(invalid) == 1 else "are not codes"
        problems = [*problems, f"{_format_count(len(invalid), what)} that {verb}: {'; '.join(invalid[:5])}{more}"]
    if len(codes) != _CELLS:
        difference = abs(_CELLS - len(codes))
        consequence = "missing" if len(codes) < _CELLS else "not shown"
        problems = [*problems, f"{len(codes)} codes instead of {_CELLS}: the last {difference} are {consequence}"]
    return RecoveredBlock(grid.reshape(DEPTH_GRID), tuple(problems))


def _format_count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
