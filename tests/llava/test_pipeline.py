"""A pipeline on a tiny random model: batches, constraints, determinism, streaming, and parts that do not fit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import perceptok as pt
from perceptok.decoding import GrammarConfig
from perceptok.errors import ConfigError, ConstraintError, ImageError, InferenceError, VocabularyError
from perceptok.llava import PerceptionAnswer, PerceptionPipeline, load_llava
from tests.llava.answering import leaning_pipeline, make_image

QUESTIONS = ["What is the depth map?", "Return the bounding boxes of all cars that are seen in the image.", "Hm?"]


@pytest.fixture(scope="module")
def pipe(tiny_llava: Path, codec: pt.DepthCodec) -> PerceptionPipeline:
    return leaning_pipeline(tiny_llava, codec)


def same(first: PerceptionAnswer, second: PerceptionAnswer) -> bool:
    return first.to_dict() == second.to_dict()


def test_one_question(pipe: PerceptionPipeline) -> None:
    answer = pipe(make_image(60, 40), QUESTIONS[0], max_new_tokens=130)
    assert isinstance(answer, PerceptionAnswer)
    assert answer.constrained
    assert len(answer.blocks) == 1
    assert answer.depth is not None
    assert answer.depth.values.shape == (40, 60)
    assert answer.codec == pipe.codec.fingerprint


def test_a_batch_of_different_lengths_says_what_each_says_alone(pipe: PerceptionPipeline) -> None:
    images = [make_image(60, 40), make_image(1, 1, 1), make_image(20, 2000, 2)]
    batched = pipe(images, QUESTIONS, max_new_tokens=125)
    assert [answer.question for answer in batched] == QUESTIONS
    assert [answer.image.size for answer in batched] == [(60, 40), (1, 1), (20, 2000)]
    for image, question, answer in zip(images, QUESTIONS, batched, strict=True):
        assert same(pipe(image, question, max_new_tokens=125), answer)
    small = pipe(images, QUESTIONS, max_new_tokens=125, batch_size=2)
    assert all(same(*pair) for pair in zip(batched, small, strict=True))


def test_one_image_many_questions_and_the_reverse(pipe: PerceptionPipeline) -> None:
    many = pipe(make_image(9, 9), QUESTIONS, max_new_tokens=4)
    assert [answer.question for answer in many] == QUESTIONS
    assert len(pipe([make_image(9, 9), make_image(8, 8)], "Why?", max_new_tokens=4)) == 2
    assert isinstance(pipe([make_image(9, 9)], "Why?", max_new_tokens=4), list)
    assert pipe([], [], max_new_tokens=4) == []


def test_deterministic_whatever_the_checkpoint_asks_for(pipe: PerceptionPipeline) -> None:
    plain = pipe(make_image(60, 40), QUESTIONS[0], max_new_tokens=120)
    settings = pipe.model.generation_config
    saved = settings.to_dict()
    settings.update(do_sample=True, temperature=2.0, top_p=0.9, repetition_penalty=1.8, num_beams=2, min_length=90)
    try:
        state = torch.random.get_rng_state()
        assert same(pipe(make_image(60, 40), QUESTIONS[0], max_new_tokens=120), plain)
        assert torch.equal(torch.random.get_rng_state(), state)
    finally:
        settings.update(**saved)


def test_settings_of_the_checkpoint_that_would_break_a_block_are_refused(pipe: PerceptionPipeline) -> None:
    settings = pipe.model.generation_config
    settings.max_time = 60.0
    try:
        with pytest.raises(ConstraintError, match=r"max_time=60\.0 may end the answer inside a block"):
            pipe(make_image(60, 40), QUESTIONS[0], max_new_tokens=120)
        pipe(make_image(60, 40), QUESTIONS[0], max_new_tokens=2, constraints=False)
    finally:
        settings.max_time = None


def test_draws_follow_their_seed_and_leave_the_callers_alone(pipe: PerceptionPipeline) -> None:
    state = torch.random.get_rng_state()
    drawn = [pipe(make_image(60, 40), "Why?", max_new_tokens=30, temperature=1.5, seed=seed) for seed in (1, 1, 2)]
    assert same(drawn[0], drawn[1])
    assert not same(drawn[0], drawn[2])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_without_constraints_it_breaks_blocks_and_with_them_never(pipe: PerceptionPipeline) -> None:
    free = pipe([make_image(30, 30, seed) for seed in range(4)], "Why?", max_new_tokens=130, constraints=False)
    assert all(not answer.constrained for answer in free)
    assert all("cut off" not in answer.problems[0] for answer in free)
    constrained = pipe([make_image(30, 30, seed) for seed in range(4)], "Why?", max_new_tokens=130)
    assert all(
        set(answer.problems) <= {"the answer was cut off at the maximum number of tokens"} for answer in constrained
    )


def test_forced_tokens_change_nothing_but_the_time(pipe: PerceptionPipeline) -> None:
    inputs = ([make_image(60, 40), make_image(30, 30, 1)], QUESTIONS[:2])
    fast, slow = (pipe(*inputs, max_new_tokens=150, skip_forced=skip) for skip in (True, False))
    assert all(same(*pair) for pair in zip(fast, slow, strict=True))


def test_a_forced_block(pipe: PerceptionPipeline) -> None:
    answer = pipe(make_image(60, 40), "Why?", max_new_tokens=102, force_block="first")
    assert answer.spans[0].kind == "depth"
    with pytest.raises(ConstraintError, match="needs at least 102 tokens"):
        pipe(make_image(60, 40), "Why?", max_new_tokens=101, force_block="first")
    boxes = pipe(make_image(60, 40), "Why?", max_new_tokens=60, grammar=GrammarConfig(depth=False, first="box"))
    assert boxes.spans[0].kind == "text"
    assert len(boxes.boxes) >= 1
    assert boxes.blocks == ()


def test_a_budget_never_cuts_a_block(pipe: PerceptionPipeline) -> None:
    for budget in (50, 101, 104):
        assert pipe(make_image(60, 40), QUESTIONS[0], max_new_tokens=budget).problems in (
            (),
            ("the answer was cut off at the maximum number of tokens",),
        )


class TestStreaming:
    def test_it_tells_what_the_call_gives(self, pipe: PerceptionPipeline) -> None:
        updates = list(pipe.stream(make_image(60, 40), QUESTIONS[0], max_new_tokens=150))
        whole = pipe(make_image(60, 40), QUESTIONS[0], max_new_tokens=150)
        answer = updates[-1].answer
        assert answer is not None
        assert same(answer, whole)
        assert "".join(update.text for update in updates if update.kind == "text") == whole.text
        rows = [update for update in updates if update.kind == "row"]
        assert [update.row for update in rows] == list(range(10))
        assert whole.codes is not None
        np.testing.assert_array_equal(
            np.stack([update.codes for update in rows if update.codes is not None]), whole.codes
        )
        for number, update in enumerate(rows, 1):
            assert update.depth is not None
            assert update.depth.valid[: 4 * number].all()
            assert not update.depth.valid[4 * number :].any()
        last = next(update for update in updates if update.kind == "depth").depth
        assert last is not None
        assert whole.depth is not None
        np.testing.assert_array_equal(last.values, whole.depth.values)
        boxes = [update.box for update in updates if update.kind == "box"]
        assert len(boxes) == len(whole.boxes)

    def test_rows_that_are_known_hardly_change(self, pipe: PerceptionPipeline, codec: pt.DepthCodec) -> None:
        """Five rows of a real map, the rest to come: what is shown so far is nearly what will stand there."""
        from perceptok.boxes import ImageFrame
        from perceptok.llava.inference.streaming import decode_partial_block

        ramp = np.linspace(0, 1, 320, dtype=np.float32)[:, None].repeat(320, axis=1)
        codes = codec.encode(ramp)[0]
        part = codes.copy()
        part[5:] = -1
        frame = ImageFrame.squash((320, 320))
        shown = decode_partial_block(codec, part, frame)
        error = np.abs(shown.values - codec.decode(codes)[0])[shown.valid]
        assert shown.valid.mean() == 0.5
        assert error.mean() < 0.02

    def test_leaving_early_stops_the_model(self, pipe: PerceptionPipeline) -> None:
        updates = pipe.stream(make_image(60, 40), QUESTIONS[0], max_new_tokens=1500)
        assert isinstance(updates, Iterator)
        assert next(updates).kind == "text"
        updates.close()  # type: ignore[attr-defined]
        assert not any(thread.name == "perceptok-stream" for thread in threading.enumerate())

    def test_an_error_in_the_model_comes_out(self, pipe: PerceptionPipeline) -> None:
        with pytest.raises(ConstraintError, match="needs at least 102 tokens"):
            list(pipe.stream(make_image(60, 40), "Why?", max_new_tokens=5, force_block="first"))


class TestWhatCannotBeAsked:
    @pytest.mark.parametrize(
        ("images", "questions", "message"),
        [
            ([[make_image(9, 9), make_image(9, 9)]], "<image>Which?", "this one has <image> 1 times and 2 images"),
            ([[]], "Which?", "needs at least one image"),
            ([make_image(9, 9)] * 2, ["a", "b", "c"], "2 images and 3 questions do not pair"),
            (make_image(9, 9), "<image><image>", "this one has <image> 2 times"),
            (make_image(9, 9), " ", "not empty"),
            ("nowhere.png", "Why?", "image file not found"),
        ],
    )
    def test_requests(self, pipe: PerceptionPipeline, images: object, questions: object, message: str) -> None:
        with pytest.raises((InferenceError, ImageError), match=message):
            pipe(images, questions)  # type: ignore[call-overload]

    def test_choices_of_another_kind(self, pipe: PerceptionPipeline) -> None:
        with pytest.raises(InferenceError, match="single letters or whole numbers"):
            pipe(make_image(9, 9), "Why?", choices=("yes", "no"))
        with pytest.raises(InferenceError, match="single letters"):
            pipe(make_image(9, 9), "Why?", markers={"here": (1, 1)})

    def test_a_prompt_longer_than_the_context(self, pipe: PerceptionPipeline) -> None:
        with pytest.raises(InferenceError, match="no tokens are left for an answer"):
            pipe(make_image(9, 9), "why " * 3000)

    def test_the_context_bounds_the_budget(self, pipe: PerceptionPipeline) -> None:
        answer = pipe(make_image(9, 9), "w" * 1990, max_new_tokens=4000)
        assert 0 < answer.tokens < 60
        assert answer.blocks == ()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"bach_size": 3}, "unknown settings: bach_size; known are"),
            ({"batch_size": 0}, "batch_size must be at least 1"),
            ({"temperature": -1.0}, "temperature must be 0"),
            ({"top_p": 0.0}, "top_p must be a probability"),
            ({"force_block": "first", "constraints": False}, "needs constraints"),
            ({"consistency": ("letters",)}, "consistency must be among count, list, marker; got letters"),
        ],
    )
    def test_switches(self, pipe: PerceptionPipeline, changes: dict[str, object], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            pipe(make_image(9, 9), "Why?", **changes)


class TestPartsThatDoNotFit:
    def test_a_model_that_was_not_extended(self, pipe: PerceptionPipeline, tiny_llava: Path) -> None:
        from transformers import LlavaForConditionalGeneration

        bare = LlavaForConditionalGeneration.from_pretrained(tiny_llava)
        with pytest.raises(VocabularyError, match="it was not extended"):
            PerceptionPipeline(bare, pipe.processor, pipe.vocab, codec=pipe.codec)

    def test_a_tokenizer_without_the_tokens(self, pipe: PerceptionPipeline, tiny_llava: Path) -> None:
        from transformers import LlavaProcessor

        with pytest.raises(VocabularyError, match="the tokenizer lacks 130 of the 130 DEPTH tokens"):
            PerceptionPipeline(pipe.model, LlavaProcessor.from_pretrained(tiny_llava), pipe.vocab, codec=pipe.codec)

    def test_ids_of_another_model(self, pipe: PerceptionPipeline, tiny_llava: Path) -> None:
        _, processor, _ = load_llava(tiny_llava, (pt.tokens.PIXEL, pt.tokens.DEPTH))
        with pytest.raises(VocabularyError, match="they belong to different models"):
            PerceptionPipeline(pipe.model, processor, pipe.vocab, codec=pipe.codec)

    def test_a_codec_of_another_fingerprint(self, pipe: PerceptionPipeline, codec: pt.DepthCodec) -> None:
        other = pt.DepthCodec(codec.model, pt.DepthCodec.from_pretrained().preprocessing.__class__(resize="area"))
        with pytest.raises(VocabularyError, match="load the codec that the model was trained with"):
            PerceptionPipeline(pipe.model, pipe.processor, pipe.vocab, codec=other)


def test_consistency_stands_beside_the_constraints(pipe: PerceptionPipeline) -> None:
    kinds = ("count", "list", "marker")
    inputs = ([make_image(60, 40), make_image(30, 30, 1)], QUESTIONS[:2])
    places = {"A": (3.0, 4.0), "B": (29.0, 29.0)}
    constrained = pipe(*inputs, max_new_tokens=120, consistency=kinds, markers=places)
    free = pipe(*inputs, max_new_tokens=120, markers=places)
    assert [answer.text for answer in constrained] == [answer.text for answer in free]  # none of the cues was written
    assert [answer.overruled for answer in constrained] == [0, 0]
