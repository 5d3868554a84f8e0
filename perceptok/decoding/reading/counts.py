"""The count that a text states: totals before their parts, and nothing that is not a number of things."""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import NamedTuple

from perceptok.decoding.reading.answer_tokens import AnswerTokens
from perceptok.decoding.reading.number_words import words
from perceptok.decoding.reading.plain_text import REFUSAL

__all__ = ["CountReading", "read_count"]


class CountReading(NamedTuple):
    """A count in digits and where it was found, or None and the reason."""

    value: str | None
    reason: str


class _Count(NamedTuple):
    place: int
    number: str


_RANGE_BEFORE = re.compile(
    r"(?:\b(?:between|at least|at most|more than|less than|fewer than|over|under|up to|from|or|no more than|either|"
    r"m(?:in|ax)imum of|upwards of|in excess of|exceeding|mindestens|höchstens|mehr als|weniger als|bis zu|zwischen|"
    r"au moins|au plus|plus de|moins de|jusqu'à|entre|al menos|más de|menos de|hasta|almeno|più di|meno di|fino a|"
    r"pelo menos|mais de|até)|至少|至多|最多|超过|不到|少于|多于|[<>≤≥])\s*\Z",
    re.IGNORECASE,
)
_PAIRED = words(
    "scissors shears glasses sunglasses spectacles goggles binoculars pants trousers jeans shorts leggings "
    "tights pajamas pyjamas pliers tweezers tongs headphones compasses"
)
_UNITS = words(
    "% percent per dozen dozens hundred hundreds thousand thousands million millions billion billions meters "
    "metres meter metre m cm mm km kilometers kilometres kg g kilograms grams lbs pounds miles mph kmh inches "
    "inch ft degrees ° px pixels pm am o'clock year years month months week weeks day days hour hours minute minutes "
    "second seconds ms liter liters litre litres ml gallon gallons yard yards ton tons tonne tonnes ounce ounces oz "
    "dollar dollars euro euros cents pence usd eur watt watts volt volts amps hz hertz kilohertz megahertz gb mb kb tb "
    "bytes megapixels celsius fahrenheit kelvin times"
)
"""After a number these make it a measure, a share or a multiple."""
_LENGTHS = words("feet foot")
_LENGTH_AFTER = words("tall away high long wide deep apart from")
_LABELS_BEFORE = words("step image figure fig row number # no page picture version channel route line")
_PRONOUN_BEFORE = words("the this that each every which another no any some first last other larger smaller")
_PRONOUN_AFTER = words("of is was has can could may might must should would by side another hand way")
_MEASURES = words(
    "confidence error score code status id version page year age price distance speed width height depth size weight "
    "temperature probability rate rating"
)
"""Before ":" these make a number something else than a count."""
_OPERATORS = words("+ plus \u00d7 x * times minus")
_ADVERBS = words(
    "only exactly just about around approximately roughly clearly currently actually now really indeed at least "
    'present visible a total of in to be appear appears seem seems ( " also likely probably'
)
_THERE = words("are is was were be there's there're gibt sind hay há")
_AFTER_NO = words(
    "fewer less more doubt question way idea clue clear need problem matter longer one image images picture pictures "
    "photo answer number information evidence indication attachment file exact definite precise accurate specific "
    "other others additional further single"
)
_SEE = words("see count counted counting find found detect identify spot")
_SHOWS = words("shows show contains contain has have depicts includes displays")
_COUNTERS = frozenset("个只头辆匹条位名把张마명개")
_HEDGES = words("maybe perhaps possibly probably likely about around approximately roughly")
_AFTER_NAME = words(
    "is are was were has have can in on at of and or to from with for by before after more further question questions "
    "image images possible options answers"
)
"""After a number these are not things that are counted, or not things in the image."""
_SUBJECTS = words("image picture photo photograph scene it")
_FOREIGN_VERBS = words("gibt sind hay há")
_REVISIONS = words("again wait actually correction recount no closer inspection reconsidering")
_NONE_STATED = re.compile(
    r"\b(?:there(?:\s+(?:are|is|were|was)|'s|'re)\s+(?P<no>no)\b"
    r"(?!\s+(?:doubt|question|way|need|clear|more than|fewer|less|one|images?|pictures?|photos?|answer|definite|exact|"
    r"information|evidence|indication|attachment|other|others|additional)\b)|"
    r"(?:aren't|isn't|are not|is not)\s+(?P<any>any)\b|"
    r"(?:see|find|contains|has|shows|detect)\s+(?P<none>no)\b(?!\s+(?:doubt|question|more|fewer|less))|"
    r"\b(?:\w+n't|not|cannot)\s+(?:\w+\s+){0,2}?(?P<seen>see|find|detect|contain|show|have|identify|spot|include)\s+any\b"
    r"(?!\s+(?:images?|pictures?|photos?|attachments?|more|other|further|difference|reason)))",
    re.IGNORECASE,
)
_EXCEPTION = re.compile(r"[^.\n]{0,60}?\b(?:but|however|though|instead|rather)\b[^.\n]{0,40}?\b\d", re.IGNORECASE)
_FOREIGN_NONE = re.compile(
    r"没有|ありません|いません|없습니다|없다|\b(?:нет|keine?|aucune?|no\s+hay|nessun[oa]?|não\s+há|nenhuma?)\b",
    re.IGNORECASE,
)
_ARTICLE = re.compile(
    r"\b(?:there(?:\s+is|'s)\s+(?:just\s+|only\s+)?an?|il\s+y\s+a\s+une?|hay\s+una?|es\s+gibt\s+einen?|há\s+uma?|c'è\s+una?)\s+"
    r"(?!(?:\w+\s+)?(?:lots?|groups?|number|total|few|couple|pair|dozen|variety|herd|flock|bunch|row|crowd|handful|set|pile|stack|"
    r"large|small|great|huge|good|collection|series|mix|range|possibility|chance|grupo|groupe|viel|plus)\b)\w",
    re.IGNORECASE,
)
"""Without a number, "there is a dog" is one."""
_MAX_DIGITS = 12


