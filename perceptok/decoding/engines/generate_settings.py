"""What the settings of a call of `generate` mean for the grammar: honoured, refused, or without effect on it.

Processors that transformers makes of its settings run before one that is passed, warpers of sampling after it
(transformers 5.23). So a setting that changes scores by finite amounts leaves the grammar as it is; one that excludes
tokens may leave nothing that the grammar allows; one that ends or begins the answer by itself may cut a block.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from transformers import GenerationConfig, GenerationMixin

from perceptok.decoding.grammar.automaton import GrammarConfig, Symbol
from perceptok.decoding.grammar.token_symbols import list_eos_ids
from perceptok.errors import ConstraintError
from perceptok.tokens import DEPTH, PIXEL

__all__ = ["HONOURED", "REFUSED", "UNRELATED", "CallSettings", "find_decoder_start", "read_settings"]

_DEFAULT_NEW_TOKENS = 20
"""What `generate` writes where no length is set."""


class CallSettings(NamedTuple):
    """What a call of `generate` will do, as far as its configuration and its model say.

    Attributes:
        eos_token_ids: The ids that end a sequence; None where nothing names them.
        max_new_tokens: The budget, in tokens of the answer; None where neither a configuration nor a model is known.
    """

    eos_token_ids: tuple[int, ...] | None
    max_new_tokens: int | None


HONOURED = frozenset(
    ("eos_token_id", "max_new_tokens", "max_length", "decoder_start_token_id", "forced_eos_token_id")
)  # fmt: skip
"""Settings that the grammar follows."""


def _find(name: str, *configs: GenerationConfig | None) -> Any:
    """The first setting of that name that is set, as `generate` fills one configuration in from the other."""
    return next((value for config in configs if (value := getattr(config, name, None)) is not None), None)


def _excludes(ids: Iterable[int], symbols: np.ndarray) -> bool:
    """Whether one of these ids is more than text to the grammar."""
    return any(0 <= token_id < len(symbols) and symbols[token_id] != Symbol.TEXT for token_id in ids)


def _is_positive(value: Any, _grammar: GrammarConfig, _symbols: np.ndarray) -> bool:
    return bool(value) and value > 0


def _is_set(value: Any, _grammar: GrammarConfig, _symbols: np.ndarray) -> bool:
    return bool(value) or (value is not None and not isinstance(value, bool))


def _bans_grammar(value: Any, _grammar: GrammarConfig, symbols: np.ndarray) -> bool:
    return any(_excludes(word[-1:], symbols) for word in value)


def _suppresses_grammar(value: Any, _grammar: GrammarConfig, symbols: np.ndarray) -> bool:
    return _excludes(value, symbols)


def _has_infinite_bias(value: Any, _grammar: GrammarConfig, _symbols: np.ndarray) -> bool:
    biases = value.values() if isinstance(value, dict) else (bias for _, bias in value)
    return not all(math.isfinite(bias) for bias in biases)


def _forces_other_beginning(value: Any, grammar: GrammarConfig, symbols: np.ndarray) -> bool:
    return grammar.force_block == "first" or grammar.first != "any" or _excludes([value], symbols)


def _is_not_additive(value: Any, _grammar: GrammarConfig, _symbols: np.ndarray) -> bool:
    return type(value).__name__ != "WatermarkingConfig" and not (isinstance(value, dict) and "bias" in value)


def _may_cut(value: Any, grammar: GrammarConfig, _symbols: np.ndarray) -> bool:
    """Whether a stop string may end before a block or box does, or before a block that is forced later."""
    if grammar.force_block == "somewhere":
        return True
    strings = [value] if isinstance(value, str) else list(value)
    return any(_ends_inside(string, text) for string in strings for text in _written_forms(grammar))


def _written_forms(grammar: GrammarConfig) -> list[str]:
    """What the grammar writes, with 0 for every number."""
    forms = [f"{DEPTH.start}{3 * DEPTH.token(0)}{DEPTH.end}"] if grammar.depth else []
    if grammar.boxes is not None:
        separator, ends = (",", "()") if grammar.boxes == "aurora" else ("", ("", ""))
        forms.append(ends[0] + separator.join([PIXEL.token(0)] * 4) + ends[1])
    return forms


def _ends_inside(string: str, written: str) -> bool:
    string = re.sub(r"\d+", "0", string)
    overlaps = any(written.startswith(string[-length:]) for length in range(1, min(len(string), len(written) - 1) + 1))
    return overlaps or string in written[:-1]


class _Refusal(NamedTuple):
    """When a setting is refused, and what it would do."""

    applies: Callable[[Any, GrammarConfig, np.ndarray], bool]
    reason: str


REFUSED: dict[str, _Refusal] = {
    "max_time": _Refusal(_is_positive, "may end the answer inside a block or box"),
    "stop_strings": _Refusal(_may_cut, "may end the answer inside a block or box, or before its forced block"),
    "no_repeat_ngram_size": _Refusal(_is_positive, "excludes codes that the grammar requires"),
    "encoder_no_repeat_ngram_size": _Refusal(_is_positive, "excludes codes that the grammar requires"),
    "bad_words_ids": _Refusal(_bans_grammar, "excludes tokens that the grammar may require"),
    "suppress_tokens": _Refusal(_suppresses_grammar, "excludes tokens that the grammar may require"),
    "begin_suppress_tokens": _Refusal(_suppresses_grammar, "excludes tokens that the grammar may require"),
    "sequence_bias": _Refusal(_has_infinite_bias, "excludes or forces tokens by an infinite bias"),
    "forced_bos_token_id": _Refusal(_forces_other_beginning, "forces another beginning than the grammar"),
    "force_words_ids": _Refusal(_is_set, "forces words inside blocks and boxes"),
    "constraints": _Refusal(_is_set, "forces tokens inside blocks and boxes"),
    "token_healing": _Refusal(_is_set, "changes the prompt after the processor has read it"),
    "watermarking_config": _Refusal(_is_not_additive, "replaces scores instead of adding to them"),
    "continuous_batching_config": _Refusal(_is_set, "gives a processor the last id of a request alone"),
}
"""Settings that are refused before the first token where they apply, with what they would do."""


def _split_names(names: str) -> frozenset[str]:
    return frozenset(names.split())


UNRELATED = _split_names(
    # Finite changes of scores, and choices among what the grammar leaves.
    "do_sample temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff repetition_penalty "
    "encoder_repetition_penalty length_penalty exponential_decay_length_penalty guidance_scale renormalize_logits "
    "remove_invalid_values num_beams early_stopping num_beam_groups diversity_penalty penalty_alpha dola_layers "
    "num_return_sequences "
    # The end is excluded for some time: text remains.
    "min_length min_new_tokens "
    # How the same tokens are computed, and what is returned.
    "use_mtp use_cache cache_implementation cache_config max_cache_len output_attentions output_hidden_states "
    "output_scores output_logits return_dict_in_generate pad_token_id bos_token_id is_assistant num_assistant_tokens "
    "num_assistant_tokens_schedule assistant_confidence_threshold prompt_lookup_num_tokens max_matching_ngram_size "
    "assistant_early_exit assistant_lookbehind target_lookbehind assistant_ensemble_weight speculation_type "
    "compile_config disable_compile low_memory prefill_chunk_size transformers_version"
)
"""Settings that leave the grammar as it is."""


def find_decoder_start(generation_config: GenerationConfig | None, model: GenerationMixin | None) -> int | None:
    """The start token of an encoder-decoder's decoder.

    Returns:
        -1 if it is not known; None where the model is a decoder alone, or neither model nor config names one.
    """
    start = _find("decoder_start_token_id", generation_config, getattr(model, "generation_config", None))
    if model is not None and not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return None
    if model is not None and start is None:
        return -1
    return None if start is None else int(start)


def read_settings(
    generation_config: GenerationConfig | None,
    model: GenerationMixin | None,
    max_new_tokens: int | None,
    *,
    prompt_length: int,
    grammar: GrammarConfig,
    symbols: np.ndarray,
) -> CallSettings:
    """Read the generation config of a call, and the model's own for what the first leaves out.

    Args:
        generation_config: As `generate` gets it.
        model: What generates.
        max_new_tokens: As `generate` gets it; it overrules the configurations.
        prompt_length: Number of ids that are continued, start token of a decoder included; 0 for embeddings alone.
        grammar: What the answer has to be.
        symbols: Symbol of every id (V,) int64, as `classify_tokens` gives it.

    Raises:
        ConstraintError: A setting that the grammar cannot hold to; or `max_length` of embeddings, whose number is not
            known here.
    """
    configs = (generation_config, getattr(model, "generation_config", None))
    for name, refusal in REFUSED.items():
        value = _find(name, *configs)
        if value is not None and refusal.applies(value, grammar, symbols):
            raise ConstraintError(
                f"{name}={value!r:.60} {refusal.reason}, which a processor cannot foresee: leave {name} out, in the "
                "generation config of the model too"
            )
    eos_token_id = _find("eos_token_id", *configs)
    has_config = any(config is not None for config in configs)
    budget = _find("max_new_tokens", *configs) if max_new_tokens is None else max_new_tokens
    max_length = _find("max_length", *configs)
    if budget is None and has_config:
        if max_length is not None and prompt_length == 0:
            raise ConstraintError(
                f"max_length={max_length} counts the embeddings of the prompt too, whose number is not known here; set "
                "max_new_tokens"
            )
        budget = _DEFAULT_NEW_TOKENS if max_length is None else max_length - prompt_length
        if budget < 1:
            raise ConstraintError(f"max_length={max_length} leaves no token after the {prompt_length} of the prompt")
    if budget is not None and _find("forced_eos_token_id", *configs) is not None:
        budget -= 1  # the last token is the end
    return CallSettings(None if eos_token_id is None else list_eos_ids(eos_token_id), budget)
