"""The surface strings of perception tokens.

The order within a set is the order in a vocabulary, as in AURORA (arXiv 2412.03548): delimiters first, then the codes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from perceptok.errors import VocabularyError

__all__ = ["DEPTH", "DEPTH_GRID", "MAX_TOKENS", "PIXEL", "TokenSet"]

MAX_TOKENS = 2**20
"""Codes of one set: four times the largest vocabulary in use; a damaged manifest could ask for a terabyte of names."""


@dataclass(frozen=True)
class TokenSet:
    """A family of tokens `<NAME_0>` .. `<NAME_{size - 1}>` with optional delimiters `<NAME_START>`, `<NAME_END>`.

    Attributes:
        name: The upper-case name in every token.
        size: Number of codes.
        delimited: Whether the set has a start and an end token.

    Raises:
        VocabularyError: The name is empty, or the size is not an integer in 1..2**20.
    """

    name: str
    size: int
    delimited: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise VocabularyError(f"a token set needs a name that is not empty; got {self.name!r}")
        if type(self.size) is not int or not 1 <= self.size <= MAX_TOKENS:
            raise VocabularyError(f"the {self.name} token set needs a size of 1..{MAX_TOKENS}; got {self.size!r:.40}")

    @property
    def start(self) -> str:
        """The token that opens a block; raises ValueError for a set without delimiters."""
        return self._delimiter("START")

    @property
    def end(self) -> str:
        """The token that closes a block; raises ValueError for a set without delimiters."""
        return self._delimiter("END")

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """Every token in vocabulary order."""
        delimiters = (self.start, self.end) if self.delimited else ()
        return delimiters + tuple(f"<{self.name}_{code}>" for code in range(self.size))

    @cached_property
    def codes(self) -> dict[str, int]:
        """Token -> code, without the delimiters."""
        return {f"<{self.name}_{code}>": code for code in range(self.size)}

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches `<NAME_...>`, whether or not it is a token of the set; group 1 is what follows the name."""
        return re.compile(rf"<{re.escape(self.name)}_([A-Za-z0-9]*)>")

    def token(self, code: int) -> str:
        """Return the token of a code; raises ValueError for a code outside 0 .. size - 1."""
        if not 0 <= code < self.size:
            raise ValueError(f"{self.name} codes are 0..{self.size - 1}; got {code}")
        return f"<{self.name}_{code}>"

    def _delimiter(self, kind: str) -> str:
        if not self.delimited:
            raise ValueError(f"the {self.name} token set has no {kind} token")
        return f"<{self.name}_{kind}>"


DEPTH = TokenSet("DEPTH", size=128, delimited=True)
"""`<DEPTH_START>`, `<DEPTH_END>`, `<DEPTH_0>` .. `<DEPTH_127>`: 130 tokens."""

DEPTH_GRID = (10, 10)
"""Rows and columns of codes in one depth block, row-major."""

PIXEL = TokenSet("PIXEL", size=336)
"""`<PIXEL_0>` .. `<PIXEL_335>`: 336 tokens."""
