"""Real generation with tiny random models: what comes out is whole, in every mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

import perceptok as pt
from perceptok.decoding.engines.fast_generation import generate_perception
from perceptok.decoding.engines.hf import PerceptionLogitsProcessor
from perceptok.decoding.grammar.automaton import GrammarConfig
from perceptok.decoding.reading.parsing import parse_generation
from perceptok.errors import ConstraintError
from tests.decoding.engines.test_processor import block_ids, box_ids, processor_of

FORCED = GrammarConfig(force_block="first", max_blocks=1, max_boxes=3)


@pytest.fixture(scope="module")
def processor(vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast) -> PerceptionLogitsProcessor:
    return processor_of(FORCED, vocab, tokenizer)


@pytest.fixture(scope="module")
def prompt(vocab: pt.PerceptionVocabulary) -> dict[str, torch.Tensor]:
    """Three prompts padded on the left: words, an example with a block and a box, an example and an open bracket."""
    rows = [[1, 4], [1, 4, *block_ids(vocab), *box_ids(vocab, 1, 2, 3, 4), 4], [1, *block_ids(vocab), 4, 7]]
    longest = max(map(len, rows))
    ids = torch.tensor([[3] * (longest - len(row)) + row for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != 3).long()}


def check(processor: PerceptionLogitsProcessor, answers: torch.Tensor, budget: int) -> None:
    """Every answer, cut at its end, is accepted by the grammar."""
    for answer in answers.tolist():
        ids = answer[: answer.index(2) + 1] if 2 in answer else answer
        assert 2 in answer or len(ids) == budget
        assert processor.grammar.accepts(int(processor.symbols[one]) for one in ids)


MODES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "top_k": 0},
    "sampling, top-k and top-p": {"do_sample": True, "top_k": 5, "top_p": 0.8, "temperature": 2.0},
    "four beams": {"do_sample": False, "num_beams": 4},
    "one beam": {"do_sample": False, "num_beams": 1},
    "several sequences of one prompt": {"do_sample": True, "num_return_sequences": 2},
    "repetition penalty": {"do_sample": False, "repetition_penalty": 1.5},
    "forced tokens without a pass": {"do_sample": True, "custom_generate": generate_perception},
}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_a_batch_padded_on_the_left(
    model: LlamaForCausalLM,
    processor: PerceptionLogitsProcessor,
    vocab: pt.PerceptionVocabulary,
    prompt: dict[str, torch.Tensor],
    mode: dict[str, Any],
) -> None:
    torch.manual_seed(1)
    held = processor.answering(prompt["input_ids"], max_new_tokens=125)
    generated = model.generate(**prompt, logits_processor=[held], max_new_tokens=125, **mode)
    answers = generated[:, prompt["input_ids"].shape[1] :]
    check(processor, answers, 125)
    for answer in answers:
        parsed = parse_generation(answer, vocab)
        assert parsed.problems == ()
        assert len(parsed.blocks) == 1
        assert parsed.spans[0].kind == "depth"


def test_without_the_processor_answers_are_broken(
    model: LlamaForCausalLM, vocab: pt.PerceptionVocabulary, prompt: dict[str, torch.Tensor]
) -> None:
    torch.manual_seed(1)
    generated = model.generate(**prompt, do_sample=True, max_new_tokens=125)
    assert all(parse_generation(answer, vocab).problems for answer in generated[:, prompt["input_ids"].shape[1] :])


def test_one_processor_for_any_number_of_calls(
    model: LlamaForCausalLM, vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Without limits nothing needs to be said about the prompt, not even that it leaves a block open."""
    free = processor_of(GrammarConfig(depth=True), vocab, tokenizer)
    for tail in (block_ids(vocab, 90), box_ids(vocab, 1, 2), [4]):
        ids = torch.tensor([[1, *tail]])
        first, second = (
            model.generate(ids, attention_mask=torch.ones_like(ids), logits_processor=[free], max_new_tokens=15)
            for _ in range(2)
        )
        assert torch.equal(first, second)
        kinds = [span.kind for span in parse_generation(first[0], vocab).spans]
        assert ("depth" in kinds) == (len(tail) == 91)


def test_embeddings_alone(model: LlamaForCausalLM, processor: PerceptionLogitsProcessor) -> None:
    embeddings = model.get_input_embeddings()(torch.tensor([[1, 4, 4], [1, 5, 5]]))
    for extra in ({}, {"custom_generate": generate_perception}):
        answers = model.generate(
            inputs_embeds=embeddings,
            logits_processor=[processor.answering(0, max_new_tokens=110)],
            max_new_tokens=110,
            **extra,
        )
        assert answers.shape[1] <= 110
        check(processor, answers, 110)


@pytest.mark.parametrize("how", ["assistant", "prompt lookup"])
@pytest.mark.parametrize("sample", [False, True])
def test_assisted_decoding(
    model: LlamaForCausalLM,
    processor: PerceptionLogitsProcessor,
    vocab: pt.PerceptionVocabulary,
    how: str,
    sample: bool,
) -> None:
    """Candidates may break a block; what is kept never does, and greedy search keeps what it would have written."""
    torch.manual_seed(2)
    ids = torch.tensor([[1, 4, *block_ids(vocab), 4, 7]])
    held = processor.answering(ids, max_new_tokens=120)
    given: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "logits_processor": [held], "max_new_tokens": 120}
    if how == "assistant":
        assistant = LlamaForCausalLM(LlamaConfig.from_dict({**model.config.to_dict(), "num_hidden_layers": 1})).eval()
        helped = model.generate(ids, **given, do_sample=sample, assistant_model=assistant)
    else:
        helped = model.generate(ids, **given, do_sample=sample, prompt_lookup_num_tokens=8)
    check(processor, helped[:, ids.shape[1] :], 120)
    if not sample:
        assert torch.equal(helped, model.generate(ids, **given, do_sample=False))


