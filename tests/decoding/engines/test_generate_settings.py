"""Every setting of a generation config: followed, refused by name before the first token, or without effect."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import perceptok as pt
from perceptok.decoding import GrammarConfig, PerceptionLogitsProcessor, generate_perception, parse_generation
from perceptok.decoding.engines.generate_settings import HONOURED, REFUSED, UNRELATED
from perceptok.errors import ConstraintError

PROMPT = torch.tensor([[1, 4]])
FIRST = GrammarConfig(force_block="first")


@pytest.fixture(scope="module")
def processor(vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast) -> PerceptionLogitsProcessor:
    return PerceptionLogitsProcessor(vocab, FIRST, tokenizer=tokenizer)


def test_every_setting_of_transformers_is_decided_once() -> None:
    names = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert names == HONOURED | REFUSED.keys() | UNRELATED
    assert len(HONOURED) + len(REFUSED) + len(UNRELATED) == len(names)


REFUSALS: list[tuple[str, Any]] = [
    ("max_time", 5.0),
    ("stop_strings", ","),
    ("stop_strings", [".", "("]),
    ("stop_strings", ["12"]),
    ("stop_strings", ["map\n("]),
    ("stop_strings", "<DEPTH_START>"),
    ("no_repeat_ngram_size", 3),
    ("encoder_no_repeat_ngram_size", 2),
    ("bad_words_ids", [[4, 8]]),
    ("suppress_tokens", [2]),
    ("begin_suppress_tokens", [8]),
    ("forced_bos_token_id", 4),
    ("token_healing", True),
]


@pytest.mark.parametrize(("name", "value"), REFUSALS)
def test_what_breaks_the_grammar_is_refused_by_name(
    processor: PerceptionLogitsProcessor, model: LlamaForCausalLM, name: str, value: Any
) -> None:
    config = GenerationConfig(max_new_tokens=200, **{name: value})
    with pytest.raises(ConstraintError, match=name):
        processor.for_prompt(PROMPT, generation_config=config)
    own, model.generation_config = model.generation_config, config
    try:
        with pytest.raises(ConstraintError, match=name):
            processor.for_prompt(PROMPT, 200, model=model)
    finally:
        model.generation_config = own


def test_infinite_biases_and_other_watermarks_are_refused(processor: PerceptionLogitsProcessor) -> None:
    for name, value in (
        ("sequence_bias", {(8,): float("-inf")}),
        ("force_words_ids", [[4]]),
        ("constraints", [object()]),
        ("continuous_batching_config", object()),
        ("watermarking_config", object()),
    ):
        config = GenerationConfig(max_new_tokens=200)
        setattr(config, name, value)
        with pytest.raises(ConstraintError, match=name):
            processor.for_prompt(PROMPT, generation_config=config)


WITHOUT_EFFECT: list[dict[str, Any]] = [
    {"bad_words_ids": [[4], [5]]},
    {"suppress_tokens": [4, 5]},
    {"sequence_bias": {(8,): -50.0}},
    {"min_length": 100},
    {"min_new_tokens": 110},
    {"num_beams": 2},
    {"repetition_penalty": 5.0},
    {"do_sample": True, "top_k": 2, "temperature": 3.0},
    {"do_sample": True, "top_p": 0.1, "min_p": 0.5},
    {"renormalize_logits": True},
    {"remove_invalid_values": True},
    {"exponential_decay_length_penalty": (5, 3.0)},
    {"forced_eos_token_id": 2},
    {"guidance_scale": 1.5},
    {"num_return_sequences": 2, "do_sample": True},
]


@pytest.mark.parametrize("settings", WITHOUT_EFFECT, ids=lambda settings: ",".join(settings))
def test_other_settings_leave_blocks_whole(
    processor: PerceptionLogitsProcessor,
    model: LlamaForCausalLM,
    vocab: pt.PerceptionVocabulary,
    settings: dict[str, Any],
) -> None:
    torch.manual_seed(0)
    config = GenerationConfig(max_new_tokens=112, eos_token_id=2, pad_token_id=3, **settings)
    bound = processor.for_prompt(PROMPT, generation_config=config)
    for ids in model.generate(PROMPT, generation_config=config, logits_processor=[bound]):
        parsed = parse_generation(ids[2:], vocab)
        assert parsed.problems == ()
        assert len(parsed.blocks) >= 1


def test_lengths_are_the_budget(
    processor: PerceptionLogitsProcessor, model: LlamaForCausalLM, vocab: pt.PerceptionVocabulary
) -> None:
    for config in (
        GenerationConfig(),
        GenerationConfig(max_length=103),
        GenerationConfig(max_length=103, max_time=None),
    ):
        with pytest.raises(ConstraintError, match="at least 102 tokens"):
            processor.for_prompt(PROMPT, generation_config=config)
    with pytest.raises(ConstraintError, match="max_length=2 leaves no token"):
        processor.for_prompt(PROMPT, generation_config=GenerationConfig(max_length=2))
    with pytest.raises(ConstraintError, match="max_length=300 counts the embeddings"):
        processor.for_prompt(0, generation_config=GenerationConfig(max_length=300))
    with pytest.raises(ConstraintError, match="at least 102 tokens"):
        processor.for_prompt(PROMPT, model=model)  # 20 new tokens, the default of generate
    config = GenerationConfig(max_length=104, eos_token_id=2, pad_token_id=3)
    bound = processor.for_prompt(PROMPT, generation_config=config)
    ids = model.generate(PROMPT, generation_config=config, logits_processor=[bound])
    assert ids.shape[1] == 104
    assert len(parse_generation(ids[0, 2:], vocab).blocks) == 1


def test_a_forced_end_takes_one_token_of_the_budget(processor: PerceptionLogitsProcessor) -> None:
    config = GenerationConfig(max_new_tokens=102, forced_eos_token_id=2)
    with pytest.raises(ConstraintError, match="at least 102 tokens"):
        processor.for_prompt(PROMPT, generation_config=config)


def test_stop_strings_that_no_block_or_box_contains_are_taken(processor: PerceptionLogitsProcessor) -> None:
    config = GenerationConfig(max_new_tokens=102, stop_strings=["Human:", ")", "<DEPTH_END>"])
    processor.for_prompt(PROMPT, generation_config=config)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 103},
        {"max_length": 105},
        {"max_new_tokens": 104, "forced_eos_token_id": 2},
        {"generation_config": GenerationConfig(max_length=105, eos_token_id=2, pad_token_id=3)},
    ],
)
def test_generate_perception_follows_lengths_that_generate_alone_is_given(
    model: LlamaForCausalLM,
    vocab: pt.PerceptionVocabulary,
    tokenizer: PreTrainedTokenizerFast,
    settings: dict[str, Any],
) -> None:
    """The block that is forced somewhere begins in time, whatever `for_prompt` knows of the length."""
    grammar = GrammarConfig(force_block="somewhere", boxes=None)
    processor = PerceptionLogitsProcessor(vocab, grammar, tokenizer=tokenizer)
    for budget in (None, 400):
        bound = processor.for_prompt(PROMPT, budget)
        given: dict[str, Any] = {"logits_processor": [bound], "custom_generate": generate_perception, **settings}
        ids = model.generate(PROMPT, **given)
        parsed = parse_generation(ids[0, 2:], vocab)
        assert parsed.problems == ()
        assert len(parsed.blocks) == 1
        assert ids.shape[1] <= 106


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 101}, "at least 102 tokens"),
        ({"max_length": 103}, "at least 102 tokens"),
        pytest.param(
            {},  # 20 new tokens, the default of generate
            "at least 102 tokens",
            marks=pytest.mark.filterwarnings("ignore:Using the model-agnostic default"),
        ),
        ({"max_new_tokens": 200, "no_repeat_ngram_size": 3}, "no_repeat_ngram_size=3"),
        ({"max_new_tokens": 200, "max_time": 5.0}, "max_time"),
    ],
)
def test_generate_perception_refuses_what_generate_alone_is_given(
    processor: PerceptionLogitsProcessor, model: LlamaForCausalLM, settings: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {"logits_processor": [processor.for_prompt(PROMPT)], "custom_generate": generate_perception}
    with pytest.raises(ConstraintError, match=message):
        model.generate(PROMPT, **given, **settings)
