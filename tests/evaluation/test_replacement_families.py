"""Continuations from a shared prefix against `generate` one at a time, in every family of positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

import perceptok as pt
from perceptok.data import Turn
from perceptok.depth import block_to_text
from perceptok.evaluation.replacement import CutAnswer, continue_after
from perceptok.llava import PerceptionPipeline, Request, load_llava
from tests.llava.answering import make_image
from tests.llava.families import save_family

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # PaliGemma's processor

FAMILIES = (
    *("llava_7b", "llava_next", "llava_onevision", "idefics3", "smolvlm"),
    *("paligemma", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"),
)
BUDGET = 6


@pytest.fixture(scope="module", params=FAMILIES)
def pipe(request: pytest.FixtureRequest, codec: pt.DepthCodec, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = save_family(request.param, tmp_path_factory.mktemp(request.param) / "base")
    model, processor, vocab = load_llava(folder, codec=codec)
    with torch.no_grad():  # so that positions matter: a random model of small weights hardly attends
        for name, parameter in model.named_parameters():
            is_text = "language_model" in name or "text_model" in name
            if is_text and name.endswith(("q_proj.weight", "k_proj.weight", "embed_tokens.weight")):
                parameter.mul_(12)
    return PerceptionPipeline(model, processor, vocab, codec=codec)


class Forced(LogitsProcessor):
    """Makes a model write given ids first, and no perception token after them."""

    def __init__(self, ids: list[int], length: int, banned: torch.Tensor) -> None:
        self.ids, self.length, self.banned = ids, length, banned

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        place = input_ids.shape[1] - self.length
        masked = torch.full_like(scores, float("-inf"))
        if place < len(self.ids):
            masked[:, self.ids[place]] = 0
            return masked
        return scores.index_fill(1, self.banned, float("-inf"))


def generate(pipe: PerceptionPipeline, cut: CutAnswer, block: np.ndarray | None) -> str:
    tokenizer = pipe.processor.tokenizer
    ids = [token for text in (cut.before, "" if block is None else block_to_text(block)) if text
           for token in tokenizer(text, add_special_tokens=False)["input_ids"]]  # fmt: skip
    inputs = pipe.prepare_requests([cut.request])
    length = inputs["input_ids"].shape[1]
    forced = Forced(ids, length, pipe.vocab.all_ids)
    out = pipe.model.generate(
        **inputs, logits_processor=LogitsProcessorList([forced]), max_new_tokens=len(ids) + BUDGET, do_sample=False
    )
    return str(tokenizer.decode(out[0, length + len(ids) :], skip_special_tokens=True))


@pytest.fixture(scope="module")
def cuts() -> list[CutAnswer]:
    """Of five lengths, with one to three turns."""
    rng = np.random.default_rng(0)
    blocks = (rng.integers(128, size=(10, 10)), None, np.full((10, 10), 7))
    questions = (
        "Which?",
        "Which of the points lies nearest to the camera?",
        "Hm?",
        "Which is nearest, and why?",
        "So?",
    )
    befores = ("", "The depth map for the image is ", "Point A is located at (x = 73 y = 188).", "A ", "The map: ")
    history = (Turn("user", "Is it day?"), Turn("assistant", "Yes, it is day in this image."))
    return [
        CutAnswer(Request((make_image(60, 40, n),), question, history=history if n % 2 else ()), before, blocks)
        for n, (question, before) in enumerate(zip(questions, befores, strict=True))
    ]


@pytest.fixture(scope="module")
def expected(pipe: PerceptionPipeline, cuts: list[CutAnswer]) -> list[list[str]]:
    return [[generate(pipe, cut, block) for block in cut.blocks] for cut in cuts]


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_continues_as_generate_does_one_at_a_time(
    pipe: PerceptionPipeline, cuts: list[CutAnswer], expected: list[list[str]], size: int, side: str
) -> None:
    pipe.processor.tokenizer.padding_side = side
    for start in range(0, len(cuts), size):
        assert continue_after(pipe, cuts[start : start + size], BUDGET) == expected[start : start + size]
    assert len({text for texts in expected for text in texts}) > 3, (
        "texts that are all the same would hide a difference"
    )
