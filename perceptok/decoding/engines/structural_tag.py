"""xgrammar: the grammar as a structural tag, which vLLM, SGLang and TensorRT-LLM take as they are.

What it enforces, token by token: blocks of exactly 100 codes, tuples of four with the tokenizer's own brackets, x2 >=
x1 and y2 >= y1, limits, what comes first, a forced block, no stray perception token, no end inside a block. What it
cannot: the budget (nothing holds back a block that `max_tokens` would cut), and what a prompt left open, for a tag
describes the answer alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from perceptok.decoding.grammar.automaton import GrammarConfig
from perceptok.decoding.grammar.productions import TokenClasses, productions
from perceptok.decoding.grammar.token_symbols import BracketTokenizer
from perceptok.vocabulary import PerceptionVocabulary

__all__ = ["perception_structural_tag"]


def perception_structural_tag(
    vocab: PerceptionVocabulary,
    config: GrammarConfig | None = None,
    *,
    tokenizer: BracketTokenizer | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    ordered_axes: Literal["xy", "x"] = "xy",
) -> dict[str, Any]:
    """The grammar for xgrammar, as JSON: `{"type": "structural_tag", "format": ...}`.

    Needs no xgrammar. Two memories at once (x1 while y1 is written, y1 while x2 is) cost one alternative for every pair
    of x1 and y1 in a context-free grammar: with ordered boxes the tag has 2.9 MB and takes xgrammar 0.2.8 three seconds
    to compile, once. Ordered in x alone it has 0.3 MB and takes 0.1 s, unordered (`GrammarConfig(ordered=False)`) or
    without boxes some kilobytes and milliseconds.

    Args:
        vocab: Perception tokens and their ids.
        config: The grammar; the default as in `PerceptionLogitsProcessor`.
        tokenizer: For the bracket pieces of AURORA boxes and the end of sequence.
        eos_token_id: Ids that end a sequence, instead of the tokenizer's.
        ordered_axes: Where the configuration orders boxes: both axes, or x alone for a small tag.

    Raises:
        ConstraintError: Vocabulary, tokenizer and grammar do not fit together, or the limits have too many
            combinations.
    """
    classes = TokenClasses.of(vocab, config, tokenizer, eos_token_id)
    rules = productions(classes, _Ebnf(ordered_axes), "root")
    text = "\n".join(f"{name} ::= {' | '.join(alternatives)}" for name, alternatives in rules.items())
    return {"type": "structural_tag", "format": {"type": "grammar", "grammar": text}}


@dataclass(frozen=True)
class _Ebnf:
    """xgrammar's EBNF."""

    ordered_axes: Literal["xy", "x"]

    def tokens(self, ids: Sequence[int]) -> str:
        return f"Token({','.join(map(str, ids))})"

    def free(self, classes: TokenClasses) -> dict[str, list[str]]:
        return {"free-text": ["free*"], "free": [f"ExcludeToken({','.join(map(str, classes.not_free))})"]}

    def box(self, classes: TokenClasses, between: str) -> dict[str, list[str]]:
        pixels = classes.pixels
        rules = {"pixel": [self.tokens(pixels)]}
        if not classes.config.ordered:
            return rules | {"box": [f" {between} ".join(["pixel"] * 4)]}
        # Sets, not chains of rules: with `from-i ::= Token(i) | from-(i+1)` each accepted token cost 10 ms.
        rules |= {f"from-{code}": [self.tokens(pixels[code:])] for code in range(len(pixels))}
        rules["box"] = [f"{self.tokens([number])} {between} after-{code}" for code, number in enumerate(pixels)]
        for code in range(len(pixels)):
            rules[f"after-{code}"] = [f"pixel {between} from-{code} {between} pixel"]
            if self.ordered_axes == "xy":
                rules[f"after-{code}"] = [
                    f"{self.tokens([number])} {between} from-{code} {between} from-{other}"
                    for other, number in enumerate(pixels)
                ]
        return rules
