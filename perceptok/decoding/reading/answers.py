"""The final answer of a free text: a choice's letter or a count, by fixed rules and without a guess.

A text is cut into tokens once, and every rule looks at a token and a bounded number of tokens around it: the time is
linear in the text. The order of trust is stated in `read_answer`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from perceptok.decoding.reading.answer_tokens import AnswerTokens
from perceptok.decoding.reading.comparisons import read_comparisons
from perceptok.decoding.reading.counts import read_count
from perceptok.decoding.reading.plain_text import REFUSAL, to_plain_text
from perceptok.errors import EvaluationError

__all__ = ["AnswerReading", "read_answer"]


class AnswerReading(NamedTuple):
    """What a text answers.

    Attributes:
        value: One of the choices, or a count in digits; None where the text gives no answer, or several.
        reason: Where it was found ("declared", "choice in brackets", "compared", "stated", "first word",
            "only candidate", "words of the choice"), or why there is none.
    """

    value: str | None
    reason: str


_CANDIDATES = re.compile(
    r"\b(?:among|amongst|between|out of)\s+(?:(?:the\s+)?points\s+)?[A-H](?:\s*,\s*[A-H])*,?\s+(?:and|or)\s+[A-H]\b,?",
    re.IGNORECASE,
)
"""Named without a choice."""
_REVISION = re.compile(r"\b(?:wait|actually|correction|on second thought)\b")
_DENIED_WORDS = re.compile(r"\b(?:not|neither|nor|never|\w{1,8}n't)\b(?: (?!nor\b)\w+){1,4}")
"""In lower case: "not the door", which does not name the door."""


def read_answer(text: str, choices: Sequence[str] | Mapping[str, str] = ()) -> AnswerReading:
    r"""Read the final answer of a text.

    What engines leave (`<s>`, `<|im_end|>`, `ASSISTANT:`), thoughts before `</think>`, a next turn of the user,
    perception tokens, boxes and Markdown are removed first. Then, in this order of trust:

    1. The last explicit declaration: "the answer is", `Answer:`, `\boxed{}`, "so ...", "I choose ...", "B is the best
       choice", a choice or a number alone on the last line, or at the very start before its explanation. A letter that
       heads a list of choices, or depends on a condition, is not declared. Of counts, after these, totals
       ("a total of 5", "5 in total", "2 + 3 = 5").
    2. Of letters, the only choice in brackets, "(B)".
    3. Of letters, comparisons: "A is closer than B, and B is closer than C" is A, "the closest is B" is B. Of counts,
       what is stated ("there are 5"), a total before its parts.
    4. The first word, of counts; the words of one choice alone; the only candidate that the text names, "the man at
       B", where no word says that something is far, wrong or not the answer.

    "B or C", "between 3 and 4", "at least 5" and "3 dogs and 2 cats" are not an answer, nor are measures ("5 kg"), nor
    a declared letter where a count is read.

    Args:
        text: What a model wrote.
        choices: Single letters: a letter is read, as the answer to what is closest. A mapping from letters to what
            they stand for: also the words of one choice alone, or the count that one choice is. Whole numbers, or
            nothing: a count is read.

    Returns:
        The answer; a letter or a count outside the choices is not an answer, and the reason says which it was.

    Raises:
        EvaluationError: The choices are neither single letters nor whole numbers, or one is given twice.
    """
    names = [str(choice) for choice in choices]
    if len({name.casefold() for name in names}) != len(names):
        raise EvaluationError(f"each choice is given once; got {names}")
    has_letters = bool(names) and all(re.fullmatch("[A-Za-z]", name) for name in names)
    if not has_letters and not all(name.isdecimal() for name in names):
        raise EvaluationError(f"choices are single letters or whole numbers; got {names}")
    plain = to_plain_text(text)
    if not plain.strip():
        return AnswerReading(None, "nothing was written")
    if has_letters:
        reading = _read_choice(plain, {name.upper(): name for name in names}, choices)
    else:
        reading = _read_plain_count(AnswerTokens(plain))
        if reading.value is not None and names and reading.value not in {str(int(name)) for name in names}:
            reading = AnswerReading(None, f"{reading.value} is not among the choices {', '.join(names)}")
    if reading.value is None and REFUSAL.search(plain):
        return AnswerReading(None, "a refusal")
    return reading


def _read_plain_count(text: AnswerTokens) -> AnswerReading:
    """Read a count; a letter that is declared as the answer names a choice that is not known here."""
    reading = AnswerReading(*read_count(text))
    if reading.reason != "declared" and (declared := _find_declared(text)) is not None:
        return AnswerReading(None, f"{text.tokens[declared].value} is declared, which is not a count")
    return reading


# Letters


def _read_choice(plain: str, names: dict[str, str], choices: Sequence[str] | Mapping[str, str]) -> AnswerReading:
    """Read a letter, or else what one choice stands for; `names` maps upper case letters to the choices."""
    letters = frozenset(names)
    text = AnswerTokens(_CANDIDATES.sub(" ", plain), letters)
    meanings = {name.upper(): words for name, words in choices.items()} if isinstance(choices, Mapping) else {}
    counts = {letter: read_count(AnswerTokens(words)).value for letter, words in meanings.items()}
    reading = _read_explicit_letter(text, letters)
    if reading is None and any(words.strip() for words in meanings.values()):
        if all(count is not None for count in counts.values()):
            reading = _read_count_of_choices(text, counts)
        else:
            reading = _read_words_of_choices(plain, meanings)
    if reading is None:
        reading = _read_implied_letter(text, letters)
    return AnswerReading(names[reading.value], reading.reason) if reading.value is not None else reading


def _read_explicit_letter(text: AnswerTokens, letters: frozenset[str]) -> AnswerReading | None:
    """The last declaration, or the only choice in brackets; None where the text has neither."""
    tokens = text.tokens
    declared = _find_declared(text)
    if declared is None and len({tokens[place].value for place in text.letters if text.is_in_brackets(place)}) == 1:
        bracketed = [place for place in text.letters if text.is_in_brackets(place) and not text.is_denied(place)]
        if bracketed and all(tokens[place].value == tokens[bracketed[0]].value for place in text.letters):
            return _check_letter(text, bracketed[-1], letters, "choice in brackets")
    return None if declared is None else _check_letter(text, declared, letters, "declared")


def _find_declared(text: AnswerTokens) -> int | None:
    """The place of the last letter that is declared as the answer."""
    for is_answer in (_is_declared, _is_equated):
        if (place := next((place for place in reversed(text.letters) if is_answer(text, place)), None)) is not None:
            return place
    return None


def _is_equated(text: AnswerTokens, place: int) -> bool:
    """Whether a letter ends the text after "closest:", "result:" or the like."""
    return text.ends_text(place) and text.find_lead(place) == "equals" and not text.heads_list(place)


def _check_letter(text: AnswerTokens, place: int, letters: frozenset[str], reason: str) -> AnswerReading:
    letter = text.tokens[place].value
    if alternative := text.find_alternative(place):
        return AnswerReading(None, f"two answers: {letter} and {alternative}")
    if letter not in letters:
        return AnswerReading(None, f"{letter} is not among the choices {', '.join(sorted(letters))}")
    return AnswerReading(letter, reason)


def _read_implied_letter(text: AnswerTokens, letters: frozenset[str]) -> AnswerReading:
    """Read what the comparisons say, or else the only candidate, unless the text refuses to answer."""
    compared = read_comparisons(text, letters)
    if compared.letter is not None:
        return AnswerReading(compared.letter, "compared")
    if compared.problem:
        return AnswerReading(None, compared.problem)
    places: dict[str, list[int]] = {}
    for place in text.letters:
        places.setdefault(text.tokens[place].value, []).append(place)
    candidates = {letter for letter, found in places.items() if not all(map(text.is_denied, found))}
    named = candidates & letters
    if len(named) > 1 or candidates - letters:
        return AnswerReading(None, f"several candidates: {', '.join(sorted(candidates))}")
    if not named:
        return AnswerReading(None, "no candidate")
    is_contrary = named & compared.farther or REFUSAL.search(text.plain)
    if not is_contrary and text.is_only_named(places[min(named)][-1]):
        return AnswerReading(named.pop(), "only candidate")
    return AnswerReading(None, f"{named.pop()} is named, and not said to be the answer")


def _is_declared(text: AnswerTokens, place: int) -> bool:
    """Whether a letter is declared as the answer, ends a conclusion, or is alone on the first or last line."""
    lead = text.find_lead(place)
    is_declared = (
        lead in ("answer", "choose")
        or (lead in ("conclude", "correct") and text.ends_phrase(place))
        or text.is_called_answer(place)
        or (text.is_label(place) and text.follows_colon(place))
        or _is_lone_choice(text, place)
    )
    return is_declared and not text.heads_list(place) and not text.is_denied(place)


def _is_lone_choice(text: AnswerTokens, place: int) -> bool:
    """Whether a letter is alone on its line, the first or last, or labels it: "(C) 0", "B. Because it is larger"."""
    line = text.line_of(place)
    if line not in (0, text.last_line) or not text.is_first_on_line(place):
        return False
    if text.labels - {text.tokens[place].value} or text.lists_choices(place):
        return False
    if text.is_label(place) or text.ends_line(place):
        return True
    return line == 0 and (text.ends_phrase(place) or text.word(place + 1) in ("because", "since", "as", "or"))


def _read_words_of_choices(plain: str, meanings: Mapping[str, str]) -> AnswerReading | None:
    """The choice whose words begin the text, or whose words alone it contains; None where there is none."""
    remaining = _DENIED_WORDS.sub(" ", plain.casefold())
    start = remaining.lstrip(" \n\"'(.-")
    named: list[str] = []
    # The longest first and removed: "dining table" is not also "table".
    for letter, meaning in sorted(meanings.items(), key=lambda choice: -len(choice[1])):
        phrase = meaning.casefold().strip(" .")
        pattern = rf"(?<!\w){re.escape(phrase)}(?!\w)"
        if phrase and re.search(pattern, remaining):
            is_first = re.match(rf"{pattern}\s*(?:[.,;:!\n-]|\Z)", start) and not _REVISION.search(start)
            if is_first or re.search(rf"\banswer is:?\s*{pattern}", remaining):
                return AnswerReading(letter, "words of the choice")
            if phrase not in ("yes", "no"):  # these answer only where they are the answer: "there is no bed"
                named.append(letter)
            remaining = re.sub(pattern, " ", remaining)
    is_named = len(named) == 1 and not REFUSAL.search(plain)
    return AnswerReading(named[0], "words of the choice") if is_named else None


def _read_count_of_choices(text: AnswerTokens, counts: Mapping[str, str | None]) -> AnswerReading | None:
    """The choice that is the count which the text states; None where it states none."""
    reading = AnswerReading(*read_count(text))
    if reading.value is None:
        return None if any(token.kind == "letter" for token in text.tokens) else reading
    matching = [letter for letter, count in counts.items() if count == reading.value]
    if len(matching) == 1:
        return AnswerReading(matching[0], reading.reason)
    listed = ", ".join(f"{letter} {count}" for letter, count in counts.items())
    return AnswerReading(None, f"{reading.value} is not among the choices {listed}")
