"""Generation with tiny random models: outputs are well formed in every mode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    TextIteratorStreamer,
)

import perceptok as pt
from perceptok.decoding import (
    GrammarConfig,
    PerceptionLogitsProcessor,
    StreamEvent,
    TokenStream,
    generate_perception,
    parse_generation,
)
from perceptok.errors import ConstraintError
from tests.decoding.engines.test_huggingface import block_ids, box_ids, processor_of

BLOCK = "".join([pt.tokens.DEPTH.start, *(pt.tokens.DEPTH.token(code) for code in range(100)), pt.tokens.DEPTH.end])
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
        assert processor.grammar.accepts(int(processor.symbols[token_id]) for token_id in ids)


MODES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "top_k": 0},
    "sampling, top-k and top-p": {"do_sample": True, "top_k": 5, "top_p": 0.8, "temperature": 2.0},
    "sampling, the smallest likely": {"do_sample": True, "min_p": 0.1, "typical_p": 0.9},
    "four beams": {"do_sample": False, "num_beams": 4},
    "one beam": {"do_sample": False, "num_beams": 1},
    "beam sampling": {"do_sample": True, "num_beams": 3, "top_k": 0},
    "several beams of one prompt": {"do_sample": False, "num_beams": 3, "num_return_sequences": 3},
    "several sequences of one prompt": {"do_sample": True, "num_return_sequences": 2},
    "repetition penalty": {"do_sample": False, "repetition_penalty": 1.5},
    "a static cache": {"do_sample": False, "cache_implementation": "static"},
    "no cache": {"do_sample": False, "use_cache": False},
    "a quantised cache": {"do_sample": False, "cache_implementation": "quantized"},
    "guidance": {"do_sample": False, "guidance_scale": 1.5},
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
    held = processor.for_prompt(prompt["input_ids"], max_new_tokens=125, model=model)
    if mode.get("cache_implementation") == "quantized":
        pytest.importorskip("optimum.quanto")
    generated = model.generate(**prompt, logits_processor=[held], max_new_tokens=125, **mode)
    answers = generated[:, prompt["input_ids"].shape[1] :]
    check(processor, answers, 125)
    for answer in answers:
        parsed = parse_generation(answer, vocab)
        assert parsed.problems == ()
        assert len(parsed.blocks) == 1
        assert parsed.spans[0].kind == "depth"


def test_all_generation_modes_are_tested() -> None:
    """Modes that transformers has moved to the Hub need `trust_remote_code`, and are not ours."""
    from transformers.generation import utils
    from transformers.generation.configuration_utils import GenerationMode

    moved = set(utils.GENERATION_MODES_MAPPING) - {
        mode for mode, name in utils.GENERATION_MODES_MAPPING.items() if hasattr(utils.GenerationMixin, name)
    }
    tested = {"greedy_search", "sample", "beam_search", "beam_sample", "assisted_generation"}
    assert {GenerationMode(mode) for mode in tested} == set(GenerationMode) - moved


def test_a_batch_padded_on_the_right(model: LlamaForCausalLM, processor: PerceptionLogitsProcessor) -> None:
    """Padding between prompt and answer is treated as text; transformers itself warns about it."""
    ids = torch.tensor([[1, 4, 4], [1, 4, 3]])
    held = processor.for_prompt(ids, max_new_tokens=110)
    answers = model.generate(
        ids, attention_mask=(ids != 3).long(), logits_processor=[held], max_new_tokens=110, do_sample=False
    )
    check(processor, answers[:, 3:], 110)


def test_a_chat_template(
    model: LlamaForCausalLM, processor: PerceptionLogitsProcessor, tokenizer: PreTrainedTokenizerFast
) -> None:
    template = "{% for turn in messages %}{{ turn['content'] }} {% endfor %}{% if add_generation_prompt %}( {% endif %}"
    turns = [{"role": "user", "content": "a map"}, {"role": "assistant", "content": BLOCK}]
    asked = tokenizer.apply_chat_template(
        [*turns, {"role": "user", "content": "a box"}], chat_template=template, add_generation_prompt=True,
        return_tensors="pt", return_dict=True,
    )  # fmt: skip
    held = processor.for_prompt(asked["input_ids"], max_new_tokens=110)
    generated = model.generate(
        input_ids=asked["input_ids"], attention_mask=asked["attention_mask"], logits_processor=[held],
        max_new_tokens=110, do_sample=False,
    )  # fmt: skip
    check(processor, generated[:, asked["input_ids"].shape[1] :], 110)


class TestEnds:
    """An answer ends where `generate` says, not where the tokenizer does."""

    SOMEWHERE = GrammarConfig(force_block="somewhere", max_blocks=1, boxes=None)

    @pytest.fixture
    def eager(self, model: LlamaForCausalLM) -> Iterator[LlamaForCausalLM]:
        """A model that would write token 5 (an end of its own) at once."""

        def prefer(_: object, __: object, scores: torch.Tensor) -> torch.Tensor:
            return scores + 1000 * (torch.arange(scores.shape[-1]) == 5)

        hook = model.lm_head.register_forward_hook(prefer)
        yield model
        hook.remove()

    @pytest.mark.parametrize("ends", [[2, 5], 5, [5], [2, 5, 10**6]])
    @pytest.mark.parametrize("extra", [{}, {"custom_generate": generate_perception}, {"num_beams": 2}])
    def test_from_the_generation_config(
        self,
        eager: LlamaForCausalLM,
        vocab: pt.PerceptionVocabulary,
        tokenizer: PreTrainedTokenizerFast,
        ends: int | list[int],
        extra: dict[str, Any],
    ) -> None:
        processor = processor_of(self.SOMEWHERE, vocab, tokenizer)
        config = GenerationConfig(eos_token_id=ends, max_new_tokens=120, pad_token_id=3, do_sample=False)
        held = processor.for_prompt(torch.tensor([[1, 4]]), generation_config=config)
        assert 5 in held.eos_token_ids
        assert processor.eos_token_ids == (2,)
        generated = eager.generate(torch.tensor([[1, 4]]), config, logits_processor=[held], **extra)
        parsed = parse_generation(generated[0, 2:], vocab)
        assert len(parsed.blocks) == 1
        assert 5 not in generated[0, :-1]

    def test_from_the_model(
        self, eager: LlamaForCausalLM, vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        before = eager.generation_config.eos_token_id
        eager.generation_config.eos_token_id = [2, 5]
        try:
            processor = processor_of(self.SOMEWHERE, vocab, tokenizer)
            ids = torch.tensor([[1, 4]])
            held = processor.for_prompt(ids, 120, model=eager)
            generated = eager.generate(ids, logits_processor=[held], max_new_tokens=120, do_sample=False)
        finally:
            eager.generation_config.eos_token_id = before
        assert len(parse_generation(generated[0, 2:], vocab).blocks) == 1

    @pytest.mark.parametrize("budget", range(102, 125, 4))
    def test_after_the_block_there_is_text(
        self, vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast, budget: int
    ) -> None:
        """With a budget and without boxes, nothing at all was let through between a forced block and the end."""
        held = processor_of(self.SOMEWHERE, vocab, tokenizer).for_prompt(1, budget)
        ids = torch.tensor([[1, *block_ids(vocab)]])
        for _ in range(budget - 102):
            scores = held(ids, torch.zeros(1, vocab.size))
            assert scores[0, 2] == scores[0, 4] == 0
            ids = torch.cat([ids, torch.tensor([[4]])], 1)

    def test_the_tables_are_shared(self, processor: PerceptionLogitsProcessor) -> None:
        config = GenerationConfig(max_new_tokens=200, eos_token_id=[2, 5])
        one, other = (processor.for_prompt(1, generation_config=config) for _ in range(2))
        assert one.symbols is other.symbols
        assert processor.symbols is not one.symbols
        assert (
            processor.for_prompt(1, generation_config=GenerationConfig(max_new_tokens=200)).symbols is processor.symbols
        )

    def test_ends_that_the_processor_does_not_know(
        self, model: LlamaForCausalLM, processor: PerceptionLogitsProcessor
    ) -> None:
        with pytest.raises(
            ConstraintError, match=r"ends a sequence at \[5\], which the processor takes for text; pass them: processor"
        ):
            model.generate(
                torch.tensor([[1]]), eos_token_id=[2, 5], logits_processor=[processor.for_prompt(1)], max_new_tokens=3,
                custom_generate=generate_perception,
            )  # fmt: skip

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            ({"stop_strings": ["map"]}, "may end the answer inside a block or box, or before its forced block"),
            ({"max_time": 1.0}, "may end the answer inside a block or box"),
        ],
    )
    def test_ends_that_no_processor_sees(
        self,
        vocab: pt.PerceptionVocabulary,
        tokenizer: PreTrainedTokenizerFast,
        other: dict[str, Any],
        message: str,
    ) -> None:
        processor = processor_of(self.SOMEWHERE, vocab, tokenizer)
        with pytest.raises(ConstraintError, match=rf"{next(iter(other))}=\S+ {message}"):
            processor.for_prompt(1, generation_config=GenerationConfig(**other))

    def test_a_perception_token_is_no_end(
        self, processor: PerceptionLogitsProcessor, vocab: pt.PerceptionVocabulary
    ) -> None:
        with pytest.raises(ConstraintError, match="cannot end a sequence"):
            processor.for_prompt(1, generation_config=GenerationConfig(eos_token_id=[2, vocab.end_id(pt.tokens.DEPTH)]))


class TestEncoderDecoder:
    @pytest.fixture
    def t5(self, vocab: pt.PerceptionVocabulary) -> T5ForConditionalGeneration:
        torch.manual_seed(0)
        config = T5Config(
            vocab_size=vocab.size + 12, d_model=32, d_ff=32, d_kv=16, num_layers=1, num_heads=2, pad_token_id=3,
            eos_token_id=2, decoder_start_token_id=3, initializer_factor=5.0,
        )  # fmt: skip
        return T5ForConditionalGeneration(config).eval()

    @pytest.mark.parametrize("mode", [{}, {"do_sample": True}, {"num_beams": 3}])
    @pytest.mark.parametrize("length", [1, 2, 7, 150])
    def test_the_encoders_ids_do_not_count(
        self, t5: T5ForConditionalGeneration, processor: PerceptionLogitsProcessor, length: int, mode: dict[str, Any]
    ) -> None:
        ids = torch.full((2, length), 4)
        given: dict[str, Any] = {"max_new_tokens": 110, "min_new_tokens": 1, **mode}
        for how in ({"model": t5}, {"generation_config": t5.generation_config}):
            held = processor.for_prompt(ids, 110, **how)
            written = t5.generate(ids, attention_mask=torch.ones_like(ids), logits_processor=[held], **given)
            check(processor, written[:, 1:], 110)

    @pytest.mark.parametrize("begun", [[3, 4], [4, 4]])
    def test_a_decoders_prompt(
        self, t5: T5ForConditionalGeneration, processor: PerceptionLogitsProcessor, begun: list[int]
    ) -> None:
        """transformers puts the start token before one that lacks it."""
        ids, decoder = torch.tensor([[4, 4, 4, 4, 2]]), torch.tensor([begun])
        held = processor.for_prompt(ids, 110, model=t5, decoder_input_ids=decoder)
        written = t5.generate(ids, decoder_input_ids=decoder, logits_processor=[held], max_new_tokens=110)
        check(processor, written[:, 2 + (begun[0] != 3) :], 110)

    def test_the_remedy_in_the_message(
        self, t5: T5ForConditionalGeneration, processor: PerceptionLogitsProcessor
    ) -> None:
        ids = torch.tensor([[4, 4, 4, 2]])
        with pytest.raises(
            ConstraintError, match=r"given a prompt of 4 ids, but generation has 1.*one start token \(1, or"
        ):
            t5.generate(ids, logits_processor=[processor.for_prompt(ids, 110)], max_new_tokens=110)
        written = t5.generate(ids, logits_processor=[processor.for_prompt(1, 110)], max_new_tokens=110)
        check(processor, written[:, 1:], 110)


class TestStreams:
    @pytest.mark.parametrize("extra", [{}, {"custom_generate": generate_perception}])
    def test_one_stream_for_several_answers(
        self, model: LlamaForCausalLM, processor: PerceptionLogitsProcessor, vocab: pt.PerceptionVocabulary, extra: Any
    ) -> None:
        events: list[StreamEvent] = []
        stream = TokenStream(vocab, events.append)
        for prompt in ([1, 4], [1, *block_ids(vocab), 4, 4]):
            events.clear()
            ids = torch.tensor([prompt])
            held = processor.for_prompt(ids, 110)
            answer = model.generate(
                ids, logits_processor=[held], max_new_tokens=110, do_sample=False, streamer=stream, **extra
            )[:, len(prompt) :]
            fresh = TokenStream(vocab)
            alone = [*fresh.feed(answer), *fresh.close()]
            assert [(event.kind, event.start, event.end, event.block) for event in events] == [
                (event.kind, event.start, event.end, event.block) for event in alone
            ]
            assert [event.kind for event in events].count("depth") == 1

    @pytest.mark.parametrize("sample", [False, True])
    def test_a_text_streamer_ends(
        self,
        model: LlamaForCausalLM,
        processor: PerceptionLogitsProcessor,
        tokenizer: PreTrainedTokenizerFast,
        sample: bool,
    ) -> None:
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=20)
        ids = torch.tensor([[1, 4]])
        written = model.generate(
            ids, logits_processor=[processor.for_prompt(ids, 110)], max_new_tokens=110, do_sample=sample,
            streamer=streamer, custom_generate=generate_perception,
        )  # fmt: skip
        assert "".join(streamer) == tokenizer.decode(written[0, 2:])


def test_without_the_processor_answers_are_broken(
    model: LlamaForCausalLM, vocab: pt.PerceptionVocabulary, prompt: dict[str, torch.Tensor]
) -> None:
    torch.manual_seed(1)
    generated = model.generate(**prompt, do_sample=True, max_new_tokens=125)
    assert all(parse_generation(answer, vocab).problems for answer in generated[:, prompt["input_ids"].shape[1] :])


def test_a_processor_serves_many_calls(
    model: LlamaForCausalLM, vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Without limits the prompt need not be given, even if it ends in a block."""
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