def read_count(text: AnswerTokens) -> CountReading:
    """Read the count: declared or a total, else stated, else the first word, else the only number."""
    counts = [_Count(place, _read_value(text, place)) for place in text.numbers if _counts_things(text, place)]
    if declared := next((count for count in reversed(counts) if _is_declared(text, count.place)), None):
        return _check(text, declared, "declared")
    if equated := [count for count in counts if _is_equated(text, count.place)]:
        return _check(text, equated[-1], "declared")
    if totals := [count for count in counts if _is_total(text, count.place)]:
        return _read_totals(text, totals)
    absences, has_exception = _find_absences(text)
    if has_exception:
        return CountReading(None, "nothing of one kind, but some of another")
    stated = [count for count in counts if _is_stated(text, count.place)]
    if stated := sorted([*stated, *(_Count(place, "0") for place in absences)]):
        return _read_stated(text, stated)
    return _read_unstated(text, counts)


def _read_totals(text: AnswerTokens, totals: list[_Count]) -> CountReading:
    """The last total, unless it is one of several things: "number of dogs: 5, number of cats: 3"."""
    *_, last = totals
    values = [count for count in totals if text.word(count.place - 1) == ":"]
    numbers = dict.fromkeys(count.number for count in values)
    if last not in values or len(numbers) == 1 or any(_is_revision(text, place) for place in range(last.place)):
        return _check(text, last, "declared")
    parts = [count.number for count in values[:-1]]
    if all(map(str.isdecimal, parts)) and str(sum(map(int, parts))) == last.number:
        return _check(text, last, "declared")
    return CountReading(None, f"several totals: {', '.join([*numbers][:8])}")


def _read_stated(text: AnswerTokens, stated: list[_Count]) -> CountReading:
    """The total before its parts, or the last where it revises the others; other numbers are several answers."""
    first, *rest = stated
    are_whole = all(count.number.isdecimal() for count in stated)
    if len(rest) > 1 and are_whole and int(first.number) == sum(int(count.number) for count in rest):
        return _check(text, first, "stated")
    numbers = {count.number for count in stated}
    if len(numbers) > 1 and not any(_is_revision(text, place) for place in range(first.place, rest[-1].place)):
        return CountReading(None, f"several statements: {', '.join(sorted(numbers)[:8])}")
    last = stated[-1]
    if any(_is_revision(text, number) for number in range(last.place, len(text.tokens))):
        return CountReading(None, f"{last.number} is revised")
    if not rest and _is_one_of_several(text, last):
        return CountReading(None, f"not one number: {_quote(text, last.place)}")
    return _check(text, last, "stated")


