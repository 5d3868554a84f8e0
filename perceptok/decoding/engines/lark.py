"""llguidance: the grammar in its Lark dialect.

Enforced, token by token: blocks of exactly 100 codes, boxes of four coordinates with the tokenizer's own brackets,
x2 >= x1 and y2 >= y1 (by parametric rules, in 40 kB), limits, what comes first, a forced block, no stray perception
token, no end inside a block. Not enforced: the token budget, and what a prompt left open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from perceptok.decoding.grammar.automaton import GrammarConfig
from perceptok.decoding.grammar.productions import TokenClasses, build_productions
from perceptok.vocabulary import PerceptionVocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["build_lark_grammar"]

# Where a token is the only one possible, llguidance 1.9 forces the bytes of its reference instead of its text, and then
# refuses the token itself unless it is special ("forced bytes: got 'ÿ'; applying ','").
_OPTIONS = '%llguidance {"no_forcing": true}\n'

_BITS = 9  # of one coordinate, 0..335, in a rule's parameter: x1 in bits 0..8, y1 in bits 9..17


def build_lark_grammar(
    vocab: PerceptionVocabulary,
    config: GrammarConfig | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    eos_token_id: int | Sequence[int] | None = None,
) -> str:
    """The grammar for llguidance 1.3 or later: `LLMatcher.grammar_from_lark(text)`. Does not need llguidance.

    Args:
        vocab: Perception tokens and their ids.
        config: The grammar; by default depth and boxes where the vocabulary has them, boxes in the AURORA form if there
            is a tokenizer and in the compact form if not.
        tokenizer: For the bracket pieces of AURORA boxes and the end of sequence.
        eos_token_id: Ids that end a sequence, instead of the tokenizer's.

    Raises:
        ConstraintError: Vocabulary, tokenizer and grammar do not fit together, or the limits have too many
            combinations.
    """
    classes = TokenClasses.from_vocabulary(vocab, config, tokenizer, eos_token_id)
    rules = build_productions(classes, _Lark(), "start")
    return _OPTIONS + "\n".join(f"{name}: {' | '.join(alternatives)}" for name, alternatives in rules.items())


class _Lark:
    """llguidance's Lark: `<[3-5,9]>` is one token of these ids, whatever its text."""

    def write_tokens(self, ids: Sequence[int]) -> str:
        ranges: list[tuple[int, int]] = []
        for token_id in sorted(ids):
            if ranges and ranges[-1][1] == token_id - 1:
                ranges[-1] = (ranges[-1][0], token_id)
            else:
                ranges.append((token_id, token_id))
        return f"<[{','.join(f'{first}-{last}' if last > first else f'{first}' for first, last in ranges)}]>"

    def write_text_rules(self, classes: TokenClasses) -> dict[str, list[str]]:
        # Listed, not excluded: `<[^...]>` allows padded columns of the logits too (llguidance 1.9).
        return {"free-text": ["free*"], "free": [self.write_tokens(classes.text)]}

    def write_box_rules(self, classes: TokenClasses, separator: str) -> dict[str, list[str]]:
        pixels = classes.pixels
        if not classes.config.ordered:
            return {"pixel": [self.write_tokens(pixels)], "box": [f" {separator} ".join(["pixel"] * 4)]}
        y1, x2 = f"[0:{_BITS}]", f"[{_BITS}:{2 * _BITS}]"
        coded = [(code, self.write_tokens([token_id])) for code, token_id in enumerate(pixels)]
        return {
            "box": [f"{token} {separator} box-y1::{code}" for code, token in coded],
            "box-y1::_": [f"{token} {separator} box-x2::bit_or({code << _BITS})" for code, token in coded],
            "box-x2::_": [f"{token} {separator} box-y2::_ %if le({y1}, {code})" for code, token in coded],
            "box-y2::_": [f"{token} %if le({x2}, {code})" for code, token in coded],
        }
