"""xgrammar: the grammar as a structural tag, which vLLM, SGLang and TensorRT-LLM read.

Enforced, token by token: blocks of exactly 100 codes, boxes of four coordinates with the tokenizer's own brackets, the
order of the coordinates as far as `ordered_axes` says, limits, what comes first, a forced block, no stray perception
token, no end inside a block. Not enforced: the token budget (`max_tokens` may cut a block), and what a prompt left
open, for a tag describes the answer alone.

The rules are written for token ids, with `Token(...)` and `ExcludeToken(...)`, which xgrammar has from 0.1.33 on.
Engines with an older one (OpenVINO GenAI 2026.4) cannot read them; `build_gbnf_grammar(..., spelled=True)` is theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from perceptok.decoding.grammar.automaton import GrammarConfig
from perceptok.decoding.grammar.productions import TokenClasses, build_productions
from perceptok.errors import ConstraintError
from perceptok.vocabulary import PerceptionVocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["build_structural_tag"]

OrderedAxes = Literal["coarse", "x", "xy"]

_INTERVALS: dict[OrderedAxes, int] = {"coarse": 8, "x": 336, "xy": 1}
"""Number of neighbouring codes of y1 that share one minimum of y2."""

_SUBSET = 16
"""The codes from k on are those up to the next multiple of this, and a set that 16 values of k share."""


def build_structural_tag(
    vocab: PerceptionVocabulary,
    config: GrammarConfig | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    ordered_axes: OrderedAxes = "coarse",
) -> dict[str, Any]:
    """The grammar for xgrammar, as JSON: `{"type": "structural_tag", "format": ...}`. Does not need xgrammar.

    A context-free grammar cannot compare x2 with x1 and y2 with y1 by fewer than 336 x 336 alternatives, because x1 and
    y1 must both be remembered and no two of these corners allow the same boxes. `ordered_axes` chooses how much of the
    order is enforced. With Llama's ids, compiled by xgrammar 0.2.8 on one CPU thread:

    - "coarse": x2 >= x1, and y2 is not above the interval of 8 codes in which y1 lies (so that y2 > y1 - 8): 0.25 MB,
      0.1 s;
    - "x": x2 >= x1 alone: 0.07 MB, 0.03 s;
    - "xy": x2 >= x1 and y2 >= y1: 1.7 MB, 1.6 s.

    Unordered (`GrammarConfig(ordered=False)`) or without boxes a tag has some kilobytes and takes milliseconds.

    Args:
        vocab: Perception tokens and their ids.
        config: The grammar; by default depth and boxes where the vocabulary has them, boxes in the AURORA form if there
            is a tokenizer and in the compact form if not.
        tokenizer: For the bracket pieces of AURORA boxes and the end of sequence.
        eos_token_id: Ids that end a sequence, instead of the tokenizer's.
        ordered_axes: How much of the order is enforced where the configuration orders boxes.

    Raises:
        ConstraintError: Vocabulary, tokenizer and grammar do not fit together, the limits have too many combinations,
            or `ordered_axes` is not one of the three.
    """
    if ordered_axes not in _INTERVALS:
        raise ConstraintError(f"ordered_axes is one of {', '.join(map(repr, _INTERVALS))}; got {ordered_axes!r}")
    classes = TokenClasses.from_vocabulary(vocab, config, tokenizer, eos_token_id)
    rules = build_productions(classes, _Ebnf(_INTERVALS[ordered_axes]), "root")
    text = "\n".join(f"{name}::={'|'.join(alternatives)}" for name, alternatives in rules.items())
    return {"type": "structural_tag", "format": {"type": "grammar", "grammar": text}}


@dataclass(frozen=True)
class _Ebnf:
    """xgrammar's EBNF.

    Attributes:
        interval: Number of neighbouring codes of y1 that share one minimum of y2.
    """

    interval: int

    def write_tokens(self, ids: Sequence[int]) -> str:
        return f"Token({','.join(map(str, ids))})"

    def write_text_rules(self, classes: TokenClasses) -> dict[str, list[str]]:
        return {"free-text": ["free*"], "free": [f"ExcludeToken({','.join(map(str, classes.not_text))})"]}

    def write_box_rules(self, classes: TokenClasses, separator: str) -> dict[str, list[str]]:
        pixels, separator = classes.pixels, f" {separator} " if separator else " "
        if not classes.config.ordered:
            return {"pixel": [self.write_tokens(pixels)], "box": [separator.join(["pixel"] * 4)]}
        rules = {f"t{start}": [self.write_tokens(pixels[start:])] for start in range(_SUBSET, len(pixels), _SUBSET)}
        starts = range(0, len(pixels), self.interval)
        for number, start in enumerate(starts):
            rules[f"y{number}"] = [self.write_tokens(pixels[start : start + self.interval])]
            rules[f"m{number}"] = self._list_codes_from(start, pixels)
        for code in range(len(pixels)):
            rules[f"f{code}"] = self._list_codes_from(code, pixels)
            rules[f"x{code}"] = [f"{separator}f{code}{separator}"]
            rules[f"a{code}"] = [f"y{number} x{code} m{number}" for number in range(len(starts))]
        return rules | {
            "box": [f"{self.write_tokens([token_id])}{separator}a{code}" for code, token_id in enumerate(pixels)]
        }

    def _list_codes_from(self, code: int, pixels: Sequence[int]) -> list[str]:
        """The alternatives for one PIXEL token of this code or a larger one."""
        # Two sets at most: with a chain of rules, `f5 ::= Token(5) | f6`, each accepted token cost 10 ms.
        stop = (code // _SUBSET + 1) * _SUBSET
        return [self.write_tokens(pixels[code:stop]), *([f"t{stop}"] if stop < len(pixels) else [])]
