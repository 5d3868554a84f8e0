"""llama.cpp: the grammar in GBNF.

What it enforces: blocks of exactly 100 codes, tuples of four, limits, what comes first, a forced block, no stray
perception token, no end inside a block. What it does not: x2 >= x1 and y2 >= y1 (112,896 alternatives, for a reader
that keeps a stack for each that may come next). What it cannot: the budget, and what a prompt left open.

Perception tokens are meant as tokens, by id (`<[32000]>`); running text is meant by its characters, for GBNF can
exclude no set of tokens: it has no "<DEPTH_" and no "<PIXEL_", however spelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from perceptok.decoding.grammar.automaton import GrammarConfig
from perceptok.decoding.grammar.productions import TokenClasses, productions
from perceptok.decoding.grammar.token_symbols import BracketTokenizer
from perceptok.tokens import DEPTH, PIXEL
from perceptok.vocabulary import PerceptionVocabulary

__all__ = ["perception_gbnf"]


def perception_gbnf(
    vocab: PerceptionVocabulary,
    config: GrammarConfig | None = None,
    *,
    tokenizer: BracketTokenizer | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    spelled: bool = False,
) -> str:
    """The grammar for llama.cpp, as GBNF with the rule `root`.

    Args:
        vocab: Perception tokens and their ids.
        config: The grammar, but that boxes are not ordered; the default as in `PerceptionLogitsProcessor`.
        tokenizer: For the default configuration and the end of sequence; the brackets of AURORA boxes are characters
            here.
        eos_token_id: Ids that end a sequence, instead of the tokenizer's.
        spelled: Write perception tokens by their text, for readers of GBNF without token references. The text is whole
            then, but a model may spell a token in pieces.

    Raises:
        ConstraintError: Vocabulary and grammar do not fit together, or the limits have too many combinations.
    """
    asked = TokenClasses.of(vocab, config, tokenizer, eos_token_id)
    compact = replace(asked.config, boxes=asked.config.boxes and "compact")
    classes = TokenClasses(compact, asked.symbols)
    texts = {number: token for token, number in vocab.tokens.items()} if spelled else {}
    rules = productions(classes, _Gbnf(asked.config.boxes == "aurora", texts), "root")
    if asked.config.boxes == "aurora" and asked.config.first == "box":
        rules["root"] = [f'" "? {rules["root"][0]}']  # the first piece may be " (" as well as "("
    if asked.config.first == "text":
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

    def tokens(self, ids: Sequence[int]) -> str:
        return " | ".join(f'"{self.texts[number]}"' if self.texts else f"<[{number}]>" for number in ids)

    def free(self, classes: TokenClasses) -> dict[str, list[str]]:  # noqa: ARG002
        """Text without "<DEPTH_" and "<PIXEL_": one rule for what has been read of them, which starts anew at "<"."""
        stems = (f"<{DEPTH.name}_", f"<{PIXEL.name}_")
        rules = {"free": ["[^<] free-text", '"<" free-1'], "free-text": ["free", '""']}
        for read in sorted({stem[:length] for stem in stems for length in range(1, len(stem))}, key=len):
            following = sorted({stem[len(read)] for stem in stems if stem.startswith(read)})
            longer = [
                f'"{character}" {_free(read + character)}' for character in following if read + character not in stems
            ]
            rules[_free(read)] = [f"[^<{''.join(following)}] free-text", '"<" free-1', *longer, '""']
        return rules

    def box(self, classes: TokenClasses, between: str) -> dict[str, list[str]]:  # noqa: ARG002
        comma, opening, closing = ('","', '"("', '")"') if self.brackets else ("", "", "")
        return {
            "pixel": [self.tokens(classes.pixels)],
            "box": [f"{opening} {f' {comma} '.join(['pixel'] * 4)} {closing}"],
        }


def _free(read: str) -> str:
    return "free-1" if len(read) == 1 else f"free-{read[1:]}"