def _is_one_of_several(text: AnswerTokens, count: _Count) -> bool:
    """Whether "and" joins a number to a count, "3 dogs and 2 cats", that is not one of its parts."""
    start, numbers = text.sentence_of(count.place), []
    for place in text.numbers[bisect_left(text.numbers, count.place + 1) :]:
        if text.sentence_of(place) != start:
            break
        numbers.append(place)
    if not numbers or text.word(numbers[0] - 1) not in ("and", ",") or not _counts_things(text, numbers[0]):
        return False
    values = [text.tokens[place].value for place in numbers]
    if text.word(numbers[0] + 1) == "of":
        return False
    return not all(map(str.isdecimal, values)) or str(sum(map(int, values))) != count.number


def _is_revision(text: AnswerTokens, place: int) -> bool:
    """Whether a word takes back what was said before, and a number follows: "actually, 6"."""
    is_word = text.word(place) in _REVISIONS and (text.word(place) != "no" or text.word(place + 1) in (",", "wait"))
    return is_word and bool(text.numbers) and text.numbers[-1] > place


def _read_unstated(text: AnswerTokens, counts: list[_Count]) -> CountReading:
    if counts and _is_first_word(text, counts[0].place):
        if _has_further_count(text, counts[0].place) or _heads_lines(text, counts):
            return CountReading(None, f"not one number: {_quote(text, counts[0].place)}")
        return _check(text, counts[0], "first word")
    if text.word(0) == "no" and text.tokens[1:] and text.tokens[1].kind == "word" and text.word(1) not in _AFTER_NO:
        return CountReading("0", "first word")
    numbers = {count.number for count in counts}
    if len(numbers) <= 2 and any(_is_open_ended(text, count.place) for count in counts):
        return CountReading(None, f"not one number: {_quote(text, counts[0].place)}")
    if len(numbers) == 1 and all(_is_only_count(text, count.place) for count in counts):
        return _check(text, counts[0], "only candidate")
    if numbers:
        listed = ", ".join(sorted(numbers)[:8])
        is_single = len(numbers) == 1
        reason = f"{listed} is named, and not said to be the count" if is_single else f"several candidates: {listed}"
        return CountReading(None, reason)
    if _FOREIGN_NONE.search(text.plain):
        return CountReading("0", "stated")
    is_one = _ARTICLE.search(text.plain) and not REFUSAL.search(text.plain) and not _names_another(text)
    return CountReading("1", "stated") if is_one else CountReading(None, "no candidate")


def _is_only_count(text: AnswerTokens, place: int) -> bool:
    """Whether the only number of a text counts things: "behind 3 people", "maybe 8"."""
    following, before = text.word(place + 1), text.word(place - 1)
    if following[:1] in _COUNTERS or text.has_only_links:
        return True
    is_word = place + 1 < len(text.tokens) and text.tokens[place + 1].kind == "word"
    is_thing = is_word and following not in _AFTER_NAME and text.word(place + 2) not in ("answer", "answers")
    return is_thing or (text.ends_text(place) and before in _HEDGES)


def _names_another(text: AnswerTokens) -> bool:
    return any(token.text in ("another", "second", "other") for token in text.tokens)


def _is_declared(text: AnswerTokens, place: int) -> bool:
    """Whether a number is declared as the answer, or stands alone on the first or last line."""
    return text.find_lead(place) in ("answer", "correct") or _is_alone(text, place)


def _is_equated(text: AnswerTokens, place: int) -> bool:
    """Whether a number ends the text after ":" or "=", and what is before that is not a measure."""
    return (
        text.find_lead(place) == "equals"
        and text.ends_text(place)
        and not any(text.word(number) in _MEASURES for number in range(text.sentence_of(place), place))
    )


