"""The final answer of a free text: a marker's letter or a count, by fixed rules and without a guess."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from perceptok.errors import EvaluationError
from perceptok.evaluation.counts import read_count
from perceptok.evaluation.letters import read_letter
from perceptok.tokens import DEPTH, PIXEL

__all__ = ["Reading", "plain_text", "read_answer"]

_PLAIN = str.maketrans({"\u2018": "'", "\u2019": "'", "\u2013": "-", "\u2014": "-"})
_TOKENS = re.compile(rf"(?:<(?:{DEPTH.name}|{PIXEL.name})_[A-Za-z0-9]*>)+")
_BOXES = re.compile(r"(?im)^[ \t]*(?:bounding )?box \d+ ?:.*$|\(\s*(?:-?\d+\s*,\s*){3}-?\d+\s*\)")
_COORDINATES = re.compile(r"\(?\bx ?= ?\d*,? ?y ?= ?\d*\)?")
_BOXED = re.compile(r"\\boxed\s*\{\s*(?:\\text\s*\{)?([^{}]*)\}+|<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_THOUGHT = re.compile(r"\A.*</think(?:ing)?>(?=.*\w)", re.DOTALL | re.IGNORECASE)
_JOINED = re.compile(r"\b((?i:points?|options?|markers?|choices?|labels?))[_-]?([A-H])\b")
_MATHS = re.compile(r"\$\$(.+?)\$\$|\$(?=\S)([^$\n]*?)(?<=\S)\$(?!\d)")
"""Between dollars as Pandoc reads them: "$5$", but not "$5 and $6"."""
_MONEY = re.compile(r"(?:[$€£¥]\s?\d[\d.,]*)+|(?<![\d.,])\d[\d.,]{0,20}\s?[€£]")
_MARKUP = re.compile(r"[*_`$#]+|</?(?:b|i|strong|em|p|br)\s*/?>", re.IGNORECASE)
_SORRY = re.compile(
    r"\b(?:sorry|can(?:no|')t|unable to|not able to|impossible to|don't know|do not know|no way to)\b", re.IGNORECASE
)


class Reading(NamedTuple):
    """What a text answers.

    Attributes:
        value: One of the choices, or a count in digits; None where the text gives no answer, or several.
        reason: Where it was found ("declared", "stated", "first word", "only candidate"), or why there is none.
    """

    value: str | None
    reason: str


def read_answer(text: str, choices: Sequence[str] | Mapping[str, str] = ()) -> Reading:
    r"""The final answer of a text.

    Perception tokens, coordinates, boxes and Markdown are taken away first. Then, in this order: what is declared as
    the answer ("the answer is that point B ...", `\boxed{B}`, a last line that is only an answer), what is stated
    ("the closest is B", "there are 5"), a first word that is an answer, and the only candidate that the text names.
    Within each the last one counts. "B or C", "between 3 and 4" and "at least 5" are no answer.

    Args:
        text: What a model wrote.
        choices: Single letters: a letter is read, as the answer to what is closest. A mapping from letters to what
            they stand for: also the words of one choice alone. Whole numbers, or nothing: a count is read.

    Returns:
        The answer; a letter or a count outside the choices is no answer, and the reason says which it was.

    Raises:
        EvaluationError: The choices are neither single letters nor whole numbers, or one stands twice.
    """
    names = [str(choice) for choice in choices]
    if len({name.casefold() for name in names}) != len(names):
        raise EvaluationError(f"each choice stands once; got {names}")
    plain = plain_text(text)
    if not plain.strip():
        return Reading(None, "nothing was written")
    if names and all(re.fullmatch("[A-Za-z]", name) for name in names):
        found = _among_letters(plain, {name.upper(): name for name in names}, choices)
    elif all(name.isdecimal() for name in names):
        found = Reading(*read_count(plain))
        if found.value is not None and names and found.value not in {str(int(name)) for name in names}:
            found = Reading(None, f"{found.value} is not among the choices {', '.join(names)}")
    else:
        raise EvaluationError(f"choices are single letters or whole numbers; got {names}")
    if found.value is None and _SORRY.search(plain):
        return Reading(None, "a refusal")
    return found


def plain_text(text: str) -> str:
    """A text without perception tokens, coordinates, boxes, money and markup; plain characters for full-width ones.

    Thoughts, up to `</think>`, are left out where anything follows them.
    """
    text = unicodedata.normalize("NFKC", text).translate(_PLAIN)
    text = _THOUGHT.sub("", text)
    text = _BOXED.sub(lambda match: f"\nThe answer is {(match[1] or match[2] or '').strip()}\n", text)
    text = _TOKENS.sub("", text)
    text = _BOXES.sub(" ", text)
    text = _MONEY.sub(" some money ", _MATHS.sub(r"\1\2", text))
    return _MARKUP.sub("", _JOINED.sub(r"\1 \2", _COORDINATES.sub(" ", text)))


def _among_letters(text: str, names: dict[str, str], choices: Sequence[str] | Mapping[str, str]) -> Reading:
    value, reason = read_letter(text, frozenset(names))
    if value is not None:
        return Reading(names[value], reason)
    if isinstance(choices, Mapping):
        told = text.casefold()
        # The longest first and taken away: "dining table" is not also "table".
        named = []
        for letter, words in sorted(choices.items(), key=lambda one: -len(one[1])):
            pattern = rf"(?<!\w){re.escape(words.casefold())}(?!\w)"
            if words and re.search(pattern, told):
                named.append(letter)
                told = re.sub(pattern, " ", told)
        if len(named) == 1:
            return Reading(named[0], "only candidate")
    return Reading(None, reason)
