"""Surface forms of one grid of codes: a block of text, and 88 bytes."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import ArrayLike

from perceptok.errors import MalformedBlockError
from perceptok.tokens import DEPTH, DEPTH_GRID

__all__ = [
    "BLOCK_BYTES",
    "block_from_bytes",
    "block_from_text",
    "block_to_bytes",
    "block_to_text",
    "checked_codes",
]

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