def _is_total(text: AnswerTokens, place: int) -> bool:
    """Whether a number is a total, a sum or a conclusion."""
    lead = text.find_lead(place)
    is_sum = text.word(place - 1) == "=" and any(text.word(number) in _OPERATORS for number in range(place - 6, place))
    if lead == "total" or is_sum or _is_total_after(text, place):
        return True
    return lead == "conclude" and text.word(place + 1) not in ("is", "are", "of")


def _is_total_after(text: AnswerTokens, place: int) -> bool:
    """Whether "in total", "in all" or the like follows in the same phrase."""
    for number in range(place + 1, min(place + 8, len(text.tokens))):
        token = text.tokens[number]
        if token.text in ("altogether", "overall") or (
            token.text == "in" and text.word(number + 1) in ("total", "all")
        ):
            return True
        if token.kind in ("mark", "line", "number"):
            return False
    return False


def _is_alone(text: AnswerTokens, place: int) -> bool:
    line = text.line_of(place)
    if line not in (0, text.last_line) or not text.is_first_on_line(place):
        return False
    labels = [number for number in range(max(place - 3, 0), place) if text.tokens[number].kind == "letter"]
    if labels and (len(text.labels) > 1 or text.lists_choices(labels[-1])):
        return False
    if text.ends_line(place) or labels:
        return True
    follows_sentence = (
        text.word(place + 1) in (".", "!") and text.plain[text.tokens[place].end + 1 :][:2].strip()[:1].isupper()
    )
    return line == 0 and follows_sentence


def _is_first_word(text: AnswerTokens, place: int) -> bool:
    return place < 12 and all(
        token.kind in ("mark", "line") or (token.kind == "word" and token.text in _ADVERBS)
        for token in text.tokens[:place]
    )


def _has_further_count(text: AnswerTokens, place: int) -> bool:
    """Whether another number is listed in the sentence of the first: "3 on the left and 2 on the right"."""
    start = text.sentence_of(place)
    for number in text.numbers:
        if number > place:
            if text.sentence_of(number) != start or any(token.text == ":" for token in text.tokens[place:number]):
                return False
            is_part = text.word(number + 1) == "of"
            return not is_part and (text.word(number - 1) in ("and", "plus", ",") or text.word(place + 2) == ",")
    return False


def _heads_lines(text: AnswerTokens, counts: list[_Count]) -> bool:
    """Whether lines begin with different counts: "3 dogs", "2 cats"."""
    numbers = {count.number for count in counts if text.is_first_on_line(count.place)}
    return len(numbers) > 1


def _is_stated(text: AnswerTokens, place: int) -> bool:
    """Whether "there are", "I see", "the image shows" or the like leads to a number."""
    current = place - 1
    while current >= 0 and (text.word(current) in _ADVERBS or text.word(current) == "\n") and place - current < 8:
        current -= 1
    verb, before = text.word(current), [text.word(number) for number in range(current - 4, current)]
    if verb in ("there's", "there're", "there") or verb in _FOREIGN_VERBS:
        return True
    if verb in _THERE or verb in ("appear", "seem"):
        return "there" in before
    if verb == "y":
        return before[-1] == "il"
    if verb == "sono":
        return before[-1] == "ci"
    if verb in _SEE:
        return any(word in ("i", "we", "you", "can") for word in before)
    return verb in _SHOWS and any(word in _SUBJECTS for word in before)


def _find_absences(text: AnswerTokens) -> tuple[list[int], bool]:
    """Places where the text says that there is nothing, and whether it names another kind that there is."""
    matches = list(_NONE_STATED.finditer(text.plain))
    has_exception = any(_EXCEPTION.match(text.plain, match.end()) for match in matches[-50:])
    starts = [token.start for token in text.tokens]
    return [bisect_left(starts, match.start()) for match in matches], has_exception


