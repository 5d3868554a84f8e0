"""Rows of a batch: sampling that depends on nothing but its seed, log probabilities, watching and stopping."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import perceptok as pt
from perceptok.llava import PerceptionPipeline, Request
from perceptok.llava.inference.rows import AnswerRow
from tests.llava.answering import leaning_pipeline, make_image

QUESTIONS = ["Why?", "What is the depth map for the image?", "How many cars are in the image?", "Hm?"]


@pytest.fixture(scope="module")
def pipe(tiny_llava: Path, codec: pt.DepthCodec) -> PerceptionPipeline:
    return leaning_pipeline(tiny_llava, codec)


def test_threads_sample_what_a_series_samples(pipe: PerceptionPipeline) -> None:
    def ask(seed: int) -> list[str]:
        images = [make_image(40, 30, seed), make_image(30, 40, seed + 1)]
        answers = pipe(images, QUESTIONS[seed % 2 : seed % 2 + 2], temperature=1.3, seed=seed, max_new_tokens=40)
        return [answer.text for answer in answers]

    series = [ask(seed) for seed in range(6)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(6))) == series
    assert len({text for texts in series for text in texts}) > 6


@pytest.mark.parametrize("skip_forced", [True, False])
def test_samples_do_not_depend_on_the_batch(pipe: PerceptionPipeline, skip_forced: bool) -> None:
    images = [make_image(40, 30, seed) for seed in range(4)]
    settings = {"temperature": 1.1, "top_p": 0.9, "seed": 4, "max_new_tokens": 125}
    texts = [
        [answer.text for answer in pipe(images, QUESTIONS, batch_size=size, skip_forced=skip_forced, **settings)]
        for size in (1, 3, 4)
    ]
    assert texts[0] == texts[1] == texts[2]
    assert texts[0] == [answer.text for answer in pipe(images, QUESTIONS, **settings)]


def test_a_short_prompt_keeps_its_budget_beside_a_long_one(pipe: PerceptionPipeline) -> None:
    """The context leaves few tokens after the long prompt, and enough after the short one."""
    images = [make_image(9, 9), make_image(9, 9)]
    long = pipe.prepare_inputs(images[0], "w" * 1900)["input_ids"].shape[1]
    budget = 2048 - long + 100
    short = pipe(images[0], "Why?", max_new_tokens=budget)
    beside = pipe(images, ["Why?", "w" * 1900], max_new_tokens=budget)[0]
    assert beside.to_dict() == short.to_dict()
    assert beside.tokens > 2048 - long


def test_draws_follow_the_distribution() -> None:
    scores = torch.tensor([1.0, -torch.inf, 0.0, 2.0, -torch.inf])
    row = AnswerRow(temperature=0.7, seed=3)
    drawn = np.bincount([row.choose(scores, 0) for _ in range(4000)], minlength=5) / 4000
    expected = (scores / 0.7).softmax(-1).numpy()
    assert drawn[1] == drawn[4] == 0
    assert np.abs(drawn - expected).max() < 0.03
    nucleus = AnswerRow(temperature=0.7, top_p=0.6, seed=3)
    assert {nucleus.choose(scores, 0) for _ in range(100)} == {3}


def test_one_allowed_token_draws_nothing() -> None:
    scores = torch.tensor([-torch.inf, 5.0])
    free = torch.zeros(50)
    first, second = AnswerRow(temperature=1.0, seed=1), AnswerRow(temperature=1.0, seed=1)
    assert first.choose(scores, 0) == 1
    assert [first.choose(free, step) for step in range(9)] == [second.choose(free, step) for step in range(9)]
    other = AnswerRow(temperature=1.0, seed=1, index=1)
    assert [other.choose(free, step) for step in range(9)] != [second.choose(free, step) for step in range(9)]
    AnswerRow(temperature=1.0, seed=-5).choose(free, 0)


def test_log_probabilities_and_stopping(pipe: PerceptionPipeline) -> None:
    config = pipe.config.override({"max_new_tokens": 120, "force_block": "first"})
    batch = pipe.prepare_batch([Request((make_image(40, 30),), "Why?")] * 2, config)
    watched: list[int] = []

    def stop_after_ten(token_id: int) -> bool:
        watched.append(token_id)
        return len(watched) == 10

    rows = [AnswerRow(top_logprobs=3), AnswerRow(watch=stop_after_ten)]
    pipe.generate_batch(batch, rows)
    assert rows[1].ids == watched == rows[0].ids[:10]
    assert rows[1].done
    logprobs = rows[0].list_logprobs()
    assert [entry.token_id for entry in logprobs] == rows[0].ids
    assert logprobs[0].logprob == 0.0  # <DEPTH_START> is forced
    codes = logprobs[1:101]
    assert all(entry.token_id == entry.top[0][0] and entry.logprob == entry.top[0][1] < 0 for entry in codes)
    assert all(len(entry.top) == 3 for entry in codes)
    assert pipe.parse_row(batch, 1, rows[1].ids).problems[0].startswith("an unclosed depth block")