def test_llava(vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**size, image_size=28, patch_size=14, projection_dim=32),
        text_config=LlamaConfig(**size, vocab_size=vocab.size + 12, bos_token_id=1, eos_token_id=2, pad_token_id=3),
        image_token_index=6,
        vision_feature_layer=-1,
    )
    model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 3, 2
    ids = torch.tensor([[1, 6, 6, 6, 6, 4], [3, 1, 6, 6, 6, 6]])
    given = {"input_ids": ids, "attention_mask": (ids != 3).long(), "pixel_values": torch.randn(2, 3, 28, 28)}
    held = processor_of(FORCED, vocab, tokenizer).answering(ids, max_new_tokens=105)
    for extra in ({"num_beams": 2}, {"custom_generate": generate_perception}):
        generated = model.generate(**given, logits_processor=[held], max_new_tokens=105, do_sample=False, **extra)
        check(held, generated[:, 6:], 105)


class TestForcedTokens:
    @pytest.fixture
    def passes(self, model: LlamaForCausalLM) -> Any:
        """Counts the model's forward passes."""
        counted = [0]

        def count(*_: object) -> None:
            counted[0] += 1

        hook = model.register_forward_pre_hook(count)
        yield counted
        hook.remove()

    @pytest.mark.parametrize("use_cache", [True, False])
    @pytest.mark.parametrize("rows", [1, 3])
    def test_the_same_answer_in_fewer_passes(
        self,
        model: LlamaForCausalLM,
        processor: PerceptionLogitsProcessor,
        prompt: dict[str, torch.Tensor],
        passes: list[int],
        rows: int,
        use_cache: bool,
    ) -> None:
        given = {name: values[:rows] for name, values in prompt.items()}
        held = processor.answering(given["input_ids"], max_new_tokens=120)

        def run(**extra: Any) -> tuple[torch.Tensor, int]:
            before = passes[0]
            ids = model.generate(
                **given, logits_processor=[held], max_new_tokens=120, do_sample=False, use_cache=use_cache, **extra
            )
            return ids, passes[0] - before

        (slow, slow_passes), (fast, fast_passes) = run(), run(custom_generate=generate_perception)
        assert torch.equal(slow, fast)
        assert fast_passes <= slow_passes - 2  # the block's two markers

    def test_boxes_save_their_commas(
        self,
        model: LlamaForCausalLM,
        vocab: pt.PerceptionVocabulary,
        tokenizer: PreTrainedTokenizerFast,
        passes: list[int],
    ) -> None:
        held = processor_of(GrammarConfig(first="box", max_boxes=1), vocab, tokenizer).answering(1, max_new_tokens=9)
        ids = model.generate(
            torch.tensor([[1]]), logits_processor=[held], max_new_tokens=9, custom_generate=generate_perception
        )
        assert parse_generation(ids[0], vocab).boxes.shape == (1, 4)
        assert passes[0] == 6  # a bracket, four coordinates, a bracket

    def test_forced_ids(
        self, processor: PerceptionLogitsProcessor, vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        block = block_ids(vocab)
        for ids, expected in (
            ([4], vocab.start_id(pt.DEPTH)),
            ([4, *block[:50]], -1),
            ([4, *block[:101]], vocab.end_id(pt.DEPTH)),
            ([4, *block], -1),
            ([4, *block, *box_ids(vocab, 1)], 8),
            ([4, *block, *box_ids(vocab, 1), 8], -1),
        ):
            assert processor.answering(1).forced_tokens(torch.tensor([ids])).tolist() == [expected]

    def test_what_is_returned(self, model: LlamaForCausalLM, processor: PerceptionLogitsProcessor) -> None:
        given: dict[str, Any] = {"logits_processor": [processor.answering(1)], "custom_generate": generate_perception}
        output = model.generate(torch.tensor([[1]]), **given, max_new_tokens=3, return_dict_in_generate=True)
        assert output.sequences.shape == (1, 4)

    @pytest.mark.parametrize(
        ("extra", "message"),
        [
            ({"num_beams": 2}, "leave custom_generate out"),
            ({"logits_processor": []}, "needs one PerceptionLogitsProcessor; got 0"),
            ({"return_dict_in_generate": True, "output_scores": True}, "forced tokens have no output_scores"),
        ],
    )
    def test_what_it_does_not_do(
        self, model: LlamaForCausalLM, processor: PerceptionLogitsProcessor, extra: dict[str, Any], message: str
    ) -> None:
        given: dict[str, Any] = {"logits_processor": [processor.answering(1)], "max_new_tokens": 3, **extra}
        with pytest.raises(ConstraintError, match=message):
            model.generate(torch.tensor([[1]]), custom_generate=generate_perception, **given)
