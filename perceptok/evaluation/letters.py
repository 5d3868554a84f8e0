"""The letter that a text answers with, when asked which point is closest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["read_letter"]

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
            told = max(found, key=lambda one: one.place)
            break
    else:
        named = {one.letter for one in _all(_ANYWHERE, text)} & choices
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
    return any(one.place == first.place for one in _all(_COMPARED, text))


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
