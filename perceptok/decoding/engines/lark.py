"""llguidance: the grammar in its Lark dialect.

What it enforces, token by token: blocks of exactly 100 codes, tuples of four with the tokenizer's own brackets, x2 >=
x1 and y2 >= y1 (by parametric rules, in 40 kB), limits, what comes first, a forced block, no stray perception token, no
end inside a block. What it cannot: the budget, and what a prompt left open.
"""

from __future__ import annotations

from collections.abc import Sequence

from perceptok.decoding.grammar.automaton import GrammarConfig
from perceptok.decoding.grammar.productions import TokenClasses, id_ranges, productions
from perceptok.decoding.grammar.token_symbols import BracketTokenizer
from perceptok.vocabulary import PerceptionVocabulary

__all__ = ["perception_lark"]

# Where a token is the only one possible, llguidance 1.9 forces the bytes of its reference instead of its text, and then
# refuses the token itself unless it is special ("forced bytes: got 'ÿ'; applying ','").
_OPTIONS = '%llguidance {"no_forcing": true}\n'

_BITS = 9  # of one coordinate, 0..335, in a rule's parameter: x1 in bits 0..8, y1 in bits 9..17


def perception_lark(
    vocab: PerceptionVocabulary,
    config: GrammarConfig | None = None,
    *,
    tokenizer: BracketTokenizer | None = None,
    eos_token_id: int | Sequence[int] | None = None,
) -> str:
    """The grammar for llguidance 1.3 or later: `LLMatcher.grammar_from_lark(text)`. Needs no llguidance.

    Args:
        vocab: Perception tokens and their ids.
        config: The grammar; the default as in `PerceptionLogitsProcessor`.
        tokenizer: For the bracket pieces of AURORA boxes and the end of sequence.
        eos_token_id: Ids that end a sequence, instead of the tokenizer's.

    Raises:
        ConstraintError: Vocabulary, tokenizer and grammar do not fit together, or the limits have too many
            combinations.
    """
    classes = TokenClasses.of(vocab, config, tokenizer, eos_token_id)
    rules = productions(classes, _Lark(), "start")
    return _OPTIONS + "\n".join(f"{name}: {' | '.join(alternatives)}" for name, alternatives in rules.items())


class _Lark:
    """llguidance's Lark: `<[3-5,9]>` is one token of these ids, whatever its text."""

    def tokens(self, ids: Sequence[int]) -> str:
        return f"<[{_listed(ids)}]>"

    def free(self, classes: TokenClasses) -> dict[str, list[str]]:
        # Listed, not excluded: `<[^...]>` allows padded columns of the logits too (llguidance 1.9).
        return {"free-text": ["free*"], "free": [self.tokens(classes.free)]}

    def box(self, classes: TokenClasses, between: str) -> dict[str, list[str]]:
        pixels = classes.pixels
        if not classes.config.ordered:
            return {"pixel": [self.tokens(pixels)], "box": [f" {between} ".join(["pixel"] * 4)]}
        y1, x2 = f"[0:{_BITS}]", f"[{_BITS}:{2 * _BITS}]"
        coded = [(code, self.tokens([number])) for code, number in enumerate(pixels)]
        return {
            "box": [f"{token} {between} box-y1::{code}" for code, token in coded],
            "box-y1::_": [f"{token} {between} box-x2::bit_or({code << _BITS})" for code, token in coded],
            "box-x2::_": [f"{token} {between} box-y2::_ %if le({y1}, {code})" for code, token in coded],
            "box-y2::_": [f"{token} %if le({x2}, {code})" for code, token in coded],
        }


def _listed(ids: Sequence[int]) -> str:
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in id_ranges(ids))