def _counts_things(text: AnswerTokens, place: int) -> bool:
    """Whether a number counts things: not a pronoun, a part of a sum, a measure, a label or what is denied."""
    token, before, after = text.tokens[place], text.word(place - 1), text.word(place + 1)
    if token.text in ("one", "single", "nothing", "none"):
        is_side = after in ("on", "in", "at") and text.word(place + 2) == "the"
        if before in _PRONOUN_BEFORE or after in _PRONOUN_AFTER or (is_side and before):
            return False
    is_part = (after in _OPERATORS and _is_number(text, place + 2)) or (
        before in _OPERATORS and _is_number(text, place - 2) and after != "="
    )
    is_cut = _is_thousands(text, place) or _is_thousands(text, place - 1)
    is_measure = after in _UNITS or (after in ("square", "cubic") and text.word(place + 2) in _UNITS)
    if is_part or is_cut or is_measure or text.is_denied(place) or before in _LABELS_BEFORE:
        return False
    if (after == ":" and _is_joined(text, place) and _is_joined(text, place + 1) and _is_number(text, place + 2)) or (
        before == ":" and _is_number(text, place - 2) and _is_joined(text, place - 2) and _is_joined(text, place - 1)
    ):
        return False  # "10:30"
    if after in _LENGTHS and text.word(place + 2) in _LENGTH_AFTER:
        return False
    if (
        after == "-"
        and _is_joined(text, place)
        and place + 2 < len(text.tokens)
        and text.tokens[place + 2].kind == "word"
    ):
        return False  # "two-story"
    return not _is_list_number(text, place)


def _is_number(text: AnswerTokens, place: int) -> bool:
    return 0 <= place < len(text.tokens) and text.tokens[place].kind == "number"


def _is_thousands(text: AnswerTokens, place: int) -> bool:
    """Whether three digits follow a number after a space: "1 000"."""
    following = text.word(place + 1)
    return _is_number(text, place) and following.isdecimal() and len(following) == 3


def _is_joined(text: AnswerTokens, place: int) -> bool:
    """Whether no space follows a token."""
    return place + 1 < len(text.tokens) and text.tokens[place].end == text.tokens[place + 1].start


def _is_list_number(text: AnswerTokens, place: int) -> bool:
    """Whether a number numbers an item: "1. a dog" at the start of a line of several, "1) a dog"."""
    mark = text.word(place + 1)
    if mark not in (".", ")") or not _is_joined(text, place) or text.ends_line(place):
        return False
    if mark == ")":
        return text.word(place - 1) != "("
    return text.is_first_on_line(place) and text.last_line > 0


def _is_open_ended(text: AnswerTokens, place: int) -> bool:
    """Whether a number is a bound or an end of a range: "at least 5", "3 to 4", "10+", "two pairs of shoes"."""
    token, following = text.tokens[place], [text.word(number) for number in range(place + 1, place + 5)]
    if _RANGE_BEFORE.search(text.plain[max(0, token.start - 24) : token.start]):
        return True
    if following[0] in ("pairs", "couples") and following[1] == "of":
        return following[2] not in _PAIRED and following[3] not in _PAIRED
    if following[0] == "+" or (following[0] == "or" and following[1] in ("more", "fewer", "so")):
        return True
    other = place + 2 + (following[1] in ("maybe", "possibly", "perhaps"))
    if not _is_number(text, other):
        return False
    if following[0] in ("|", ";") and len(text.numbers) == 2:
        return True
    if following[0] in ("-", "~", "〜", "to", "bis"):
        return _is_larger(text.tokens[other].value, token.value)
    return following[0] in ("/", "or", "and", "oder")


def _is_larger(number: str, other: str) -> bool:
    return number.isdecimal() and other.isdecimal() and (len(number), number) > (len(other), other)


def _read_value(text: AnswerTokens, place: int) -> str:
    token = text.tokens[place]
    is_pair = token.text.startswith("a pair") and (text.word(place + 1) in _PAIRED or text.word(place + 2) in _PAIRED)
    return "1" if is_pair else token.value


def _check(text: AnswerTokens, count: _Count, reason: str) -> CountReading:
    if text.tokens[count.place].kind == "number" and _is_open_ended(text, count.place):
        return CountReading(None, f"not one number: {_quote(text, count.place)}")
    whole, _, decimals = count.number.partition(".")
    if decimals.strip("0") or whole.startswith("-"):
        return CountReading(None, f"{count.number} is not a count")
    if len(whole) > _MAX_DIGITS:
        return CountReading(None, f"{whole[:_MAX_DIGITS]}... is not a count")
    return CountReading(str(int(whole)), reason)


def _quote(text: AnswerTokens, place: int) -> str:
    start = text.tokens[place].start
    return repr(text.plain[max(0, start - 15) : start + 15].strip())
