"""The final answer of a free text: a marker's letter or a count, by fixed rules and without a guess."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from perceptok.errors import EvaluationError
from perceptok.tokens import DEPTH, PIXEL

__all__ = ["Reading", "plain_text", "read_answer", "read_count", "read_letter"]


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
_COUNT_ANSWER = (
    r"(?:answer|total(?: number)?(?: of [\w ]{1,40}?)?|sum|count(?: of [\w ]{1,40}?)?|number of [\w ]{1,60}?|"
    r"conclusion|réponse|respuesta|antwort|risposta|resposta|ответ|答案|回答|正解|答え|정답)"
)
_COUNT_LINK = (
    r"(?:is|was|are|would be|should be|must be|of|that|the|there|comes to|therefore|est|ist|es|é|è|la|le|el|"
    r"[:=,>→-]|\n|是|为|は|은|는)"
)
_COUNT_DECLARED = [
    re.compile(rf"\b{_COUNT_ANSWER}\s*(?:{_COUNT_LINK}\s*){{1,8}}{_NUMBER}", re.IGNORECASE),
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
_COUNT_STATED = [
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
_COUNT_FIRST = [re.compile(rf"\A\W*?(?:{_MANY}\s+)?(?:no\b(?P<no>)\s+\w|{_NUMBER})", re.IGNORECASE)]
_COUNT_ANYWHERE = [re.compile(_NUMBER, re.IGNORECASE)]

_RANGE_BEFORE = re.compile(
    r"\b(?:between|at least|at most|more than|less than|fewer than|over|under|up to|from|or|"
    r"no more than|minimum of|either)\s*\Z",
    re.IGNORECASE,
)
_SUM_AFTER = re.compile(rf"\s*(?:\+|plus\b)\s*(?:\d|(?:{_SPELLED})\b)", re.IGNORECASE)
_SUM_BEFORE = re.compile(r"\w\s*(?:\+|\bplus)\s*\Z", re.IGNORECASE)
_COUNT_NOT_BEFORE = re.compile(r"\bnot\s*\Z", re.IGNORECASE)
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


class _FoundCount(NamedTuple):
    place: int
    number: str
    open: bool


def read_count(text: str) -> tuple[str | None, str]:
    """The count in digits and where it was found, or None and why there is none; see `read_answer`."""
    text = _as_digits(text)
    for reason, patterns in (("declared", _COUNT_DECLARED), ("stated", _COUNT_STATED), ("first word", _COUNT_FIRST)):
        found = list(_find_counts(patterns, text))
        if reason == "stated":
            none = list(_NO.finditer(text))
            if any(_BUT.match(text, match.end()) for match in none[-50:]):
                return None, "nothing of one kind, but some of another"
            found += [_FoundCount(match.start(), "0", False) for match in none]
        if found:
            last = max(found, key=lambda count: count.place)
            if reason == "stated" and (whole := _total_first(found)):
                last = whole
            if last.open or (reason == "first word" and _AND_MORE.match(text, last.place)):
                return None, f"not one number: {_around(text, last.place)}"
            return _whole(last.number, reason)
    anywhere = list(_find_counts(_COUNT_ANYWHERE, text))
    numbers = {count.number for count in anywhere}
    if any(count.open for count in anywhere) and len(numbers) <= 2:
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


def _total_first(found: list[_FoundCount]) -> _FoundCount | None:
    """The first of several where it is the others' sum: "There are 3. There is 1 here, and there are 2 there"."""
    first, *rest = sorted(set(found), key=lambda count: count.place)
    whole = all(count.number.isdecimal() for count in (first, *rest)) and len(rest) > 1
    return first if whole and int(first.number) == sum(int(count.number) for count in rest) else None


def _whole(number: str, reason: str) -> tuple[str | None, str]:
    if "." in number:
        whole, _, rest = number.partition(".")
        if rest.strip("0"):
            return None, f"{number} is not a count"
        number = whole
    if len(number) > _MOST_DIGITS:
        return None, f"{number[:_MOST_DIGITS]}... is not a count"
    return (None, f"{number} is not a count") if number.startswith("-") else (str(int(number)), reason)


def _find_counts(patterns: list[re.Pattern[str]], text: str) -> Iterator[_FoundCount]:
    for pattern in patterns:
        for match in pattern.finditer(text):
            if match.groupdict().get("no") is not None:
                yield _FoundCount(match.start(), "0", False)
                continue
            start, end = match.span("number")
            word = match["number"].casefold()
            before, pronoun = text[max(0, start - 24) : start], word in ("one", "single", "nothing", "none")
            if pronoun and (_PRONOUN_BEFORE.search(before) or _PRONOUN_AFTER.match(text, end)):
                continue
            if (
                _SUM_AFTER.match(text, end)
                or (_SUM_BEFORE.search(before) and not text[end:].lstrip().startswith("="))
                or _COUNT_NOT_BEFORE.search(before)
                or _NO_COUNT_AFTER.match(text, end)
                or (
                    pattern is _COUNT_DECLARED[0]
                    and _VERB_BEFORE.search(text[max(0, match.start() - 12) : match.start()])
                )
            ):
                continue
            if pattern is not _COUNT_DECLARED[0] and _is_list_number(text, start, end):
                continue
            number = str(_WORDS[word]) if word in _WORDS else str(_CHINESE[word]) if word in _CHINESE else word
            if word == "a pair of" and _ONE_THING_AFTER.match(text, end):
                number = "1"
            open_ended = bool(
                _RANGE_BEFORE.search(before) or _RANGE_AFTER.match(text, end) or _PAIRS_AFTER.match(text, end)
            )
            yield _FoundCount(start, number.replace(",", ""), open_ended)


