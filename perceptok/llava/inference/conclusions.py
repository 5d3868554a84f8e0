"""The conclusion of an answer: which question it answers, and then `read_answer`'s rules."""

from __future__ import annotations

import re
from collections.abc import Sequence

from perceptok.errors import EvaluationError, InferenceError
from perceptok.evaluation.answers import Reading, plain_text, read_answer

__all__ = ["final_answer", "require_choices"]

_LONE_LETTER = re.compile(r"\W*([A-Z])\W*")
_LONE_NUMBER = re.compile(r"\W*\d+\W*")


def final_answer(text: str, choices: Sequence[str], letters: Sequence[str], *, boxes: bool) -> Reading:
    """What a text finally answers, or None and why.

    Args:
        text: All that the model wrote.
        choices: Letters or numbers that the answer may be; they decide what is read.
        letters: Of the points that question or answer are about: without choices, one of them is read.
        boxes: Whether the text holds boxes: without choices and letters, a count is read.

    Returns:
        Without any of the three, the text itself where it is a letter or a number alone.
    """
    if choices or letters:
        return read_answer(text, choices or tuple(dict.fromkeys(letters)))
    plain = plain_text(text)
    if lone := _LONE_LETTER.fullmatch(plain):
        return Reading(lone[1], "the text is a letter")
    if boxes or _LONE_NUMBER.fullmatch(plain):
        return read_answer(text)
    return Reading(None, "neither choices, points nor boxes say what is asked")


def require_choices(choices: Sequence[str]) -> None:
    """Raise InferenceError unless choices are what `read_answer` takes."""
    try:
        read_answer("?", choices)
    except EvaluationError as error:
        raise InferenceError(str(error)) from error
