"""llama.cpp: the grammar in GBNF.

Enforced: blocks of exactly 100 codes, boxes of four coordinates, limits, what comes first, a forced block, no stray
perception token, no end inside a block. Not enforced: x2 >= x1 and y2 >= y1 (112,896 alternatives, for a reader that
keeps a stack for each that may come next), the token budget, and what a prompt left open.

A block's `<DEPTH_START>` and `<DEPTH_END>` are written by id (`<[32000]>`), its codes and the coordinates of boxes by
their text with classes of digits, running text by its characters, for GBNF can neither name a set of tokens nor exclude
one: text contains neither "<DEPTH_" nor "<PIXEL_", however spelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from perceptok.decoding.grammar.automaton import GrammarConfig
from perceptok.decoding.grammar.productions import TokenClasses, build_productions
from perceptok.errors import ConstraintError
from perceptok.tokens import DEPTH, PIXEL, TokenSet
from perceptok.vocabulary import PerceptionVocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["build_gbnf_grammar"]


def build_gbnf_grammar(
    vocab: PerceptionVocabulary,
    config: GrammarConfig | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    spelled: bool | Literal["codes"] = "codes",
) -> str:
    """The grammar for llama.cpp, as GBNF with the rule `root`.

    Boxes are not ordered in it, whatever the configuration says.

    Args:
        vocab: Perception tokens and their ids.
        config: The grammar; by default depth and boxes where the vocabulary has them, boxes in the AURORA form if there
            is a tokenizer and in the compact form if not.
        tokenizer: For the default configuration and the end of sequence; the brackets of AURORA boxes are characters
            here.
        eos_token_id: Ids that end a sequence, instead of the tokenizer's.
        spelled: Which perception tokens are written by their text. What is written by text is whole in the answer's
            text, but a model that was not trained on the tokens may spell one in pieces ("<", "DE", "PTH", ...). With
            "codes", the codes of blocks and the coordinates of boxes, which with Llama's ids gives 1.3 kB; with False
            none, 6.6 kB, and llama.cpp takes two to five times as long for a token of a block, because every id is an
            alternative of its own; with True all, for readers of GBNF without token references.

    Raises:
        ConstraintError: Vocabulary and grammar do not fit together, the limits have too many combinations, or `spelled`
            is not one of the three.
    """
    if spelled not in (True, False, "codes"):
        raise ConstraintError(f"spelled is True, False or 'codes'; got {spelled!r}")
    classes = TokenClasses.from_vocabulary(vocab, config, tokenizer, eos_token_id)
    config = classes.config
    codes = {
        token_id: (token_set, code)
        for token_set in (DEPTH, PIXEL)
        if spelled and vocab.has(token_set)
        for code, token_id in enumerate(vocab.ids(token_set).tolist())
    }
    markers = {vocab.start_id(DEPTH): DEPTH.start, vocab.end_id(DEPTH): DEPTH.end} if vocab.has(DEPTH) else {}
    notation = _Gbnf(config.boxes == "aurora", codes, markers if spelled is True else {})
    compact = replace(config, boxes=config.boxes and "compact")
    rules = build_productions(TokenClasses(compact, classes.symbols), notation, "root")
    if config.boxes == "aurora" and config.first == "box":
        rules["root"] = [f'" "? {rules["root"][0]}']  # the first piece may be " (" as well as "("
    if config.first == "text":
        # `free` reads on already: with text after it the grammar would be ambiguous, and xgrammar 0.2.8 loses its way.
        rules["root"] = ["free tail-0-0"]
    return "\n".join(f"{name} ::= {' | '.join(alternatives)}" for name, alternatives in rules.items())


@dataclass(frozen=True)
class _Gbnf:
    """GBNF, with brackets as characters where boxes have them.

    Attributes:
        brackets: Boxes are written `(x1,y1,x2,y2)`.
        codes: Id -> token set and code of tokens that are written by their text.
        markers: Id -> text of the start and end of blocks, where they are written by their text.
    """

    brackets: bool
    codes: Mapping[int, tuple[TokenSet, int]]
    markers: Mapping[int, str]

    def write_tokens(self, ids: Sequence[int]) -> str:
        by_id = [f'"{self.markers[token_id]}"' if token_id in self.markers else f"<[{token_id}]>" for token_id in ids]
        if not ids or any(token_id not in self.codes for token_id in ids):
            return " | ".join(by_id)
        token_set = self.codes[ids[0]][0]
        numbers = frozenset(str(self.codes[token_id][1]) for token_id in ids)
        return f'"<{token_set.name}_" ({_write_numbers(numbers)}) ">"'

    def write_text_rules(self, classes: TokenClasses) -> dict[str, list[str]]:  # noqa: ARG002
        """Text without "<DEPTH_" and "<PIXEL_": one rule for each prefix of them, which starts anew at "<"."""
        stems = (f"<{DEPTH.name}_", f"<{PIXEL.name}_")
        rules = {"free": ["[^<] free-text", '"<" free-1'], "free-text": ["free", '""']}
        for prefix in sorted({stem[:length] for stem in stems for length in range(1, len(stem))}, key=len):
            following = sorted({stem[len(prefix)] for stem in stems if stem.startswith(prefix)})
            longer = [
                f'"{letter}" {_name_rule(prefix + letter)}' for letter in following if prefix + letter not in stems
            ]
            rules[_name_rule(prefix)] = [f"[^<{''.join(following)}] free-text", '"<" free-1', *longer, '""']
        return rules

    def write_box_rules(self, classes: TokenClasses, separator: str) -> dict[str, list[str]]:  # noqa: ARG002
        comma, opening, closing = ('","', '"("', '")"') if self.brackets else ("", "", "")
        box = f"{opening} {f' {comma} '.join(['pixel'] * 4)} {closing}"
        return {"pixel": [self.write_tokens(classes.pixels)], "box": [box]}


def _name_rule(prefix: str) -> str:
    return "free-1" if len(prefix) == 1 else f"free-{prefix[1:]}"


def _write_numbers(numbers: frozenset[str]) -> str:
    """Alternatives for decimal numbers, digit by digit: digits that the same numbers follow form one class."""
    rests = {digit: frozenset(number[1:] for number in numbers if number[:1] == digit) for digit in "0123456789"}
    alternatives = []
    for rest in dict.fromkeys(rest for rest in rests.values() if rest):
        digits = f"[{''.join(digit for digit in rests if rests[digit] == rest)}]"
        longer = rest - {""}
        alternatives.append(digits + (f" ({_write_numbers(longer)}){'?' * ('' in rest)}" if longer else ""))
    return " | ".join(alternatives)
