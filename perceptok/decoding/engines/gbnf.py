"""llama.cpp: the grammar in GBNF.

Enforced: blocks of exactly 100 codes, boxes of four coordinates, limits, what comes first, a forced block, no stray
perception token, no end inside a block. Not enforced: x2 >= x1 and y2 >= y1 (112,896 alternatives, for a reader that
keeps a stack for each that may come next), the token budget, and what a prompt left open.

Perception tokens are written as tokens, by id (`<[32000]>`); running text is written by its characters, for GBNF cannot
exclude a set of tokens: it contains neither "<DEPTH_" nor "<PIXEL_", however spelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from perceptok.decoding.grammar.automaton import GrammarConfig
from perceptok.decoding.grammar.productions import TokenClasses, build_productions
from perceptok.tokens import DEPTH, PIXEL
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
    spelled: bool = False,
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
        spelled: Write perception tokens by their text, for readers of GBNF without token references. The text is whole
            then, but a model may spell a token in pieces.

    Raises:
        ConstraintError: Vocabulary and grammar do not fit together, or the limits have too many combinations.
    """
    classes = TokenClasses.from_vocabulary(vocab, config, tokenizer, eos_token_id)
    config = classes.config
    texts = {token_id: token for token, token_id in vocab.tokens.items()} if spelled else {}
    notation = _Gbnf(config.boxes == "aurora", texts)
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
        texts: Id -> text of perception tokens that are written by their text.
    """

    brackets: bool
    texts: Mapping[int, str]

    def write_tokens(self, ids: Sequence[int]) -> str:
        return " | ".join(f'"{self.texts[token_id]}"' if self.texts else f"<[{token_id}]>" for token_id in ids)

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
