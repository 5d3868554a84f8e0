"""The final answer of a free text: a marker's letter or a count, by fixed rules and without a guess."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from perceptok.errors import EvaluationError
from perceptok.tokens import DEPTH, PIXEL

__all__ = ["AnswerReading", "read_answer", "to_plain_text"]


class AnswerReading(NamedTuple):
    """What a text answers.

    Attributes:
        value: One of the choices, or a count in digits; None where the text gives no answer, or several.
        reason: Where it was found ("declared", "stated", "first word", "compared", "only candidate"), or why there is
            none.
    """

    value: str | None
    reason: str


def _compile(*patterns: str) -> list[re.Pattern[str]]:
    return [re.compile(pattern, re.IGNORECASE) for pattern in patterns]


_SPACE_ON_LINE = re.compile(r"[^\S\n]++")
_EMPTY_LINES = re.compile(r" ?\n(?: ?\n)++ ?")
_PLAIN_CHARACTERS = str.maketrans({"\u2018": "'", "\u2019": "'", "\u2013": "-", "\u2014": "-"})
_TOKENS = re.compile(rf"(?:<(?:{DEPTH.name}|{PIXEL.name})_[A-Za-z0-9]*>)+")
_BOXES = re.compile(r"(?im)^[ \t]*(?:bounding )?box \d+ ?:.*$|\(\s*(?:-?\d+\s*,\s*){3}-?\d+\s*\)")
_COORDINATES = re.compile(r"\(?\bx ?= ?\d*,? ?y ?= ?\d*\)?")
_MARKED_ANSWER = re.compile(
    r"\\boxed\s*\{\s*(?:\\text\s*\{)?([^{}]*)\}+|<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL | re.IGNORECASE
)
_THOUGHTS = re.compile(r"\A.*</think(?:ing)?>(?=.*\w)", re.DOTALL | re.IGNORECASE)
_JOINED_LETTER = re.compile(r"\b((?i:points?|options?|markers?|choices?|labels?))[_-]?([A-H])\b")
_MATH = re.compile(r"\$\$(.+?)\$\$|\$(?=\S)([^$\n]*?)(?<=\S)\$(?!\d)")
"""Between dollars as Pandoc reads them: "$5$", but not "$5 and $6"."""
_MONEY = re.compile(r"(?:[$€£¥]\s?\d[\d.,]*)+|(?<![\d.,])\d[\d.,]{0,20}\s?[€£]")
_MARKUP = re.compile(r"[*_`$#]+|</?(?:b|i|strong|em|p|br)\s*/?>", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\b(?:sorry|can(?:no|')t|unable to|not able to|impossible to|don't know|do not know|no way to)\b", re.IGNORECASE
)


def read_answer(text: str, choices: Sequence[str] | Mapping[str, str] = ()) -> AnswerReading:
    r"""Read the final answer of a text.

    Perception tokens, coordinates, boxes and Markdown are removed first. Then, in this order: what is declared as the
    answer ("the answer is that point B ...", `\boxed{B}`, a last line that is only an answer), what is stated ("the
    closest is B", "there are 5"), a first word that is an answer, of letters what is compared ("B is closer"), and the
    only candidate that the text names. Within each the last one counts. "B or C", "between 3 and 4" and "at least 5"
    are not an answer.

    Args:
        text: What a model wrote.
        choices: Single letters: a letter is read, as the answer to what is closest. A mapping from letters to what
            they stand for: also the words of one choice alone. Whole numbers, or nothing: a count is read.

    Returns:
        The answer; a letter or a count outside the choices is not an answer, and the reason says which it was.

    Raises:
        EvaluationError: The choices are neither single letters nor whole numbers, or one is given twice.
    """
    names = [str(choice) for choice in choices]
    if len({name.casefold() for name in names}) != len(names):
        raise EvaluationError(f"each choice is given once; got {names}")
    plain = to_plain_text(text)
    if not plain.strip():
        return AnswerReading(None, "nothing was written")
    if names and all(re.fullmatch("[A-Za-z]", name) for name in names):
        reading = _read_choice(plain, {name.upper(): name for name in names}, choices)
    elif all(name.isdecimal() for name in names):
        reading = _read_count(plain)
        if reading.value is not None and names and reading.value not in {str(int(name)) for name in names}:
            reading = AnswerReading(None, f"{reading.value} is not among the choices {', '.join(names)}")
    else:
        raise EvaluationError(f"choices are single letters or whole numbers; got {names}")
    if reading.value is None and _REFUSAL.search(plain):
        return AnswerReading(None, "a refusal")
    return reading


def to_plain_text(text: str) -> str:
    """Remove perception tokens, coordinates, boxes, money and markup; full-width characters become plain ones.

    Thoughts, up to `</think>`, are left out where anything follows them.
    """
    text = unicodedata.normalize("NFKC", text).translate(_PLAIN_CHARACTERS)
    # Patterns allow space in several places: long runs of it would take exponential time.
    text = _EMPTY_LINES.sub("\n\n", _SPACE_ON_LINE.sub(" ", text))
    text = _THOUGHTS.sub("", text)
    text = _MARKED_ANSWER.sub(lambda match: f"\nThe answer is {(match[1] or match[2] or '').strip()}\n", text)
    text = _TOKENS.sub("", text)
    text = _BOXES.sub(" ", text)
    text = _MONEY.sub(" some money ", _MATH.sub(r"\1\2", text))
    return _MARKUP.sub("", _JOINED_LETTER.sub(r"\1 \2", _COORDINATES.sub(" ", text)))


# Letters


_POINT_NOUN = (
    r"(?:points?|options?|markers?|letters?|label(?:l?ed)?|circles?|choices?|dot|punkt|punto|ponto|точка|点|점)"
)
_LETTER = (
    r"(?P<open>[(\[\"'“「]\s*)?(?<![^\W一-鿿぀-ヿ가-힣])(?<!\w')(?P<letter>[A-Za-z])"
    r"(?![A-Za-z0-9_]|'\w|\.[A-Za-z])(?P<close>\s*[)\]\"'”」])?"
)
_NAMED_LETTER = rf"(?P<noun>{_POINT_NOUN}\s*)?{_LETTER}"
_LETTER_ANSWER = (
    r"(?:answer|option|choice|solution|conclusion|réponse|respuesta|antwort|"
    r"risposta|resposta|ответ|答案|回答|正解|答え|정답)"
)
_LETTER_LINK = (
    r"(?:is|was|would be|should be|must be|will be|that|the|therefore|to the question|to this question|clearly|i think|"
    r"est|ist|es|é|è|la|le|el|der|die|das|[:=,>→\"'-]|是|为|は|은|는)"
)
_LETTER_LINKS = rf"(?:(?:\s*+{_LETTER_LINK}){{1,8}}|[^\S\n]*+\n)\s*+"
"""Possessive, so that blank lines are matched in one way only."""
_IS = r"(?:is|are|be|appears?|seems?|looks?|would|must|lies|has|est|ist|está|é|是|が)"
_NEAREST = r"(?:closest|nearest|foremost|highest|brightest|más cerca\w*|plus proche|am nächsten|nächste|mais próxim\w+)"
_NEARER = r"(?:closer|nearer|in front|in the foreground|higher|brighter|larger|greater)"
_GAP = r"[^.\n;]{0,60}?"

(_RANKING,) = _compile(
    r"\b(?:closest|nearest)\s+to\s+(?:the\s+)?(?:farthest|furthest)\b[^.\n]{0,40}?(?:\bis\b|\bare\b|[:=])\s*"
    + _NAMED_LETTER
)
"""Its first letter is stated, whatever follows."""
_COMPARED_LETTER = _compile(rf"{_NAMED_LETTER}\s*,?\s*{_IS}\b(?P<gap>{_GAP})\b{_NEARER}")
_ANY_LETTER = _compile(_NAMED_LETTER)
_LETTER_RULES = {
    "declared": _compile(
        rf"{_LETTER_ANSWER}{_LETTER_LINKS}{_NAMED_LETTER}",
        rf"(?:\A|\n)[^\S\n]*{_NAMED_LETTER}[^\w\n]*\Z",
        rf"\A[^\w\n]*{_NAMED_LETTER}[^\w\n]*\n",
        r"\b(?:therefore|thus|hence|so)\b[\s,:]*(?:it is\s+|it's\s+|it must be\s+)?"
        rf"{_NAMED_LETTER}(?=\s*(?:[.!\n]|\Z))",
    ),
    "stated": [
        _RANKING,
        *_compile(
            rf"{_NAMED_LETTER}\s*,?\s*{_IS}\b(?P<gap>{_GAP})\b{_NEAREST}",
            rf"\b(?:{_NEAREST}|in (?:the )?front|in the foreground)\b(?P<gap>[^.\n;]{{0,80}}?)"
            rf"(?:\b{_IS}\b|[:=→-])\s*(?:the\s+)?(?:one\s+)?(?:{_POINT_NOUN}\s+)?{_NAMED_LETTER}",
            r"\b(?:choose|pick|select|go with|going with|guess|vote for|say)\s+(?:it is\s+|it's\s+)?" + _NAMED_LETTER,
        ),
    ],
    "first word": _compile(rf"\A\W*?{_NAMED_LETTER}"),
    "compared": _COMPARED_LETTER,
}
"""Reason -> patterns, in the order of trust."""

_DENIAL = re.compile(
    r"\bnot\b|n't\b|\bnor\b|\bfar(?:ther|thest)\b|\bfur(?:ther|thest)\b|\bbehind\b|\bthan\b|\bless\b", re.IGNORECASE
)
_OTHER_LETTER = re.compile(r"(?<![\w'])[B-H](?![\w'])")
_NOT_BEFORE_LETTER = re.compile(
    r"(?:\bnot|n't|\bneither|\bnor|\bthan|\brather than)\s*(?:be\s+|the\s+)?(?:option\s+|point\s+)?[(\"']?\s*\Z",
    re.IGNORECASE,
)
_FAR_AFTER_LETTER = re.compile(
    r"\s*(?:(?:is|are|has|looks|appears|seems)\s+(?:the\s+)?(?:a\s+)?"
    r"(?:not|far|fur|less|lower|behind|smaller|located\s*(?:at\b|[,.]|\Z))|\?\s*\S)",
    re.IGNORECASE,
)
_ALTERNATIVE = re.compile(
    r"\s*(?:/|,?\s*(?:or|and|oder|ou|o|y|et)\s+(?:possibly\s+|maybe\s+|perhaps\s+)?|,\s*(?=[A-Z]\s*(?:[,.\n]|\Z)))\s*"
    rf"(?:{_POINT_NOUN}\s*)?[(\"']?([A-Z])(?![\w'])"
)
_CANDIDATES = re.compile(
    r"\b(?:among|amongst|between|out of)\s+(?:(?:the\s+)?points\s+)?[A-H](?:\s*,\s*[A-H])*,?\s+(?:and|or)\s+[A-H]\b,?",
    re.IGNORECASE,
)
"""Named without a choice."""
_NOUN_AFTER_ARTICLE = re.compile(
    r"[^\S\n]+(?!(?:is|are|because|since|as|and|or|with|seems|appears|has|looks|lies|would|must|est|ist|es|é)\b)[a-z]"
)
_END_OF_PHRASE = re.compile(r"\s*(?:[^\w\s]|\Z|\n)")


class _FoundLetter(NamedTuple):
    start: int
    letter: str
    alternative: str | None


def _read_choice(text: str, names: dict[str, str], choices: Sequence[str] | Mapping[str, str]) -> AnswerReading:
    """Read a letter, or else the words of one choice alone; `names` maps upper case letters to the choices."""
    reading = _read_letter(text, frozenset(names))
    if reading.value is not None:
        return AnswerReading(names[reading.value], reading.reason)
    if isinstance(choices, Mapping):
        remaining = text.casefold()
        # The longest first and removed: "dining table" is not also "table".
        named = []
        for letter, words in sorted(choices.items(), key=lambda choice: -len(choice[1])):
            pattern = rf"(?<!\w){re.escape(words.casefold())}(?!\w)"
            if words and re.search(pattern, remaining):
                named.append(letter)
                remaining = re.sub(pattern, " ", remaining)
        if len(named) == 1:
            return AnswerReading(named[0], "only candidate")
    return reading


def _read_letter(text: str, letters: frozenset[str]) -> AnswerReading:
    """Read one of some upper case letters."""
    text = _CANDIDATES.sub(" ", text)
    for reason, patterns in _LETTER_RULES.items():
        found = list(_find_letters(patterns, text))
        if not found or (reason == "first word" and _begins_comparison(found[0], text)):
            continue
        last = max(found, key=lambda candidate: candidate.start)
        if last.alternative:
            return AnswerReading(None, f"two answers: {last.letter} and {last.alternative}")
        if last.letter not in letters:
            return AnswerReading(None, f"{last.letter} is not among the choices {', '.join(sorted(letters))}")
        return AnswerReading(last.letter, reason)
    named = {candidate.letter for candidate in _find_letters(_ANY_LETTER, text)} & letters
    if len(named) == 1:
        return AnswerReading(named.pop(), "only candidate")
    return AnswerReading(None, f"several candidates: {', '.join(sorted(named))}" if named else "no candidate")


def _begins_comparison(first: _FoundLetter, text: str) -> bool:
    """Whether the first word begins a comparison, which decides itself: "A is closer than C, B is closer than A"."""
    return any(candidate.start == first.start for candidate in _find_letters(_COMPARED_LETTER, text))


def _find_letters(patterns: list[re.Pattern[str]], text: str) -> Iterator[_FoundLetter]:
    for pattern in patterns:
        position = 0
        while match := pattern.search(text, position):
            start, end = match.span("letter")
            position = end  # a gap too long may hide the next one
            gap = match.groupdict().get("gap") or ""
            if _DENIAL.search(gap) or _OTHER_LETTER.search(gap) or not _names_choice(match, text):
                continue
            after = match.end("close") if match["close"] else end
            if _NOT_BEFORE_LETTER.search(text[max(0, start - 30) : start]) or _FAR_AFTER_LETTER.match(text, after):
                continue
            position = max(match.end(), end)
            alternative = None if pattern is _RANKING else _ALTERNATIVE.match(text, after)
            letter = match["letter"].upper()
            yield _FoundLetter(start, letter, alternative[1] if alternative and alternative[1] != letter else None)


def _names_choice(match: re.Match[str], text: str) -> bool:
    """Whether a letter names a choice; "a" and "A" may be articles, "I" a person."""
    letter, end = match["letter"], match.end("letter")
    if match["open"] and match["close"]:
        return True
    if letter.islower():
        return bool(match["noun"] or _END_OF_PHRASE.match(text, end))
    if letter == "I":
        return bool(_END_OF_PHRASE.match(text, end))
    return letter != "A" or not _NOUN_AFTER_ARTICLE.match(text, end)


# Counts


_SMALL_NUMBERS = [
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
_FOREIGN_NUMBERS = {
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
_CHINESE_DIGITS = dict(zip("零一二三四五六七八九十", range(11), strict=True)) | {"两": 2}
_NUMBER_WORDS: dict[str, int] = {
    **{word: number for number, word in enumerate(_SMALL_NUMBERS)},
    **{word: 20 + 10 * number for number, word in enumerate(_TENS)},
    **{
        f"{tens}{gap}{ones}": 20 + 10 * ten + unit
        for ten, tens in enumerate(_TENS)
        for unit, ones in enumerate(_SMALL_NUMBERS[:10])
        if unit
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
    **_FOREIGN_NUMBERS,
}
_WORD = "|".join(sorted(map(re.escape, _NUMBER_WORDS), key=len, reverse=True))
_NUMBER = (
    rf"(?P<number>(?<![\w.,])-?\d{{1,3}}(?:,\d{{3}})+(?![\w,])|(?<![\w.,-])-?\d+(?:\.\d+)?(?![\d]|[.,]\d|\w)"
    rf"|\b(?:{_WORD})\b|[零一二两三四五六七八九十](?=[个只头辆匹条位名把张])|\d+(?=[一-鿿])|(?<=[一-鿿])\d+)"
)
_HUNDREDS = re.compile(
    rf"\b(a|{'|'.join(_SMALL_NUMBERS[1:10])})\s+hundred(?:\s+and\b)?"
    rf"(?:[\s-]+((?:{'|'.join(_TENS)})(?:[ -](?:{'|'.join(_SMALL_NUMBERS[1:10])}))?|"
    rf"{'|'.join(reversed(_SMALL_NUMBERS[1:]))}))?\b",
    re.IGNORECASE,
)
_CHINESE_TENS = re.compile("([一二三四五六七八九])?十([一二三四五六七八九])?")
_YEAR = re.compile(r"\b(?:in|since|from)\s+(?:19|20)\d\d\b(?!\s+\w+s\b)", re.IGNORECASE)
_ENUMERATION = re.compile(rf"\b(?:1|one)\b(?:(?:\s*,\s*(?:and\s+)?|\s*\.\.+\s*)(?:\d+|(?:{_WORD})\b))+", re.IGNORECASE)
_PAIRED_OBJECT = (
    r"(?:\w+\s+)?(?:scissors|shears|glasses|sunglasses|spectacles|goggles|binoculars|pants|trousers|jeans|shorts|leggings|"
    r"tights|pajamas|pyjamas|pliers|tweezers|tongs|headphones|compasses)\b"
)
_COUNT_ANSWER = (
    r"(?:answer|total(?: number)?(?: of [\w ]{1,40}?)?|sum|count(?: of [\w ]{1,40}?)?|number of [\w ]{1,60}?|"
    r"conclusion|réponse|respuesta|antwort|risposta|resposta|ответ|答案|回答|正解|答え|정답)"
)
_COUNT_LINK = (
    r"(?:is|was|are|would be|should be|must be|of|that|the|there|comes to|therefore|est|ist|es|é|è|la|le|el|"
    r"[:=,>→-]|是|为|は|은|는)"
)
_COUNT_LINKS = rf"(?:(?:\s*+{_COUNT_LINK}){{1,8}}|[^\S\n]*+\n)\s*+"
_ADVERB = r"(?:only|exactly|just|about|around|approximately|roughly|a total of|in total|clearly|at present|currently)"

(_COUNT_AS_ANSWER,) = _compile(rf"\b{_COUNT_ANSWER}{_COUNT_LINKS}{_NUMBER}")
_ANY_COUNT = _compile(_NUMBER)
_COUNT_RULES = {
    "declared": [
        _COUNT_AS_ANSWER,
        *_compile(
            rf"\b(?:that|which|this)?\s*mak(?:es|ing)\s+(?:it\s+|a\s+total\s+of\s+)?{_NUMBER}",
            rf"\b(?:so|therefore|thus|hence)\b[\s,:]*"
            rf"(?:there\s+(?:are|is)\s+|that\s+is\s+|that's\s+|it's\s+|it\s+is\s+)?{_NUMBER}",
            rf"(?:\bno|\bwait|\bactually|\bsorry|\bcorrection|\bi mean|\brather)[,:]\s*"
            rf"(?:it's\s+|it\s+is\s+|there\s+are\s+|make\s+that\s+)?{_NUMBER}",
            rf"\A[^\w\n-]*{_NUMBER}[^\S\n]*(?:[.!)]*\n|[.!]\s+(?=[A-Z]))",
            rf"\bconclude\s+(?:that\s+)?(?:there\s+(?:are|is)\s+)?{_NUMBER}",
            rf"(?:\A|\n)[^\S\n]*\(?\s*{_NUMBER}\s*\)?[^\w\n]*\Z",
            rf"{_NUMBER}\s+(?:[\w-]+\s+){{0,4}}(?:in total|in all|altogether|overall)\b",
        ),
    ],
    "stated": _compile(
        rf"\b(?:there(?:\s+(?:are|is|were|was|appear to be|seem to be)|'s|'re)|(?:i|we)(?:\s+can)?\s+(?:see|count|"
        rf"counted|find|found|detect|identify)|"
        rf"(?:image|picture|photo|scene)\s+(?:shows|contains|has|depicts|includes)|it\s+(?:shows|contains|has)|"
        rf"il y a|es gibt|es sind|hay|ci sono|há)\s*(?:{_ADVERB}\s+)*{_NUMBER}",
        rf"=\s*{_NUMBER}",
    ),
    "first word": _compile(rf"\A\W*?(?:{_ADVERB}\s+)?(?:no\b(?P<no>)\s+\w|{_NUMBER})"),
}
"""Reason -> patterns, in the order of trust."""

_NONE_STATED = re.compile(
    r"\b(?:there(?:\s+(?:are|is|were|was)|'s|'re)\s+(?P<no>no)\b"
    r"(?!\s+(?:doubt|question|way|need|clear|more than|fewer|less|one\b))|"
    r"(?:aren't|isn't|are not|is not)\s+(?P<any>any)\b|"
    r"(?:see|find|contains|has|shows|detect)\s+(?P<none>no)\b(?!\s+(?:doubt|question|more|fewer|less))|"
    r"\b(?:\w+n't|not|cannot)\s+(?:\w+\s+){0,2}?(?P<seen>see|find|detect|contain|show|have|identify|spot|include)\s+any\b"
    r"(?!\s+(?:images?|pictures?|photos?|attachments?|more|other|further|difference|reason)))",
    re.IGNORECASE,
)
_FOREIGN_NONE = re.compile(
    r"没有|ありません|いません|없습니다|없다|\b(?:нет|keine?|aucune?|no\s+hay|nessun[oa]?|não\s+há|nenhuma?)\b",
    re.IGNORECASE,
)
"""Of other languages; they count where the text has no number at all, and so does the article in `_ARTICLE`."""
_ARTICLE = re.compile(
    r"\b(?:there(?:\s+is|'s)\s+(?:just\s+|only\s+)?an?|il\s+y\s+a\s+une?|hay\s+una?|es\s+gibt\s+einen?|há\s+uma?|c'è\s+una?)\s+"
    r"(?!(?:\w+\s+)?(?:lots?|groups?|number|total|few|couple|pair|dozen|variety|herd|flock|bunch|row|crowd|handful|set|pile|stack|"
    r"large|small|great|huge|good|collection|series|mix|range|possibility|chance|grupo|groupe|viel|plus)\b)\w",
    re.IGNORECASE,
)
_EXCEPTION = re.compile(rf"[^.\n]{{0,60}}?\b(?:but|however|though)\b[^.\n]{{0,40}}?{_NUMBER}", re.IGNORECASE)

_RANGE_BEFORE = re.compile(
    r"\b(?:between|at least|at most|more than|less than|fewer than|over|under|up to|from|or|"
    r"no more than|minimum of|either)\s*\Z",
    re.IGNORECASE,
)
_RANGE_AFTER = re.compile(
    rf"\s*(?:\+|[~〜/]\s*\d|(?:-|to|or|and|bis|oder)\s*(?:maybe\s+|possibly\s+|perhaps\s+)?(?:\d|(?:{_WORD})\b)|"
    r"or (?:more|fewer|so)\b)",
    re.IGNORECASE,
)
_SUM_AFTER = re.compile(rf"\s*(?:\+|plus\b)\s*(?:\d|(?:{_WORD})\b)", re.IGNORECASE)
_EQUALS_AFTER = re.compile(r"\s*=")
_SUM_BEFORE = re.compile(r"\w\s*(?:\+|\bplus)\s*\Z", re.IGNORECASE)
_NOT_BEFORE_COUNT = re.compile(r"\bnot\s*\Z", re.IGNORECASE)
_OTHER_UNIT_AFTER = re.compile(
    r"\s*(?:%|percent\b|per cent\b)|\s+(?:dozens?|hundreds?|thousands?|millions?|billions?)\b", re.IGNORECASE
)
_PAIRED_OBJECT_AFTER = re.compile(rf"\s+{_PAIRED_OBJECT}", re.IGNORECASE)
_PAIRS_AFTER = re.compile(rf"\s+(?:pairs|couples)\s+of\s+(?!{_PAIRED_OBJECT})", re.IGNORECASE)
"""Of things or of pairs: the text does not say the number."""
_VERB_BEFORE = re.compile(r"\b(?:let's|let me|let us|to|we|i|can|will)\s+\Z", re.IGNORECASE)
_PRONOUN_BEFORE = re.compile(
    r"\b(?:the|this|that|each|every|which|another|no|any|some|first|last|other|larger|smaller)\s*\Z", re.IGNORECASE
)
_PRONOUN_AFTER = re.compile(
    r"\s+(?:of|can|could|may|might|must|should|would|by one|on the|in the|at the|side|another|hand)\b", re.IGNORECASE
)
_LIST_ITEM = re.compile(r"[.)]\s+\S")
_FURTHER_COUNT = re.compile(rf"[^.;:\n]*\b(?:and|plus)\s+{_NUMBER}|\w+\s*,\s*(?:\d|(?:{_WORD})\b)", re.IGNORECASE)
_MAX_DIGITS = 12


class _FoundCount(NamedTuple):
    start: int
    number: str
    open_ended: bool


def _read_count(text: str) -> AnswerReading:
    text = _normalize_numbers(text)
    for reason, patterns in _COUNT_RULES.items():
        found = list(_find_counts(patterns, text))
        if reason == "stated":
            absences = list(_NONE_STATED.finditer(text))
            if any(_EXCEPTION.match(text, match.end()) for match in absences[-50:]):
                return AnswerReading(None, "nothing of one kind, but some of another")
            found += [_FoundCount(match.start(), "0", False) for match in absences]
        if found:
            last = max(found, key=lambda candidate: candidate.start)
            if reason == "stated":
                last = _find_leading_total(found) or last
            if last.open_ended or (reason == "first word" and _FURTHER_COUNT.match(text, last.start)):
                return AnswerReading(None, f"not one number: {_quote_context(text, last.start)}")
            return _read_whole_number(last.number, reason)
    anywhere = list(_find_counts(_ANY_COUNT, text))
    numbers = {candidate.number for candidate in anywhere}
    if any(candidate.open_ended for candidate in anywhere) and len(numbers) <= 2:
        return AnswerReading(None, f"not one number: {_quote_context(text, anywhere[0].start)}")
    if len(numbers) == 1:
        return _read_whole_number(numbers.pop(), "only candidate")
    if numbers:
        return AnswerReading(None, f"several candidates: {', '.join(sorted(numbers)[:8])}")
    if _FOREIGN_NONE.search(text):
        return AnswerReading("0", "stated")
    return AnswerReading("1", "stated") if _ARTICLE.search(text) else AnswerReading(None, "no candidate")


def _normalize_numbers(text: str) -> str:
    """Remove years and numbers that are only counted off ("one, two, three"); hundreds and Chinese tens in digits."""
    text = re.sub(r"(\d{13})\d+", r"\1", text)  # not a count, and slow to search
    text = _HUNDREDS.sub(_write_hundreds, text)
    text = _CHINESE_TENS.sub(
        lambda match: str(10 * _CHINESE_DIGITS.get(match[1], 1) + _CHINESE_DIGITS.get(match[2], 0)), text
    )
    return _ENUMERATION.sub(_remove_enumeration, _YEAR.sub(" ", text))


def _write_hundreds(match: re.Match[str]) -> str:
    hundreds, rest = match[1].casefold(), (match[2] or "").casefold()
    ones = _NUMBER_WORDS[re.sub(r"\s+", " ", rest)] if rest else 0
    return str(100 * (1 if hundreds == "a" else _NUMBER_WORDS[hundreds]) + ones)


def _remove_enumeration(match: re.Match[str]) -> str:
    words = re.findall(rf"\d+|\b(?:{_WORD})\b", match[0], re.IGNORECASE)
    numbers = [_NUMBER_WORDS[word.casefold()] if word.casefold() in _NUMBER_WORDS else int(word) for word in words]
    return "," if len(numbers) > 1 and numbers == list(range(1, len(numbers) + 1)) else match[0]


def _find_leading_total(found: list[_FoundCount]) -> _FoundCount | None:
    """The first of several where it is the others' sum: "There are 3. There is 1 here, and there are 2 there"."""
    first, *rest = sorted(set(found), key=lambda candidate: candidate.start)
    if len(rest) < 2 or not all(candidate.number.isdecimal() for candidate in (first, *rest)):
        return None
    return first if int(first.number) == sum(int(candidate.number) for candidate in rest) else None


def _read_whole_number(number: str, reason: str) -> AnswerReading:
    whole, _, decimals = number.partition(".")
    if decimals.strip("0") or whole.startswith("-"):
        return AnswerReading(None, f"{number} is not a count")
    if len(whole) > _MAX_DIGITS:
        return AnswerReading(None, f"{whole[:_MAX_DIGITS]}... is not a count")
    return AnswerReading(str(int(whole)), reason)


def _find_counts(patterns: list[re.Pattern[str]], text: str) -> Iterator[_FoundCount]:
    for pattern in patterns:
        for match in pattern.finditer(text):
            if match.groupdict().get("no") is not None:
                yield _FoundCount(match.start(), "0", False)
                continue
            start, end = match.span("number")
            if not _is_count(match, text):
                continue
            if pattern is _COUNT_AS_ANSWER:
                if _VERB_BEFORE.search(text[max(0, match.start() - 12) : match.start()]):
                    continue
            elif _is_list_number(text, start, end):
                continue
            word = match["number"].casefold()
            number = str(_NUMBER_WORDS.get(word, _CHINESE_DIGITS.get(word, word)))
            if word == "a pair of" and _PAIRED_OBJECT_AFTER.match(text, end):
                number = "1"
            open_ended = bool(
                _RANGE_BEFORE.search(text[max(0, start - 24) : start])
                or _RANGE_AFTER.match(text, end)
                or _PAIRS_AFTER.match(text, end)
            )
            yield _FoundCount(start, number.replace(",", ""), open_ended)


def _is_count(match: re.Match[str], text: str) -> bool:
    """Whether a number counts things: not a pronoun, a part of a sum, a denied number, a share or a multiple."""
    start, end = match.span("number")
    before = text[max(0, start - 24) : start]
    if match["number"].casefold() in ("one", "single", "nothing", "none") and (
        _PRONOUN_BEFORE.search(before) or _PRONOUN_AFTER.match(text, end)
    ):
        return False
    is_addend = _SUM_AFTER.match(text, end) or (_SUM_BEFORE.search(before) and not _EQUALS_AFTER.match(text, end))
    return not (is_addend or _NOT_BEFORE_COUNT.search(before) or _OTHER_UNIT_AFTER.match(text, end))


def _is_list_number(text: str, start: int, end: int) -> bool:
    """Whether a number numbers a line, as in "1. a dog"."""
    while start > 0 and text[start - 1] in " -#(":
        start -= 1
    is_first = start == 0 or text[start - 1] == "\n"
    return is_first and _LIST_ITEM.match(text, end) is not None and "\n" in text


def _quote_context(text: str, start: int) -> str:
    return repr(text[max(0, start - 15) : start + 15].strip())
