"""The prose of an output: without what engines leave, thoughts, perception tokens, boxes, money and markup."""

from __future__ import annotations

import re
import unicodedata

from perceptok.tokens import DEPTH, PIXEL

__all__ = ["REFUSAL", "to_plain_text"]

REFUSAL = re.compile(
    r"\b(?:sorry|can(?:no|')t|unable to|not able to|(?:im|not )possible to|don't know|do not know|no way to)\b",
    re.IGNORECASE,
)
"""What a text that does not answer says."""

_SPACE_ON_LINE = re.compile(r"[^\S\n]++")
_EMPTY_LINES = re.compile(r" ?\n(?>(?: ?\n)+) ?")
_PLAIN_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019", "'"),
        **dict.fromkeys("\u2010\u2013\u2014\u2212", "-"),
        "\u2044": "/",
        "\u2581": " ",
    }
)
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\ue000-\uf8ff]")
_TOKENS = re.compile(rf"(?:<(?:{DEPTH.name}|{PIXEL.name})_[A-Za-z0-9]*>)+")
_BOXES = re.compile(r"(?im)^[ \t]*(?:bounding )?box \d+ ?:.*$|\(\s*(?:-?\d+\s*,\s*){3}-?\d+\s*\)")
_COORDINATES = re.compile(r"\(?\bx ?= ?\d*,? ?y ?= ?\d*\)?")
_MARKED_ANSWER = re.compile(
    r"\\boxed\s*\{\s*(?:\\text\s*\{)?([^{}]*)\}+|<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL | re.IGNORECASE
)
_THOUGHTS = re.compile(r"\A.*</think(?:ing)?>(?=.*\w)", re.DOTALL | re.IGNORECASE)
_OPEN_THOUGHTS = re.compile(r"<think(?:ing)?>.*", re.DOTALL | re.IGNORECASE)
_JOINED_LETTER = re.compile(r"\b((?i:points?|options?|markers?|choices?|labels?|box))[_-]?([A-H])\b")
_MATH = re.compile(r"\$\$(.+?)\$\$|\$(?=\S)([^$\n]*?)(?<=\S)\$(?!\d)")
"""Between dollars as Pandoc reads them: "$5$", but not "$5 and $6"."""
_MONEY = re.compile(r"(?:[$€£¥]\s?\d[\d.,]*)+|(?<![\d.,])\d[\d.,]{0,20}\s?[€£]")
_MARKUP = re.compile(r"[*_`$#]+|</?(?:b|i|strong|em|p|br)\s*/?>", re.IGNORECASE)
_ROLE = re.compile(r"<\|im_start\|>(\w+)|<start_of_turn>(\w+)|<\|start_header_id\|>(\w+)<\|end_header_id\|>")
_CONTROL_TOKENS = re.compile(
    r"</?s>|<\|[^<>|\n]{1,40}\|>|<(?:pad|unk|bos|eos|image|end_of_turn|end_of_utterance)>|\[/?INST\]", re.IGNORECASE
)
_USER_TURN = re.compile(r"(?:\A|\n)\s*(?i:user|human)\s*:|\b(?:USER|HUMAN):")
_MODEL_TURN = re.compile(r"(?:\A|\s)(?:assistant|model)\s*:", re.IGNORECASE)
_FENCE = re.compile(r"^[^\S\n]*```\w*", re.MULTILINE)


def to_plain_text(text: str) -> str:
    r"""Remove what is not prose; full-width characters become plain ones.

    Removed are the control tokens and roles of chat templates, a next turn of the user, thoughts (up to `</think>`
    where anything follows them, and all of those that do not end), perception tokens, boxes, coordinates, money and
    markup. `\boxed{B}` and `<answer>B</answer>` become "The answer is B".
    """
    text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text).translate(_PLAIN_CHARACTERS))
    # Patterns allow space in several places: long runs of it would take exponential time.
    text = _EMPTY_LINES.sub("\n\n", _SPACE_ON_LINE.sub(" ", text))
    text = _keep_own_turn(_CONTROL_TOKENS.sub(" ", _ROLE.sub(r"\n\1\2\3: ", text)))
    text = _remove_thoughts(text)
    text = _MARKED_ANSWER.sub(lambda match: f"\nThe answer is {(match[1] or match[2] or '').strip()}\n", text)
    text = _BOXES.sub(" ", _TOKENS.sub("", _FENCE.sub("", text)))
    text = _MONEY.sub(" some money ", _MATH.sub(r"\1\2", text))
    return _MARKUP.sub("", _JOINED_LETTER.sub(r"\1 \2", _COORDINATES.sub(" ", text)))


def _keep_own_turn(text: str) -> str:
    """The model's own turn, without a repeated prompt before it and without a next turn after it."""
    if (_USER_TURN.match(text) and (turn := _MODEL_TURN.search(text))) or (turn := _MODEL_TURN.match(text)):
        text = text[turn.end() :]
    following = _USER_TURN.search(text)
    return text[: following.start()] if following and text[: following.start()].strip() else text


def _remove_thoughts(text: str) -> str:
    text = _THOUGHTS.sub("", text)
    return text if "</think" in text else _OPEN_THOUGHTS.sub("", text)