def _is_list_number(text: str, start: int, end: int) -> bool:
    """Whether it numbers a line, as in "1. a dog", rather than answers."""
    before = text[text.rfind("\n", 0, start) + 1 : start]
    return "\n" in text and not before.strip(" -#(") and bool(_LISTED.match(text, end))


def _around(text: str, place: int) -> str:
    return repr(text[max(0, place - 15) : place + 15].strip())


_NOUN = r"(?:points?|options?|markers?|letters?|label(?:l?ed)?|circles?|choices?|dot|punkt|punto|ponto|точка|点|점)"
_LETTER = (
    r"(?P<open>[(\[\"'“「]\s*)?(?<![^\W一-鿿぀-ヿ가-힣])(?<!\w')(?P<letter>[A-Za-z])"
    r"(?![A-Za-z0-9_]|'\w|\.[A-Za-z])(?P<close>\s*[)\]\"'”」])?"
)
_NAMED = rf"(?P<noun>{_NOUN}\s*)?{_LETTER}"
_ANSWER = (
    r"(?:answer|option|choice|solution|conclusion|réponse|respuesta|antwort|"
    r"risposta|resposta|ответ|答案|回答|正解|答え|정답)"
)
_LINK = (
    r"(?:is|was|would be|should be|must be|will be|that|the|therefore|to the question|to this question|clearly|i think|"
    r"est|ist|es|é|è|la|le|el|der|die|das|[:=,>→\"'-]|\n|是|为|は|은|는)"
)
_BE = r"(?:is|are|be|appears?|seems?|looks?|would|must|lies|has|est|ist|está|é|是|が)"
_NEAREST = r"(?:closest|nearest|foremost|highest|brightest|más cerca\w*|plus proche|am nächsten|nächste|mais próxim\w+)"
_NEARER = r"(?:closer|nearer|in front|in the foreground|higher|brighter|larger|greater)"
_GAP = r"[^.\n;]{0,60}?"

_DECLARED = [
    re.compile(rf"{_ANSWER}\s*(?:{_LINK}\s*){{1,8}}{_NAMED}", re.IGNORECASE),
    re.compile(rf"(?:\A|\n)[^\S\n]*{_NAMED}[^\w\n]*\Z", re.IGNORECASE),
    re.compile(rf"\A[^\w\n]*{_NAMED}[^\w\n]*\n", re.IGNORECASE),
    re.compile(
        rf"\b(?:therefore|thus|hence|so)\b[\s,:]*(?:it is\s+|it's\s+|it must be\s+)?{_NAMED}(?=\s*(?:[.!\n]|\Z))",
        re.IGNORECASE,
    ),
]
_ORDER = re.compile(
    rf"\b(?:closest|nearest)\s+to\s+(?:the\s+)?(?:farthest|furthest)\b[^.\n]{{0,40}}?(?:\bis\b|\bare\b|[:=])\s*{_NAMED}",
    re.IGNORECASE,
)
"""A ranking: its first letter is stated, whatever follows."""
_STATED = [
    _ORDER,
    re.compile(rf"{_NAMED}\s*,?\s*{_BE}\b(?P<gap>{_GAP})\b{_NEAREST}", re.IGNORECASE),
    re.compile(
        rf"\b(?:{_NEAREST}|in (?:the )?front|in the foreground)\b(?P<gap>[^.\n;]{{0,80}}?)"
        rf"(?:\b{_BE}\b|[:=→-])\s*(?:the\s+)?(?:one\s+)?(?:{_NOUN}\s+)?{_NAMED}",
        re.IGNORECASE,
    ),
    re.compile(
        rf"\b(?:choose|pick|select|go with|going with|guess|vote for|say)\s+(?:it is\s+|it's\s+)?{_NAMED}",
        re.IGNORECASE,
    ),
]
_COMPARED = [re.compile(rf"{_NAMED}\s*,?\s*{_BE}\b(?P<gap>{_GAP})\b{_NEARER}", re.IGNORECASE)]
_FIRST = [re.compile(rf"\A\W*?{_NAMED}", re.IGNORECASE)]
_ANYWHERE = [re.compile(_NAMED, re.IGNORECASE)]

