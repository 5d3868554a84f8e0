"""xgrammar: the grammar as a structural tag, which vLLM, SGLang and TensorRT-LLM read.

Enforced, token by token: blocks of exactly 100 codes, boxes of four coordinates with the tokenizer's own brackets,
x2 >= x1 and y2 >= y1, limits, what comes first, a forced block, no stray perception token, no end inside a block. Not
enforced: the token budget (`max_tokens` may cut a block), and what a prompt left open, for a tag describes the answer
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from perceptok.decoding.grammar.automaton import GrammarConfig
from perceptok.decoding.grammar.productions import TokenClasses, build_productions
from perceptok.vocabulary import PerceptionVocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["build_structural_tag"]


def build_structural_tag(
    vocab: PerceptionVocabulary,
    config: GrammarConfig | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    ordered_axes: Literal["xy", "x"] = "xy",
) -> dict[str, Any]:
    """The grammar for xgrammar, as JSON: `{"type": "structural_tag", "format": ...}`. Does not need xgrammar.

    A context-free grammar has to remember x1 while y1 is written and y1 while x2 is, which costs one alternative for
    every pair of x1 and y1: with ordered boxes the tag has 2.9 MB and takes xgrammar 0.2.8 three seconds to compile,
    once. Ordered in x alone it has 0.3 MB and takes 0.1 s, unordered (`GrammarConfig(ordered=False)`) or without boxes
    some kilobytes and milliseconds.

    Args:
        vocab: Perception tokens and their ids.
        config: The grammar; by default depth and boxes where the vocabulary has them, boxes in the AURORA form if there
            is a tokenizer and in the compact form if not.
        tokenizer: For the bracket pieces of AURORA boxes and the end of sequence.
        eos_token_id: Ids that end a sequence, instead of the tokenizer's.
        ordered_axes: Where the configuration orders boxes: both axes, or x alone for a small tag.

    Raises:
        ConstraintError: Vocabulary, tokenizer and grammar do not fit together, or the limits have too many
            combinations.
    """
    classes = TokenClasses.from_vocabulary(vocab, config, tokenizer, eos_token_id)
    rules = build_productions(classes, _Ebnf(ordered_axes), "root")
    text = "\n".join(f"{name} ::= {' | '.join(alternatives)}" for name, alternatives in rules.items())
    return {"type": "structural_tag", "format": {"type": "grammar", "grammar": text}}


@dataclass(frozen=True)
class _Ebnf:
    """xgrammar's EBNF."""

    ordered_axes: Literal["xy", "x"]

    def write_tokens(self, ids: Sequence[int]) -> str:
        return f"Token({','.join(map(str, ids))})"

    def write_text_rules(self, classes: TokenClasses) -> dict[str, list[str]]:
        return {"free-text": ["free*"], "free": [f"ExcludeToken({','.join(map(str, classes.not_text))})"]}

    def write_box_rules(self, classes: TokenClasses, separator: str) -> dict[str, list[str]]:
        pixels = classes.pixels
        rules = {"pixel": [self.write_tokens(pixels)]}
        if not classes.config.ordered:
            return rules | {"box": [f" {separator} ".join(["pixel"] * 4)]}
        # Sets, not chains of rules: with `from-i ::= Token(i) | from-(i+1)` each accepted token cost 10 ms.
        rules |= {f"from-{code}": [self.write_tokens(pixels[code:])] for code in range(len(pixels))}
        rules["box"] = [f"{self.write_tokens([token])} {separator} after-{code}" for code, token in enumerate(pixels)]
        for code in range(len(pixels)):
            rules[f"after-{code}"] = [f"pixel {separator} from-{code} {separator} pixel"]
            if self.ordered_axes == "xy":
                rules[f"after-{code}"] = [
                    f"{self.write_tokens([token])} {separator} from-{code} {separator} from-{other}"
                    for other, token in enumerate(pixels)
                ]
        return rules
