"""The count that a text answers with, when asked how many."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["read_count"]

_SMALL = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_OTHERS = {
    # Left out: words that are articles, or English words of another meaning (un, once, dos).
    **dict.fromkeys(("null", "cero"), 0),
    **dict.fromkeys(("eins", "uno"), 1),
    **dict.fromkeys(("zwei", "deux", "due", "dois", "duas"), 2),
    **dict.fromkeys(("drei", "trois", "tres", "tre", "três"), 3),
    **dict.fromkeys(("vier", "quatre", "cuatro", "quattro", "quatro"), 4),
    **dict.fromkeys(("fünf", "cinq", "cinco", "cinque"), 5),
    **dict.fromkeys(("sechs", "seis", "sei"), 6),
    **dict.fromkeys(("sieben", "sept", "siete", "sette", "sete"), 7),
    **dict.fromkeys(("acht", "huit", "ocho", "otto", "oito"), 8),
    **dict.fromkeys(("neun", "neuf", "nueve", "nove"), 9),
    **dict.fromkeys(("zehn", "dix", "diez", "dieci", "dez"), 10),
    **dict.fromkeys(("elf", "onze", "undici"), 11),
    **dict.fromkeys(("два", "две"), 2),
    **dict(zip(("три", "четыре", "пять", "шесть", "семь", "восемь", "девять", "десять"), range(3, 11), strict=True)),
    **dict.fromkeys(("zwölf", "douze", "doce", "dodici", "doze"), 12),
}
_CHINESE = dict(zip("零一二三四五六七八九十", range(11), strict=True)) | {"两": 2}
_WORDS: dict[str, int] = {
    **{word: number for number, word in enumerate(_SMALL)},
    **{word: 20 + 10 * number for number, word in enumerate(_TENS)},
    **{
        f"{ten}{gap}{one}": 20 + 10 * tens + ones
        for tens, ten in enumerate(_TENS)
        for ones, one in enumerate(_SMALL[:10])
        if ones
        for gap in "- "
    },
    "a dozen": 12,
    "one dozen": 12,
    "two dozen": 24,
    "half a dozen": 6,
    "a pair of": 2,
    "a couple of": 2,
    "a single": 1,
    "single": 1,
    "only a": 1,
    "a hundred": 100,
    "one hundred": 100,
    "none": 0,
    "nothing": 0,
    "not any": 0,
    **_OTHERS,
}
_SPELLED = "|".join(sorted(map(re.escape, _WORDS), key=len, reverse=True))
_NUMBER = (
    rf"(?P<number>(?<![\w.,])-?\d{{1,3}}(?:,\d{{3}})+(?![\w,])|(?<![\w.,-])-?\d+(?:\.\d+)?(?![\d]|[.,]\d|\w)"
    rf"|\b(?:{_SPELLED})\b|[零一二两三四五六七八九十](?=[个只头辆匹条位名把张])|\d+(?=[一-鿿])|(?<=[一-鿿])\d+)"
)
_HUNDREDS = re.compile(
    rf"\b(a|{'|'.join(_SMALL[1:10])})\s+hundred(?:\s+and\b)?"
    rf"(?:[\s-]+((?:{'|'.join(_TENS)})(?:[ -](?:{'|'.join(_SMALL[1:10])}))?|{'|'.join(reversed(_SMALL[1:]))}))?\b",
    re.IGNORECASE,
)
_CHINESE_TENS = re.compile("([一二三四五六七八九])?十([一二三四五六七八九])?")
_YEAR = re.compile(r"\b(?:in|since|from)\s+(?:19|20)\d\d\b(?!\s+\w+s\b)", re.IGNORECASE)
_RUN = re.compile(rf"\b(?:1|one)\b(?:(?:\s*,\s*(?:and\s+)?|\s*\.\.+\s*)(?:\d+|(?:{_SPELLED})\b))+", re.IGNORECASE)
_ONE_IN_PAIRS = (
    r"(?:\w+\s+)?(?:scissors|shears|glasses|sunglasses|spectacles|goggles|binoculars|pants|trousers|jeans|shorts|leggings|"
    r"tights|pajamas|pyjamas|pliers|tweezers|tongs|headphones|compasses)\b"
)
_ANSWER = (
    r"(?:answer|total(?: number)?(?: of [\w ]{1,40}?)?|sum|count(?: of [\w ]{1,40}?)?|number of [\w ]{1,60}?|"
    r"conclusion|réponse|respuesta|antwort|risposta|resposta|ответ|答案|回答|正解|答え|정답)"
)
_LINK = (
    r"(?:is|was|are|would be|should be|must be|of|that|the|there|comes to|therefore|est|ist|es|é|è|la|le|el|"
    r"[:=,>→-]|\n|是|为|は|은|는)"
)
_DECLARED = [
    re.compile(rf"\b{_ANSWER}\s*(?:{_LINK}\s*){{1,8}}{_NUMBER}", re.IGNORECASE),
    re.compile(rf"\b(?:that|which|this)?\s*mak(?:es|ing)\s+(?:it\s+|a\s+total\s+of\s+)?{_NUMBER}", re.IGNORECASE),
    re.compile(
        rf"\b(?:so|therefore|thus|hence)\b[\s,:]*(?:there\s+(?:are|is)\s+|that\s+is\s+|that's\s+|it's\s+|it\s+is\s+)?{_NUMBER}",
        re.IGNORECASE,
    ),
    re.compile(
        rf"(?:\bno|\bwait|\bactually|\bsorry|\bcorrection|\bi mean|\brather)[,:]\s*"
        rf"(?:it's\s+|it\s+is\s+|there\s+are\s+|make\s+that\s+)?"
        rf"{_NUMBER}",
        re.IGNORECASE,
    ),
    re.compile(rf"\A[^\w\n-]*{_NUMBER}[^\S\n]*(?:[.!)]*\n|[.!]\s+(?=[A-Z]))", re.IGNORECASE),
    re.compile(rf"\bconclude\s+(?:that\s+)?(?:there\s+(?:are|is)\s+)?{_NUMBER}", re.IGNORECASE),
    re.compile(rf"(?:\A|\n)[^\S\n]*\(?\s*{_NUMBER}\s*\)?[^\w\n]*\Z", re.IGNORECASE),
    re.compile(rf"{_NUMBER}\s+(?:[\w-]+\s+){{0,4}}(?:in total|in all|altogether|overall)\b", re.IGNORECASE),
]
_MANY = r"(?:only|exactly|just|about|around|approximately|roughly|a total of|in total|clearly|at present|currently)"
_STATED = [
    re.compile(
        rf"\b(?:there(?:\s+(?:are|is|were|was|appear to be|seem to be)|'s|'re)|(?:i|we)(?:\s+can)?\s+(?:see|count|"
        rf"counted|find|found|detect|identify)|(?:image|picture|photo|scene)\s+(?:shows|contains|has|depicts|includes)|it\s+(?:shows|contains|has)|"
        rf"il y a|es gibt|es sind|hay|ci sono|há)\s*(?:{_MANY}\s+)*{_NUMBER}",
        re.IGNORECASE,
    ),
    re.compile(rf"=\s*{_NUMBER}", re.IGNORECASE),
]
_NO = re.compile(
    r"\b(?:there(?:\s+(?:are|is|were|was)|'s|'re)\s+(?P<no>no)\b"
    r"(?!\s+(?:doubt|question|way|need|clear|more than|fewer|less|one\b))|"
    r"(?:aren't|isn't|are not|is not)\s+(?P<any>any)\b|"
    r"(?:see|find|contains|has|shows|detect)\s+(?P<none>no)\b(?!\s+(?:doubt|question|more|fewer|less))|"
    r"(?:\w+n't|not|cannot)\s+(?:\w+\s+){0,2}?(?P<seen>see|find|detect|contain|show|have|identify|spot|include)\s+any\b"
    r"(?!\s+(?:images?|pictures?|photos?|attachments?|more|other|further|difference|reason)))",
    re.IGNORECASE,
)
_OTHERS_NO = re.compile(
    r"没有|ありません|いません|없습니다|없다|\b(?:нет|keine?|aucune?|no\s+hay|nessun[oa]?|não\s+há|nenhuma?)\b",
    re.IGNORECASE,
)
"""Of other languages; they count where the text has no number at all, and so has the article in `_ARTICLE`."""
_ARTICLE = re.compile(
    r"\b(?:there(?:\s+is|'s)\s+(?:just\s+|only\s+)?an?|il\s+y\s+a\s+une?|hay\s+una?|es\s+gibt\s+einen?|há\s+uma?|c'è\s+una?)\s+"
    r"(?!(?:\w+\s+)?(?:lots?|groups?|number|total|few|couple|pair|dozen|variety|herd|flock|bunch|row|crowd|handful|set|pile|stack|"
    r"large|small|great|huge|good|collection|series|mix|range|possibility|chance|grupo|groupe|viel|plus)\b)\w",
    re.IGNORECASE,
)
_BUT = re.compile(rf"[^.\n]{{0,60}}?\b(?:but|however|though)\b[^.\n]{{0,40}}?{_NUMBER}", re.IGNORECASE)
_FIRST = [re.compile(rf"\A\W*?(?:{_MANY}\s+)?(?:no\b(?P<no>)\s+\w|{_NUMBER})", re.IGNORECASE)]
_ANYWHERE = [re.compile(_NUMBER, re.IGNORECASE)]

_RANGE_BEFORE = re.compile(
    r"\b(?:between|at least|at most|more than|less than|fewer than|over|under|up to|from|or|"
    r"no more than|minimum of|either)\s*\Z",
    re.IGNORECASE,
)
_SUM_AFTER = re.compile(rf"\s*(?:\+|plus\b)\s*(?:\d|(?:{_SPELLED})\b)", re.IGNORECASE)
_SUM_BEFORE = re.compile(r"\w\s*(?:\+|\bplus)\s*\Z", re.IGNORECASE)
_NOT_BEFORE = re.compile(r"\bnot\s*\Z", re.IGNORECASE)
_NO_COUNT_AFTER = re.compile(
    r"\s*(?:%|percent\b|per cent\b)|\s+(?:dozens?|hundreds?|thousands?|millions?|billions?)\b", re.IGNORECASE
)
_ONE_THING_AFTER = re.compile(rf"\s+{_ONE_IN_PAIRS}", re.IGNORECASE)
_PAIRS_AFTER = re.compile(rf"\s+(?:pairs|couples)\s+of\s+(?!{_ONE_IN_PAIRS})", re.IGNORECASE)
"""Of things or of pairs: the number is not told."""
_VERB_BEFORE = re.compile(r"\b(?:let's|let me|let us|to|we|i|can|will)\s+\Z", re.IGNORECASE)
_RANGE_AFTER = re.compile(
    rf"\s*(?:\+|[~〜/]\s*\d|(?:-|to|or|and|bis|oder)\s*(?:maybe\s+|possibly\s+|perhaps\s+)?(?:\d|(?:{_SPELLED})\b)|"
    r"or (?:more|fewer|so)\b)",
    re.IGNORECASE,
)
_PRONOUN_BEFORE = re.compile(
    r"\b(?:the|this|that|each|every|which|another|no|any|some|first|last|other|larger|smaller)\s*\Z", re.IGNORECASE
)
_PRONOUN_AFTER = re.compile(
    r"\s+(?:of|can|could|may|might|must|should|would|by one|on the|in the|at the|side|another|hand)\b", re.IGNORECASE
)
_LISTED = re.compile(r"[.)]\s+\S")
_AND_MORE = re.compile(rf"[^.;:\n]*\b(?:and|plus)\s+{_NUMBER}|\w+\s*,\s*(?:\d|(?:{_SPELLED})\b)", re.IGNORECASE)


_MOST_DIGITS = 12


class _Found(NamedTuple):
    place: int
    number: str
    open: bool


def read_count(text: str) -> tuple[str | None, str]:
    """The count in digits and where it was found, or None and why there is none; see `read_answer`."""
    text = _as_digits(text)
    for reason, patterns in (("declared", _DECLARED), ("stated", _STATED), ("first word", _FIRST)):
        found = list(_all(patterns, text))
        if reason == "stated":
            none = list(_NO.finditer(text))
            if any(_BUT.match(text, match.end()) for match in none[-50:]):
                return None, "nothing of one kind, but some of another"
            found += [_Found(match.start(), "0", False) for match in none]
        if found:
            last = max(found, key=lambda one: one.place)
            if reason == "stated" and (whole := _total_first(found)):
                last = whole
            if last.open or (reason == "first word" and _AND_MORE.match(text, last.place)):
                return None, f"not one number: {_around(text, last.place)}"
            return _whole(last.number, reason)
    anywhere = list(_all(_ANYWHERE, text))
    numbers = {one.number for one in anywhere}
    if any(one.open for one in anywhere) and len(numbers) <= 2:
        return None, f"not one number: {_around(text, anywhere[0].place)}"
    if len(numbers) == 1:
        return _whole(numbers.pop(), "only candidate")
    if not numbers and (_OTHERS_NO.search(text) or _ARTICLE.search(text)):
        return ("0" if _OTHERS_NO.search(text) else "1"), "stated"
    return None, f"several candidates: {', '.join(sorted(numbers)[:8])}" if numbers else "no candidate"


def _as_digits(text: str) -> str:
    """Without years and numbers that are only counted off ("one, two, three"), hundreds and Chinese tens in digits."""
    text = re.sub(r"(\d{13})\d+", r"\1", text)  # no count, and slow to look through
    text = _HUNDREDS.sub(_hundreds, text)
    text = _CHINESE_TENS.sub(lambda match: str(10 * _CHINESE.get(match[1], 1) + _CHINESE.get(match[2], 0)), text)
    return _RUN.sub(_not_counted_off, _YEAR.sub(" ", text))


def _hundreds(match: re.Match[str]) -> str:
    first, rest = match[1].casefold(), (match[2] or "").casefold()
    ones = _WORDS[re.sub(r"\s+", " ", rest)] if rest else 0
    return str(100 * (1 if first == "a" else _WORDS[first]) + ones)


def _not_counted_off(match: re.Match[str]) -> str:
    words = re.findall(rf"\d+|\b(?:{_SPELLED})\b", match[0], re.IGNORECASE)
    numbers = [_WORDS[word.casefold()] if word.casefold() in _WORDS else int(word) for word in words]
    counted = len(numbers) > 1 and numbers == list(range(1, len(numbers) + 1))
    return "," if counted else match[0]


def _total_first(found: list[_Found]) -> _Found | None:
    """The first of several where it is the others' sum: "There are 3. There is 1 here, and there are 2 there"."""
    first, *rest = sorted(set(found), key=lambda one: one.place)
    whole = all(one.number.isdecimal() for one in (first, *rest)) and len(rest) > 1
    return first if whole and int(first.number) == sum(int(one.number) for one in rest) else None


