"""The conclusion of an answer: a letter, a count, or a few words."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["final_answer"]

_LETTER = re.compile(r"answer is that point ([A-Z])\b|^\W*\(?([A-Z])\)?\W*$")
_COUNT = re.compile(r"conclude there (?:are|is) (\d+)\b|^\W*(\d+)\W*$")


def final_answer(text: str, choices: Sequence[str] = ()) -> tuple[str | None, str]:
    """What a text finally answers, or None and why; `choices` empty for any letter, count or line."""
    for pattern in (_LETTER, _COUNT):
        found = list(pattern.finditer(text))
        if found:
            said = next(group for group in found[-1].groups() if group)
            return (said, "") if not choices or said in choices else (None, f"{said!r} is none of the choices")
    return None, "no answer is found in the text"