def test_embeddings_without_ids(model: LlamaForCausalLM, processor: PerceptionLogitsProcessor) -> None:
    embeddings = model.get_input_embeddings()(torch.tensor([[1, 4, 4], [1, 5, 5]]))
    for extra in ({}, {"custom_generate": generate_perception}):
        answers = model.generate(
            inputs_embeds=embeddings,
            logits_processor=[processor.for_prompt(0, max_new_tokens=110)],
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
    """Candidates may break a block; accepted tokens never do, and equal those of plain greedy search."""
    torch.manual_seed(2)
    ids = torch.tensor([[1, 4, *block_ids(vocab), 4, 7]])
    held = processor.for_prompt(ids, max_new_tokens=120)
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
    held = processor_of(FORCED, vocab, tokenizer).for_prompt(ids, max_new_tokens=105)
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
        held = processor.for_prompt(given["input_ids"], max_new_tokens=120)

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
        held = processor_of(GrammarConfig(first="box", max_boxes=1), vocab, tokenizer).for_prompt(1, max_new_tokens=9)
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
            ([4], vocab.start_id(pt.tokens.DEPTH)),
            ([4, *block[:50]], -1),
            ([4, *block[:101]], vocab.end_id(pt.tokens.DEPTH)),
            ([4, *block], -1),
            ([4, *block, *box_ids(vocab, 1)], 8),
            ([4, *block, *box_ids(vocab, 1), 8], -1),
        ):
            assert processor.for_prompt(1).find_forced_tokens(torch.tensor([ids])).tolist() == [expected]

    def test_what_is_returned(self, model: LlamaForCausalLM, processor: PerceptionLogitsProcessor) -> None:
        given: dict[str, Any] = {"logits_processor": [processor.for_prompt(1)], "custom_generate": generate_perception}
        output = model.generate(torch.tensor([[1]]), **given, max_new_tokens=102, return_dict_in_generate=True)
        assert output.sequences.shape == (1, 103)

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
        given: dict[str, Any] = {"logits_processor": [processor.for_prompt(1)], "max_new_tokens": 3, **extra}
        with pytest.raises(ConstraintError, match=message):
            model.generate(torch.tensor([[1]]), custom_generate=generate_perception, **given)