_DENIED = re.compile(
    r"\bnot\b|n't\b|\bnor\b|\bfar(?:ther|thest)\b|\bfur(?:ther|thest)\b|\bbehind\b|\bthan\b|\bless\b", re.IGNORECASE
)
_OTHER = re.compile(r"(?<![\w'])[B-H](?![\w'])")
_NOT_BEFORE = re.compile(
    r"(?:\bnot|n't|\bneither|\bnor|\bthan|\brather than)\s*(?:be\s+|the\s+)?(?:option\s+|point\s+)?[(\"']?\s*\Z",
    re.IGNORECASE,
)
_AWAY_AFTER = re.compile(
    r"\s*(?:(?:is|are|has|looks|appears|seems)\s+(?:the\s+)?(?:a\s+)?"
    r"(?:not|far|fur|less|lower|behind|smaller|located\s*(?:at\b|[,.]|\Z))|\?\s*\S)",
    re.IGNORECASE,
)
_ALSO = re.compile(
    rf"\s*(?:/|,?\s*(?:or|and|oder|ou|o|y|et)\s+(?:possibly\s+|maybe\s+|perhaps\s+)?|,\s*(?=[A-Z]\s*(?:[,.\n]|\Z)))\s*(?:{_NOUN}\s*)?[(\"']?([A-Z])(?![\w'])"
)
_AMONG = re.compile(
    r"\b(?:among|amongst|between|out of)\s+(?:(?:the\s+)?points\s+)?[A-H](?:\s*,\s*[A-H])*,?\s+(?:and|or)\s+[A-H]\b,?",
    re.IGNORECASE,
)
"""The candidates, named without a choice."""
_AFTER_ARTICLE = re.compile(
    r"[^\S\n]+(?!(?:is|are|because|since|as|and|or|with|seems|appears|has|looks|lies|would|must|est|ist|es|é)\b)[a-z]"
)
_ENDED = re.compile(r"\s*(?:[^\w\s]|\Z|\n)")


class _Found(NamedTuple):
    place: int
    letter: str
    also: str | None


def read_letter(text: str, choices: frozenset[str]) -> tuple[str | None, str]:
    """The letter (upper case) and where it was found, or None and why there is none; see `read_answer`.

    Args:
        text: Without tokens and markup.
        choices: Upper case.
    """
    told: _Found | None = None
    text = _AMONG.sub(" ", text)
    for reason, patterns in (
        ("declared", _DECLARED),
        ("stated", _STATED),
        ("first word", _FIRST),
        ("compared", _COMPARED),
    ):
        found = list(_all(patterns, text))
        if reason == "first word" and found and _contradicted(found[0], text):
            continue
        if found:
            told = max(found, key=lambda match: match.place)
            break
    else:
        named = {match.letter for match in _all(_ANYWHERE, text)} & choices
        if len(named) == 1:
            return named.pop(), "only candidate"
        return None, f"several candidates: {', '.join(sorted(named))}" if named else "no candidate"
    if told.also:
        return None, f"two answers: {told.letter} and {told.also}"
    if told.letter not in choices:
        return None, f"{told.letter} is not among the choices {', '.join(sorted(choices))}"
    return told.letter, reason


def _contradicted(first: _Found, text: str) -> bool:
    """Whether the first word begins a comparison, which decides itself: "A is closer than C, B is closer than A"."""
    return any(other.place == first.place for other in _all(_COMPARED, text))


def _all(patterns: list[re.Pattern[str]], text: str) -> Iterator[_Found]:
    for pattern in patterns:
        at = 0
        while match := pattern.search(text, at):
            start, end = match.span("letter")
            at = end  # a gap too long may hide the next one
            gap = match.groupdict().get("gap") or ""
            if _DENIED.search(gap) or _OTHER.search(gap) or not _is_a_letter(match, text):
                continue
            after = match.end("close") if match["close"] else end
            if _NOT_BEFORE.search(text[max(0, start - 30) : start]) or _AWAY_AFTER.match(text, after):
                continue
            at = max(match.end(), end)
            also = None if pattern is _ORDER else _ALSO.match(text, after)
            letter = match["letter"].upper()
            yield _Found(start, letter, also[1] if also and also[1] != letter else None)


def _is_a_letter(match: re.Match[str], text: str) -> bool:
    """Whether it names a choice; "a" and "A" may be articles, "I" a person."""
    letter, end = match["letter"], match.end("letter")
    if match["open"] and match["close"]:
        return True
    if letter.islower():
        return bool(match["noun"] or _ENDED.match(text, end))
    if letter == "I":
        return bool(_ENDED.match(text, end))
    return letter != "A" or not _AFTER_ARTICLE.match(text, end)


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
    Within each the last one counts. "B or C", "between 3 and 4" and "at least 5" are not answers.

    Args:
        text: What a model wrote.
        choices: Single letters: a letter is read, as the answer to what is closest. A mapping from letters to what
            they stand for: also the words of one choice alone. Whole numbers, or nothing: a count is read.

    Returns:
        The answer; a letter or a count outside the choices is not an answer, and the reason says which it was.

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
        for letter, words in sorted(choices.items(), key=lambda choice: -len(choice[1])):
            pattern = rf"(?<!\w){re.escape(words.casefold())}(?!\w)"
            if words and re.search(pattern, told):
                named.append(letter)
                told = re.sub(pattern, " ", told)
        if len(named) == 1:
            return Reading(named[0], "only candidate")
    return Reading(None, reason)
