"""transformers: a logits processor that holds `generate` to the grammar."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor

from perceptok.decoding.engines.asked import Asked
from perceptok.decoding.grammar.automaton import Grammar, GrammarConfig, Symbol, compile_grammar
from perceptok.decoding.grammar.pieces import BracketTokenizer, token_symbols, with_ends
from perceptok.decoding.grammar.prompts import end_of_prompt
from perceptok.decoding.grammar.states import StateReader
from perceptok.decoding.grammar.tables import StateRows
from perceptok.errors import ConstraintError
from perceptok.tokens import DEPTH, PIXEL
from perceptok.vocabulary.lookup import PerceptionVocabulary

__all__ = ["PerceptionLogitsProcessor"]

_CPU = torch.device("cpu")


class _Masks(NamedTuple):
    """Upper bounds of scores by row of states: +inf for what may come next, -inf for the rest.

    A score is left as it is or becomes -inf, so that the relative probabilities of what remains stay as they were.
    `torch.minimum` takes as long as a copy on CPU, `masked_fill` 5 to 30 times that (measured at 32k, batch 1 to 256).
    """

    text: Tensor
    """(rows, 1): ordinary text."""
    special: Tensor
    """(rows, S): the ids of `special_ids`."""
    special_ids: Tensor
    """(S,) int64: perception tokens, bracket pieces, ends of sequence, ids without a token, padded columns."""
    only: Tensor
    """(rows,) int64: the one id that may come next, -1 where there are more."""


class _Tables(NamedTuple):
    """What depends on the ends of a sequence: symbols of ids, readers by device, masks as they were needed."""

    symbols: np.ndarray
    readers: dict[torch.device | None, StateReader]
    masks: dict[tuple[torch.device, torch.dtype, int, int | None], _Masks]


class PerceptionLogitsProcessor(LogitsProcessor):
    """Masks every token that would break a depth block or a box, or put a perception token astray.

    Stateless: each call finds the state of each row from `input_ids`, by tensor operations, looking back over 101
    tokens (over the answer, where a limit is set). So one processor serves any number of calls, batches, beams, left
    padding, candidates of assisted decoding, prompts with whole blocks or an open one, and `inputs_embeds` without ids.

    Under torch.compile call it once before: the tables for a dtype and width (and for the last steps of a budget) are
    made in the first call that needs them, which cannot be traced.

    Limits, `first`, `force_block` and the budget need to know where the answer begins: `answering` says it.

    Args:
        vocab: Perception tokens and their ids.
        config: The grammar; without it, depth and boxes where the vocabulary has them, boxes in the AURORA form if
            there is a tokenizer and in the compact form if not.
        tokenizer: For the bracket pieces of the AURORA form, and the end of sequence.
        eos_token_id: Ids that end a sequence, instead of the tokenizer's.
        check_on_gpu: On CUDA too, stop at a row in which nothing is allowed any more (`torch._assert_async`: no
            waiting, but the process cannot use the device afterwards). On CPU this is always a ConstraintError.
        in_place: Write into the scores that come and return them, as servers do; nothing is copied then. Not for a
            `generate` that returns its logits (`output_logits`), which would be the masked ones.

    Raises:
        ConstraintError: Vocabulary, tokenizer and grammar do not fit together; in calls: scores narrower than the
            tokenizer, or a row in which every allowed token has been banned before.
    """

    # Continuous batching of transformers 5.23 hands a processor the last id of each request only, not the sequence.
    supports_continuous_batching = False

    def __init__(
        self,
        vocab: PerceptionVocabulary,
        config: GrammarConfig | None = None,
        *,
        tokenizer: BracketTokenizer | None = None,
        eos_token_id: int | Sequence[int] | None = None,
        check_on_gpu: bool = False,
        in_place: bool = False,
    ) -> None:
        self.vocab = vocab
        self.config = config or _default_config(vocab, tokenizer)
        self.check_on_gpu = check_on_gpu
        self.in_place = in_place
        self.eos_token_ids = _ends(eos_token_id, tokenizer)
        if self.config.force_block and not self.eos_token_ids:
            raise ConstraintError("force_block needs the end of sequence; pass eos_token_id=... or tokenizer=...")
        self._plain_symbols = token_symbols(vocab, self.config, tokenizer=tokenizer)
        self._state_rows = StateRows(compile_grammar(self.config))
        self._by_ends: dict[tuple[int, ...], _Tables] = {}
        self._take_ends(self.eos_token_ids)
        self._prompt_length: int | None = None
        self._max_new_tokens: int | None = None

    def _take_ends(self, ends: tuple[int, ...]) -> None:
        """Make these ids the ends of a sequence; the tables that say so are shared by all copies."""
        if ends not in self._by_ends:
            symbols = with_ends(self._plain_symbols, ends, self.vocab)
            # On CPU an array's reader; a tensor's where torch.compile traces, which could not build one.
            readers = {place: StateReader(self._state_rows, symbols, place) for place in (None, _CPU)}
            self._by_ends[ends] = _Tables(symbols, readers, {})
        self.eos_token_ids = ends
        self.symbols, self._readers, self._masks = self._by_ends[ends]

    @property
    def grammar(self) -> Grammar:
        """The compiled grammar."""
        return self._state_rows.grammar

    def answering(
        self,
        prompt: Tensor | int,
        max_new_tokens: int | None = None,
        *,
        generation_config: GenerationConfig | None = None,
        model: GenerationMixin | None = None,
        decoder_input_ids: Tensor | None = None,
    ) -> Self:
        """A processor for one call of `generate`, which knows where the answer begins, how long it may be, and its end.

        Args:
            prompt: The `input_ids` that `generate` gets, (B, T), or the number of ids that it continues: 0 for
                `inputs_embeds` alone, 1 for the start token of an encoder-decoder.
            max_new_tokens: As `generate` gets it. Nothing is begun then that it cannot finish.
            generation_config: As `generate` gets it: its `eos_token_id` are the ends, instead of the tokenizer's; its
                `max_new_tokens` counts where none is given here. Ends that `generate` gets by keyword are passed with
                one, too: `GenerationConfig(eos_token_id=[...])`.
            model: What generates: its own generation config fills up what the other leaves out, and the `input_ids` of
                an encoder-decoder are known to be the encoder's.
            decoder_input_ids: What the decoder of an encoder-decoder continues, as `generate` gets it; without it,
                such a model begins with its start token.

        Returns:
            A copy that shares every table: making one costs microseconds (with ends of its own, once, milliseconds).

        Raises:
            ConstraintError: The budget is too small for what is forced or open, or a prompt ends inside a block or box
                with tokens that cannot stand there (looked for in ids, not in a length); a generation config that may
                end the answer before its forced block in another way (`stop_strings`, `max_time`).
        """
        asked = Asked.of(generation_config, model, max_new_tokens)
        max_new_tokens = asked.max_new_tokens
        if max_new_tokens is not None and max_new_tokens < 1:
            raise ConstraintError(f"max_new_tokens is at least 1; got {max_new_tokens}")
        if self.config.force_block == "somewhere" and asked.other_ends:
            raise ConstraintError(
                f"{asked.other_ends[0]} may end an answer before its forced block, and no processor sees it coming; "
                "leave it out, or take force_block='first'"
            )
        prompt = asked.prompt(prompt, decoder_input_ids)
        one = copy.copy(self)
        if asked.ends is not None:
            # Ids beyond the tokenizer are never let through, so that they cannot end anything.
            one._take_ends(tuple(number for number in asked.ends if number < self.vocab.size))
        one._prompt_length = prompt if isinstance(prompt, int) else prompt.shape[1]
        one._max_new_tokens = max_new_tokens
        needed = self.grammar.needed(self.grammar.initial)
        if isinstance(prompt, Tensor):
            inside = np.append(self.symbols, -1)
            tails = inside[np.clip(prompt.cpu().numpy(), -1, self.vocab.size)]
            needed = max((self.grammar.needed(end_of_prompt(self.grammar, tail)) for tail in tails.tolist()), default=0)
        if max_new_tokens is not None and needed > max_new_tokens:
            raise ConstraintError(
                f"the answer needs at least {needed} tokens for what is forced, or open at the end of the prompt; "
                f"max_new_tokens is {max_new_tokens}: raise it"
            )
        return one

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) with -inf for every id that may not follow `input_ids` (B, T); a new tensor, or `in_place`."""
        if input_ids.ndim != 2 or scores.ndim != 2 or len(input_ids) != len(scores):
            raise ConstraintError(
                f"expected ids (B, T) and scores (B, V); got {tuple(input_ids.shape)} and {tuple(scores.shape)}"
            )
        rows = self._rows(input_ids)
        masks = self._masks_for(scores.device, scores.dtype, scores.shape[1], input_ids.shape[1])
        special = torch.minimum(scores.index_select(1, masks.special_ids), masks.special.index_select(0, rows))
        held = self._without_text(scores, masks.text.index_select(0, rows))
        held.scatter_(1, masks.special_ids.expand(len(rows), -1), special)
        self._refuse_dead_ends(rows, held, special)
        return held

    def _without_text(self, scores: Tensor, bound: Tensor) -> Tensor:
        """Scores with text banned where its bound (B, 1) is -inf."""
        if not self.in_place:
            return torch.minimum(scores, bound)
        host = scores.device == _CPU and not torch.compiler.is_compiling()
        if host and not bool((bound < 0).any()):  # looking would make a GPU wait
            return scores
        return torch.minimum(scores, bound, out=scores)

    def forced_tokens(self, input_ids: Tensor) -> Tensor:
        """The one id that may follow each row, (B,) int64; -1 where there is a choice."""
        rows = self._rows(input_ids)
        masks = self._masks_for(input_ids.device, torch.float32, self.vocab.size, input_ids.shape[1])
        return masks.only[rows]

    def _rows(self, ids: Tensor) -> Tensor:
        if self._prompt_length is None:
            self._refuse_unknown_prompt()
        prompt_length = self._prompt_length or 0
        if ids.shape[1] < prompt_length:
            raise ConstraintError(
                f"the prompt was said to have {prompt_length} ids, but generation has {ids.shape[1]}: call answering() "
                "with the ids that are continued: those that generate gets, none (0) with inputs_embeds alone, and in "
                "an encoder-decoder the decoder's, which begin with one start token (1, or answering(..., model=model))"
            )
        host = ids.device == _CPU and not torch.compiler.is_compiling()
        device = None if host else ids.device
        if device not in self._readers:
            self._readers[device] = StateReader(self._state_rows, self.symbols, device)
        rows = self._readers[device].rows(ids.numpy() if host else ids, prompt_length)
        return torch.from_numpy(rows) if host else rows

    def _refuse_unknown_prompt(self) -> None:
        config = self.config
        if config.force_block or config.first != "any" or config.max_blocks is not None or config.max_boxes is not None:
            raise ConstraintError(
                "limits, first and force_block concern the answer alone; say where it begins: "
                "processor.answering(input_ids, max_new_tokens)"
            )

    def _masks_for(self, device: torch.device, dtype: torch.dtype, width: int, length: int) -> _Masks:
        remaining = None
        if self._max_new_tokens is not None:
            remaining = max(1, (self._prompt_length or 0) + self._max_new_tokens - length)
        key = (device, dtype, width, self._state_rows.stage(remaining))
        if key not in self._masks:
            self._masks[key] = self._built_masks(*key)
        return self._masks[key]

    def _built_masks(self, device: torch.device, dtype: torch.dtype, width: int, remaining: int | None) -> _Masks:
        if width < self.vocab.size:
            raise ConstraintError(
                f"the scores have {width} columns, but the tokenizer has ids up to {self.vocab.size - 1}: extend the "
                "model with the tokenizer (extend_vocabulary)"
            )
        symbols = np.append(self.symbols, np.full(width - self.vocab.size, -1))
        special_ids = np.flatnonzero(symbols != Symbol.TEXT)
        by_symbol = np.pad(
            self._state_rows.allowed(remaining), ((0, 0), (0, 1))
        )  # the last column, -1, is never allowed
        text, special = by_symbol[:, [Symbol.TEXT]], by_symbol[:, symbols[special_ids]]
        only = np.where(text[:, 0] | (special.sum(1) != 1), -1, special_ids[special.argmax(1)])

        def bound(allowed: np.ndarray) -> Tensor:
            return torch.where(torch.from_numpy(allowed), torch.inf, -torch.inf).to(device, dtype)

        return _Masks(
            bound(text), bound(special), torch.from_numpy(special_ids).to(device), torch.from_numpy(only).to(device)
        )

    def _refuse_dead_ends(self, rows: Tensor, held: Tensor, special: Tensor) -> None:
        if torch.compiler.is_compiling() or not len(held):
            return
        if held.is_cuda:
            if self.check_on_gpu:
                torch._assert_async((held.amax(1) > -torch.inf).all())
            return
        # Nearly always a special id is left, in text too (the end, an opening token): no look over everything then.
        if -torch.inf not in special.amax(1).tolist():
            return
        dead = (held == -torch.inf).all(1)
        if not bool(dead.any()):
            return
        number = int(dead.nonzero()[0])
        raise ConstraintError(
            f"row {number}, {self._name(int(rows[number]))}: every token that may come next has a score of -inf; look "
            "at the processors that run before this one, and at the model's own scores"
        )

    def _name(self, row: int) -> str:
        if row >= self._state_rows.ordered:
            return "inside a box, at x2 or y2"
        name = self.grammar.names[row % len(self.grammar.table)]
        kind, _, count = name.partition(" ")
        if kind == "depth":
            return f"inside a depth block after {count} codes"
        return {"box": "inside a box", "first": "at the beginning of the answer"}.get(kind, "in text")


def _default_config(vocab: PerceptionVocabulary, tokenizer: BracketTokenizer | None) -> GrammarConfig:
    return GrammarConfig(
        depth=vocab.has(DEPTH), boxes=None if not vocab.has(PIXEL) else "compact" if tokenizer is None else "aurora"
    )


def _ends(given: int | Sequence[int] | None, tokenizer: BracketTokenizer | None) -> tuple[int, ...]:
    found = getattr(tokenizer, "eos_token_id", None) if given is None else given
    if found is None:
        return ()
    return (found,) if isinstance(found, int) else tuple(found)
