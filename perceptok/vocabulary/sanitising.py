"""Text from users, kept from turning into perception tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from perceptok.tokens import DEPTH, PIXEL, TokenSet
from perceptok.vocabulary.lookup import PerceptionVocabulary

__all__ = ["restore_text", "sanitise_text"]


def sanitise_text(text: str, token_sets: PerceptionVocabulary | Sequence[TokenSet] = (DEPTH, PIXEL)) -> str:
    r"""Text in which no perception token is left: `<DEPTH_5>` becomes `<\DEPTH_5>`.

    An added token is matched wherever its characters stand, so a user who types one would write into the model's own
    vocabulary. Everything else stays as it is; a text that has such backslashes already gets one more, so that
    `restore_text` is the exact inverse for every text.

    Args:
        text: What a user wrote. Never the model's own output, whose tokens are meant.
        token_sets: The sets to keep out, or a vocabulary, for its sets.
    """
    return _pattern(_sets(token_sets)).sub(r"<\\\1\2>", text)


def restore_text(text: str, token_sets: PerceptionVocabulary | Sequence[TokenSet] = (DEPTH, PIXEL)) -> str:
    """The inverse of `sanitise_text`, with the same sets."""
    return _pattern(_sets(token_sets)).sub(lambda found: f"<{found[1][1:]}{found[2]}>", text)


def _sets(token_sets: PerceptionVocabulary | Sequence[TokenSet]) -> tuple[TokenSet, ...]:
    return token_sets.token_sets if isinstance(token_sets, PerceptionVocabulary) else tuple(token_sets)


@lru_cache(maxsize=16)
def _pattern(token_sets: tuple[TokenSet, ...]) -> re.Pattern[str]:
    names = (re.escape(token[1:-1]) for one in token_sets for token in one.tokens)
    return re.compile(rf"<(\\*)({'|'.join(names)})>")
