"""Numbers as they are written: digits, words of some languages, hundreds and dozens."""

from __future__ import annotations

import re

__all__ = ["NUMBER", "normalize_numbers", "read_digits", "words"]

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
    # Left out: words that are articles, or have another meaning in English or JSON (un, once, dos, null).
    "cero": 0,
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
NUMBER_WORDS: dict[str, int] = {
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
_WORD = "|".join(sorted(map(re.escape, NUMBER_WORDS), key=len, reverse=True))
NUMBER = (
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
_ENUMERATION = re.compile(
    rf"\b(?:1|one)\b(?:(?:\s*,\s*(?:and\s+)?|\s*\.\.+\s*)(?:[1-9]\d*|(?:{_WORD})\b))+", re.IGNORECASE
)
_MAX_ENUMERATION = 1_000
"""Characters; nobody counts farther aloud."""


def normalize_numbers(text: str) -> str:
    """Remove years and numbers that are only counted off ("one, two, three"); hundreds and Chinese tens in digits."""
    text = re.sub(r"(\d{13})\d+", r"\1", text)  # not a count, and slow to search
    text = _HUNDREDS.sub(_write_hundreds, text)
    text = _CHINESE_TENS.sub(
        lambda match: str(10 * _CHINESE_DIGITS.get(match[1], 1) + _CHINESE_DIGITS.get(match[2], 0)), text
    )
    return _ENUMERATION.sub(_remove_enumeration, _YEAR.sub(" ", text))


def _write_hundreds(match: re.Match[str]) -> str:
    hundreds, rest = match[1].casefold(), (match[2] or "").casefold()
    ones = NUMBER_WORDS[re.sub(r"\s+", " ", rest)] if rest else 0
    return str(100 * (1 if hundreds == "a" else NUMBER_WORDS[hundreds]) + ones)


def _remove_enumeration(match: re.Match[str]) -> str:
    if len(match[0]) > _MAX_ENUMERATION:
        return match[0]
    found = re.findall(rf"\d+|\b(?:{_WORD})\b", match[0], re.IGNORECASE)
    numbers = [NUMBER_WORDS[word.casefold()] if word.casefold() in NUMBER_WORDS else int(word) for word in found]
    return "," if len(numbers) > 1 and numbers == list(range(1, len(numbers) + 1)) else match[0]


def read_digits(number: str) -> str:
    """The digits of a number that `NUMBER` matched: "5" of "five", "1024" of "1,024"."""
    if number.isdecimal():
        return number
    word = re.sub(r"\s+", " ", number.casefold())
    return str(NUMBER_WORDS.get(word, _CHINESE_DIGITS.get(word, word))).replace(",", "")


def words(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())
