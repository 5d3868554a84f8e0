"""The symbols of one tokenizer's ids in the grammar, its pieces for "(", "," and ")", and its ends of sequence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from torch import Tensor

from perceptok.decoding.grammar.automaton import GrammarConfig, Symbol
from perceptok.errors import ConstraintError
from perceptok.tokens import DEPTH, PIXEL
from perceptok.vocabulary import PerceptionVocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["BracketPieces", "classify_tokens", "default_config", "list_eos_ids", "mark_eos"]


_SPACE_MARKS = "\u2581\u0120 "  # SentencePiece's and byte-level BPE's forms of a space


@dataclass(frozen=True)
class BracketPieces:
    """The ids that may stand around the coordinates of an AURORA box.

    Attributes:
        opening: Tokens whose text ends in "(": "(", " (", ":(" and the like.
        comma: The one token between two coordinates.
        closing: Tokens whose text begins with ")": ")", ").", ")," and the like.
        reopening: Tokens that do both, such as "),("; they are in `opening` and `closing` too.
    """

    opening: tuple[int, ...]
    comma: int
    closing: tuple[int, ...]
    reopening: tuple[int, ...]

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase, vocab: PerceptionVocabulary) -> Self:
        """Find the pieces by the text of the tokens, and check them by splitting a box.

        Raises:
            ConstraintError: The tokenizer splits a box in another way: "(" or ")" is lost or merged with what is
                around the bracket, or the comma is not a token by itself.
        """
        ids_by_token = tokenizer.get_vocab()
        opening = {token_id for token, token_id in ids_by_token.items() if token.endswith("(")}
        closing = {token_id for token, token_id in ids_by_token.items() if token.lstrip(_SPACE_MARKS).startswith(")")}
        texts = {token_id: token for token, token_id in ids_by_token.items()}
        before, between, after = _split_box(tokenizer, vocab)
        commas = {tuple(ids) for ids in between}
        if not (before and before[-1] in opening and after and after[0] in closing) or (
            len(commas) != 1 or [texts[token_id].strip(_SPACE_MARKS) for token_id in between[0]] != [","]
        ):
            shown = [[texts.get(token_id, "?") for token_id in part] for part in (before[-1:], *between, after[:1])]
            raise ConstraintError(
                f"the tokenizer splits what is around the coordinates of '(x,y,x,y)' into {shown}; expected a token "
                'that ends in "(", three times the token ",", and a token that begins with ")": use '
                "GrammarConfig(boxes='compact'), or a tokenizer that keeps the brackets"
            )
        # A token such as " )" is closing text only where the tokenizer itself puts it after a coordinate.
        exact = {token_id for token_id in closing if texts[token_id].startswith(")")} | {after[0]}
        return cls(tuple(sorted(opening)), between[0][0], tuple(sorted(exact)), tuple(sorted(opening & exact)))


def _split_box(
    tokenizer: PreTrainedTokenizerBase, vocab: PerceptionVocabulary
) -> tuple[list[int], list[list[int]], list[int]]:
    """The ids before, between and after the coordinates of one box in a sentence."""
    coordinates = ",".join(PIXEL.token(code) for code in range(4))
    ids = list(tokenizer(f"a ({coordinates}) a", add_special_tokens=False)["input_ids"])
    pixels = [vocab.token_id(PIXEL, code) for code in range(4)]
    places = [ids.index(token_id) if token_id in ids else -1 for token_id in pixels]
    if -1 in places or places != sorted(places):
        raise ConstraintError(
            f"the tokenizer does not find {PIXEL.token(0)} in '({PIXEL.token(0)},'; add the perception tokens with "
            "extend_vocabulary, so that they are split from the text around them first"
        )
    between = [ids[start + 1 : stop] for start, stop in pairwise(places)]
    return ids[: places[0]], between, ids[places[-1] + 1 :]


def default_config(vocab: PerceptionVocabulary, tokenizer: PreTrainedTokenizerBase | None) -> GrammarConfig:
    """Depth and boxes where the vocabulary has them, boxes in the AURORA form if there is a tokenizer."""
    form: Literal["aurora", "compact"] = "compact" if tokenizer is None else "aurora"
    return GrammarConfig(depth=vocab.has(DEPTH), boxes=form if vocab.has(PIXEL) else None)


def list_eos_ids(eos_token_id: int | Iterable[int] | Tensor | None, tokenizer: object = None) -> tuple[int, ...]:
    """The ids that end a sequence, however they are given: one, several, a tensor, or else those of a tokenizer."""
    if eos_token_id is None:
        eos_token_id = getattr(tokenizer, "eos_token_id", None)
    if isinstance(eos_token_id, Tensor):
        eos_token_id = eos_token_id.flatten().tolist()
    if eos_token_id is None or isinstance(eos_token_id, int):
        return () if eos_token_id is None else (eos_token_id,)
    return tuple(int(token_id) for token_id in eos_token_id)


def classify_tokens(
    vocab: PerceptionVocabulary,
    config: GrammarConfig,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    eos_token_ids: Sequence[int] = (),
) -> np.ndarray:
    """The symbol of every token id: (vocab.size,) int64, `Symbol.PIXEL + k` for the PIXEL token of code k.

    Perception tokens of other sets are -1, and so are ids without a token, where the tokenizer is given.

    Raises:
        ConstraintError: The vocabulary lacks a token set that the grammar writes, or the grammar has boxes in the
            AURORA form and the tokenizer is missing or splits brackets in another way.
    """
    for is_written, token_set in ((config.depth, DEPTH), (config.boxes is not None, PIXEL)):
        if is_written and not vocab.has(token_set):
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
    return mark_eos(symbols, eos_token_ids, vocab)


def mark_eos(symbols: np.ndarray, eos_token_ids: Sequence[int], vocab: PerceptionVocabulary) -> np.ndarray:
    """A copy of symbols (vocab.size,) in which these ids end a sequence.

    Raises:
        ConstraintError: One of them is not an id of the tokenizer, or is that of a perception token.
    """
    for token_id in eos_token_ids:
        if not 0 <= token_id < vocab.size or vocab.is_perception(token_id):
            raise ConstraintError(
                f"token id {token_id} cannot end a sequence: expected an id in 0..{vocab.size - 1} that is not a "
                "perception token's"
            )
    symbols = symbols.copy()
    symbols[list(eos_token_ids)] = Symbol.EOS
    return symbols