def _whole(number: str, reason: str) -> tuple[str | None, str]:
    if "." in number:
        whole, _, rest = number.partition(".")
        if rest.strip("0"):
            return None, f"{number} is no count"
        number = whole
    if len(number) > _MOST_DIGITS:
        return None, f"{number[:_MOST_DIGITS]}... is no count"
    return (None, f"{number} is no count") if number.startswith("-") else (str(int(number)), reason)


def _all(patterns: list[re.Pattern[str]], text: str) -> Iterator[_Found]:
    for pattern in patterns:
        for match in pattern.finditer(text):
            if match.groupdict().get("no") is not None:
                yield _Found(match.start(), "0", False)
                continue
            start, end = match.span("number")
            word = match["number"].casefold()
            before, pronoun = text[max(0, start - 24) : start], word in ("one", "single", "nothing", "none")
            if pronoun and (_PRONOUN_BEFORE.search(before) or _PRONOUN_AFTER.match(text, end)):
                continue
            if (
                _SUM_AFTER.match(text, end)
                or (_SUM_BEFORE.search(before) and not text[end:].lstrip().startswith("="))
                or _NOT_BEFORE.search(before)
                or _NO_COUNT_AFTER.match(text, end)
                or (pattern is _DECLARED[0] and _VERB_BEFORE.search(text[max(0, match.start() - 12) : match.start()]))
            ):
                continue
            if pattern is not _DECLARED[0] and _is_list_number(text, start, end):
                continue
            number = str(_WORDS[word]) if word in _WORDS else str(_CHINESE[word]) if word in _CHINESE else word
            if word == "a pair of" and _ONE_THING_AFTER.match(text, end):
                number = "1"
            open_ended = bool(
                _RANGE_BEFORE.search(before) or _RANGE_AFTER.match(text, end) or _PAIRS_AFTER.match(text, end)
            )
            yield _Found(start, number.replace(",", ""), open_ended)


def _is_list_number(text: str, start: int, end: int) -> bool:
    """Whether it numbers a line, as in "1. a dog", rather than answers."""
    before = text[text.rfind("\n", 0, start) + 1 : start]
    return "\n" in text and not before.strip(" -#(") and bool(_LISTED.match(text, end))


def _around(text: str, place: int) -> str:
    return repr(text[max(0, place - 15) : place + 15].strip())
