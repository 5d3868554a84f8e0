"""The replacement test on a tiny model, against the same thing done slowly: the whole text again for every token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import perceptok as pt
from perceptok.data.records.record import Evidence, PerceptionRecord, Turn
from perceptok.depth.blocks import block_to_text
from perceptok.errors import EvaluationError
from perceptok.evaluation.replacement import continue_after, replacement_test
from perceptok.llava.pipeline import PerceptionPipeline
from tests.llava.answering import leaning_pipeline, picture

QUESTION = "Which point is the closest to the camera?"


@pytest.fixture(scope="module")
def pipe(tiny_llava: Path, codec: pt.DepthCodec) -> PerceptionPipeline:
    return leaning_pipeline(tiny_llava, codec)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[PerceptionRecord]]:
    folder = tmp_path_factory.mktemp("records")
    turns = (Turn("user", QUESTION), Turn("assistant", "(A)"))
    found = []
    for number in range(3):
        picture(60, 40, number).save(folder / f"{number}.png")
        codes = tuple(int(code) for code in np.random.default_rng(number).integers(128, size=100))
        record = PerceptionRecord(
            str(number),
            (f"{number}.png",),
            turns,
            "depth",
            "cot",
            answer="A",
            choices=("A", "B"),
            evidence=Evidence(codes),
        )
        found.append(record)
    return folder, found


def slowly(pipe: PerceptionPipeline, image: Path, before: str, block: np.ndarray | None, budget: int) -> str:
    """Greedy without any cache."""
    tokenizer = pipe.processor.tokenizer
    inputs = pipe.prompted(image, QUESTION)
    text = before + ("" if block is None else block_to_text(block))
    said = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    ids = torch.cat([inputs["input_ids"], torch.tensor([said], dtype=torch.int64)], dim=1)
    written: list[int] = []
    ends = pipe.model.generation_config.eos_token_id
    for _ in range(budget):
        whole = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with torch.inference_mode():
            logits = pipe.model(**whole, use_cache=False).logits[0, -1]
        logits = logits.clone()
        logits[pipe.vocab.all_ids] = float("-inf")
        token = int(logits.argmax())
        if token == ends:
            break
        written.append(token)
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    return str(tokenizer.decode(written, skip_special_tokens=True))


def test_the_shared_prefix_changes_nothing(
    pipe: PerceptionPipeline, records: tuple[Path, list[PerceptionRecord]]
) -> None:
    image = records[0] / "0.png"
    rng = np.random.default_rng(0)
    blocks = [rng.integers(128, size=(10, 10)), None, np.full((10, 10), 7)]
    for before in ("", "The depth map for the image is "):
        tails = continue_after(pipe, image, QUESTION, before, blocks, 8)
        assert tails == [slowly(pipe, image, before, block, 8) for block in blocks]


def test_every_kind_is_scored(pipe: PerceptionPipeline, records: tuple[Path, list[PerceptionRecord]]) -> None:
    folder, known = records
    kinds = ("own", "oracle", "random", "constant", "other", "shuffled", "none")
    told = replacement_test(pipe, known, kinds, folder=folder, max_answer_tokens=6)
    assert list(told.scores) == list(kinds)
    assert told.skipped == ()
    assert all(score.items == 3 for score in told.scores.values())
    assert told.changed["own"] == 0
    texts = {kind: [one.text or "" for one in told.outcomes[kind]] for kind in kinds}
    for number, record in enumerate(known):
        oracle = block_to_text(np.array(record.evidence.codes).reshape(10, 10))
        assert oracle in texts["oracle"][number]
        assert oracle in texts["other"][number - 1]
        assert "<DEPTH" not in texts["none"][number]
        own, shuffled = (sorted(texts[kind][number].split(">")[:102]) for kind in ("own", "shuffled"))
        assert own == shuffled
    again = replacement_test(pipe, known, kinds, folder=folder, max_answer_tokens=6)
    assert {kind: [one.text for one in again.outcomes[kind]] for kind in kinds} == texts


def test_what_cannot_be_tested_is_refused(
    pipe: PerceptionPipeline, records: tuple[Path, list[PerceptionRecord]]
) -> None:
    folder, known = records
    with pytest.raises(EvaluationError, match="kinds are own, oracle"):
        replacement_test(pipe, known, ("own", "best"), folder=folder)  # type: ignore[arg-type]
    bare = PerceptionRecord("bare", ("0.png",), known[0].turns, "depth", "direct", answer="A", choices=("A", "B"))
    with pytest.raises(EvaluationError, match="record bare"):
        replacement_test(pipe, [bare], folder=folder)
