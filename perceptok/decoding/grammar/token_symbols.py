"""What every token of one tokenizer is to the grammar: its symbol, and how "(", "," and ")" are really split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, Self

import numpy as np

from perceptok.decoding.grammar.automaton import GrammarConfig, Symbol
from perceptok.errors import ConstraintError
from perceptok.tokens import DEPTH, PIXEL
from perceptok.vocabulary import PerceptionVocabulary

__all__ = ["BracketPieces", "BracketTokenizer", "token_symbols", "with_ends"]


_SPACE_MARKS = "\u2581\u0120 "  # SentencePiece's and byte-level BPE's forms of a space


class BracketTokenizer(Protocol):
    """What is asked of a tokenizer here: every fast one of transformers qualifies."""

    def get_vocab(self) -> dict[str, int]:
        """Token -> id, added tokens included."""
        ...

    def __call__(self, text: str, *, add_special_tokens: bool) -> Any:
        """A mapping with the key `input_ids`."""
        ...


@dataclass(frozen=True)
class BracketPieces:
    """The ids that may stand around the coordinates of an AURORA box.

    Attributes:
        opening: Tokens whose text ends in "(": "(", " (", ":(" and their like.
        comma: The one token between two coordinates.
        closing: Tokens whose text begins with ")": ")", ").", ")," and their like.
        reopening: Tokens that do both, such as "),("; they are in `opening` and `closing` too.
    """

    opening: tuple[int, ...]
    comma: int
    closing: tuple[int, ...]
    reopening: tuple[int, ...]

    @classmethod
    def from_tokenizer(cls, tokenizer: BracketTokenizer, vocab: PerceptionVocabulary) -> Self:
        """Find the pieces by what the tokens spell, and make sure by splitting a box.

        Raises:
            ConstraintError: The tokenizer splits a box in another way: "(" or ")" is lost or merged with what is
                around the bracket, or the comma is not a token of its own.
        """
        tokenizer_ids = tokenizer.get_vocab()
        opening = {number for token, number in tokenizer_ids.items() if token.endswith("(")}
        closing = {number for token, number in tokenizer_ids.items() if token.lstrip(_SPACE_MARKS).startswith(")")}
        spelled = {number: token for token, number in tokenizer_ids.items()}
        before, between, after = _split_box(tokenizer, vocab)
        commas = {tuple(piece) for piece in between}
        if not (before and before[-1] in opening and after and after[0] in closing) or (
            len(commas) != 1 or [spelled[number].strip(_SPACE_MARKS) for number in between[0]] != [","]
        ):
            shown = [[spelled.get(number, "?") for number in part] for part in (before[-1:], *between, after[:1])]
            raise ConstraintError(
                f"the tokenizer splits what is around the coordinates of '(x,y,x,y)' into {shown}; expected a token "
                'that ends in "(", three times the token ",", and a token that begins with ")": use '
                "GrammarConfig(boxes='compact'), or a tokenizer that keeps the brackets"
            )
        # A token such as " )" is closing text only where the tokenizer itself puts it after a coordinate.
        exact = {number for number in closing if spelled[number].startswith(")")} | {after[0]}
        both = opening & exact
        return cls(tuple(sorted(opening)), between[0][0], tuple(sorted(exact)), tuple(sorted(both)))


def token_symbols(
    vocab: PerceptionVocabulary,
    config: GrammarConfig,
    *,
    tokenizer: BracketTokenizer | None = None,
    eos_token_ids: Sequence[int] = (),
) -> np.ndarray:
    """The symbol of every token id: (vocab.size,) int64, `Symbol.PIXEL + k` for the PIXEL token of code k.

    Perception tokens of other sets are -1, and so are ids without a token, where the tokenizer is given.

    Raises:
        ConstraintError: The vocabulary lacks a token set that the grammar writes, or the AURORA form is asked for
            without a tokenizer or of one that splits brackets in another way.
    """
    for wanted, token_set in ((config.depth, DEPTH), (config.boxes is not None, PIXEL)):
        if wanted and not vocab.has(token_set):
            raise ConstraintError(
                f"the grammar writes {token_set.name} tokens, which this vocabulary lacks; add them with "
                "extend_vocabulary, or turn them off in GrammarConfig (depth=False, boxes=None)"
            )
    symbols = np.full(vocab.size, Symbol.TEXT, dtype=np.int64)
    if tokenizer is not None:
        symbols[np.setdiff1d(np.arange(vocab.size), list(tokenizer.get_vocab().values()))] = -1
    if config.boxes == "aurora":
        if tokenizer is None:
            raise ConstraintError(
                "boxes in the AURORA form need the tokenizer's own pieces for '(', ',' and ')'; pass tokenizer=..., "
                "or write boxes in the compact form (boxes='compact')"
            )
        pieces = BracketPieces.from_tokenizer(tokenizer, vocab)
        symbols[list(pieces.opening)] = Symbol.OPEN
        symbols[list(pieces.closing)] = Symbol.CLOSE
        symbols[list(pieces.reopening)] = Symbol.CLOSE_OPEN
        symbols[pieces.comma] = Symbol.COMMA
    symbols[vocab.all_ids.numpy()] = -1
    if vocab.has(DEPTH):
        symbols[vocab.start_id(DEPTH)] = Symbol.DEPTH_START
        symbols[vocab.end_id(DEPTH)] = Symbol.DEPTH_END
        symbols[vocab.ids(DEPTH).numpy()] = Symbol.DEPTH_CODE
    if vocab.has(PIXEL):
        symbols[vocab.ids(PIXEL).numpy()] = Symbol.PIXEL + np.arange(PIXEL.size)
    return with_ends(symbols, eos_token_ids, vocab)


def with_ends(symbols: np.ndarray, eos_token_ids: Sequence[int], vocab: PerceptionVocabulary) -> np.ndarray:
    """A copy of symbols in which these ids end a sequence.

    Raises:
        ConstraintError: One of them is not an id of the tokenizer, or a perception token's.
    """
    symbols = symbols.copy()
    symbols[_checked_eos(eos_token_ids, vocab)] = Symbol.EOS
    return symbols


def _checked_eos(ids: Sequence[int], vocab: PerceptionVocabulary) -> list[int]:
    for number in ids:
        if not 0 <= number < vocab.size or vocab.is_perception(number):
            raise ConstraintError(
                f"token id {number} cannot end a sequence: expected an id in 0..{vocab.size - 1} that is not "
                "a perception token's"
            )
    return list(ids)


def _split_box(
    tokenizer: BracketTokenizer, vocab: PerceptionVocabulary
) -> tuple[list[int], list[list[int]], list[int]]:
    """The ids before, between and after the coordinates of one box in a sentence."""
    coordinates = ",".join(PIXEL.token(code) for code in range(4))
    ids = list(tokenizer(f"a ({coordinates}) a", add_special_tokens=False)["input_ids"])
    wanted = [vocab.token_id(PIXEL, code) for code in range(4)]
    places = [ids.index(number) if number in ids else -1 for number in wanted]
    if -1 in places or places != sorted(places):
        raise ConstraintError(
            f"the tokenizer does not find {PIXEL.token(0)} in '({PIXEL.token(0)},'; add the perception tokens with "
            "extend_vocabulary, so that they are split from the text around them first"
        )
    between = [ids[start + 1 : stop] for start, stop in pairwise(places)]
    return ids[: places[0]], between, ids[places[-1] + 1 :]
