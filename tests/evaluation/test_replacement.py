"""The replacement test on a tiny model, against the same thing done slowly: the whole text again for every token."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import perceptok as pt
from perceptok.data import Evidence, PerceptionRecord, Turn
from perceptok.depth import block_to_text
from perceptok.errors import EvaluationError, OutputError
from perceptok.evaluation import replacement_test, write_replacement
from perceptok.evaluation.replacement import CutAnswer, Replacement, ReplacementKind, continue_after
from perceptok.images import open_image
from perceptok.llava import PerceptionPipeline, Request
from tests.llava.answering import leaning_pipeline, make_image

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
        make_image(60, 40, number).save(folder / f"{number}.png")
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


def slowly(
    pipe: PerceptionPipeline, image: Any, question: str, before: str, block: np.ndarray | None, budget: int
) -> str:
    """Greedy without any cache."""
    tokenizer = pipe.processor.tokenizer
    inputs = pipe.prepare_inputs(image, question)
    text = before + ("" if block is None else block_to_text(block))
    written = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    ids = torch.cat([inputs["input_ids"], torch.tensor([written], dtype=torch.int64)], dim=1)
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
    rng = np.random.default_rng(0)
    blocks = (rng.integers(128, size=(10, 10)), None, np.full((10, 10), 7))
    questions = (QUESTION, QUESTION, "Which of the circled points lies nearest, and why is that so?")
    befores = ("", "The depth map for the image is ", "Point A is located at (x = 73 y = 188).The depth map is ")
    cuts = [
        CutAnswer(Request((open_image(records[0] / f"{number}.png"),), question), before, blocks)
        for number, (question, before) in enumerate(zip(questions, befores, strict=True))
    ]
    expected = [
        [slowly(pipe, cut.request.images[0], cut.request.question, cut.before, block, 8) for block in blocks]
        for cut in cuts
    ]
    assert continue_after(pipe, cuts, 8) == expected  # of three lengths: padded
    assert [continue_after(pipe, [cut], 8)[0] for cut in cuts] == expected
    assert continue_after(pipe, [], 8) == []


def test_the_prefix_goes_through_the_model_once(
    pipe: PerceptionPipeline, records: tuple[Path, list[PerceptionRecord]]
) -> None:
    widths: list[tuple[int, int]] = []
    hook = pipe.model.get_input_embeddings().register_forward_hook(
        lambda _, inputs, __: widths.append(tuple(inputs[0].shape))
    )
    block = np.zeros((10, 10), dtype=np.int64)
    images = [open_image(records[0] / f"{number}.png") for number in range(2)]
    cuts = [CutAnswer(Request((image,), QUESTION), "", (block, block + 1, None)) for image in images]
    try:
        continue_after(pipe, cuts, 1)
    finally:
        hook.remove()
    assert widths[0][0] == 2  # both prompts, once
    assert widths[1] == (4, 102)  # two blocks of each
    assert all(width == 1 for _, width in widths[2:])


def test_a_stopped_run_goes_on(
    pipe: PerceptionPipeline, records: tuple[Path, list[PerceptionRecord]], tmp_path: Path
) -> None:
    folder, known = records
    kinds: tuple[ReplacementKind, ...] = ("own", "random", "none")

    def run(**more: Any) -> Replacement:
        return replacement_test(
            pipe, known, kinds, folder=folder, max_new_tokens=4, batch_size=1, output=tmp_path / "a.jsonl", **more
        )

    class StopError(Exception):
        pass

    seen: list[int] = []

    def stop() -> None:
        seen.append(1)
        if len(seen) == 2:
            raise StopError

    with pytest.raises(StopError):
        run(model="m", advance=stop)
    assert len((tmp_path / "a.jsonl.partial").read_text().splitlines()) == 3  # the header and two
    calls: list[int] = []
    hook = pipe.model.register_forward_hook(lambda *_: calls.append(1))
    try:
        replaced = run(model="m")
        rest = len(calls)
        again = run(model="m")
    finally:
        hook.remove()
    assert rest
    assert len(calls) == rest  # nothing is asked twice
    whole = replacement_test(pipe, known, kinds, folder=folder, max_new_tokens=4, batch_size=3)
    for result in (replaced, again):
        assert {kind: [outcome.text for outcome in outcomes] for kind, outcomes in result.outcomes.items()} == {
            kind: [o.text for o in some] for kind, some in whole.outcomes.items()
        }
    with pytest.raises(OutputError, match="another run"):
        run(model="other")


def test_outputs(pipe: PerceptionPipeline, records: tuple[Path, list[PerceptionRecord]], tmp_path: Path) -> None:
    replaced = replacement_test(pipe, records[1], ("own", "oracle", "none"), folder=records[0], max_new_tokens=4)
    write_replacement(replaced, tmp_path, system="a|b", codec=pipe.codec)
    values = json.loads((tmp_path / "replacement.json").read_text())
    assert values["kinds"]["own"]["items"] == 3
    assert values["kinds"]["own"]["changed"] == 0
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 9
    assert len((tmp_path / "replacement.csv").read_text().splitlines()) == 4
    assert r"**a|b**" in (tmp_path / "replacement.md").read_text()
    page = (tmp_path / "page.html").read_text()
    assert page.count('id="teacher-') == page.count('id="depth-') == page.count('id="image-') == 3


def test_every_kind_is_scored(pipe: PerceptionPipeline, records: tuple[Path, list[PerceptionRecord]]) -> None:
    folder, known = records
    kinds: tuple[ReplacementKind, ...] = ("own", "oracle", "random", "constant", "other", "shuffled", "none")
    replaced = replacement_test(pipe, known, kinds, folder=folder, max_new_tokens=6)
    assert list(replaced.scores) == list(kinds)
    assert replaced.skipped == ()
    assert all(score.items == 3 for score in replaced.scores.values())
    assert replaced.changed["own"] == 0
    texts = {kind: [outcome.text or "" for outcome in replaced.outcomes[kind]] for kind in kinds}
    for number, record in enumerate(known):
        oracle = block_to_text(np.array(record.evidence.codes).reshape(10, 10))
        assert oracle in texts["oracle"][number]
        assert oracle in texts["other"][number - 1]
        assert "<DEPTH" not in texts["none"][number]
        own, shuffled = (sorted(texts[kind][number].split(">")[:102]) for kind in ("own", "shuffled"))
        assert own == shuffled
    again = replacement_test(pipe, known, kinds, folder=folder, max_new_tokens=6)
    assert {kind: [outcome.text for outcome in again.outcomes[kind]] for kind in kinds} == texts


def test_what_cannot_be_tested_is_refused(
    pipe: PerceptionPipeline, records: tuple[Path, list[PerceptionRecord]]
) -> None:
    folder, known = records
    with pytest.raises(EvaluationError, match="the kinds of blocks are own, oracle"):
        replacement_test(pipe, known, ("own", "best"), folder=folder)  # type: ignore[arg-type]
    bare = PerceptionRecord("bare", ("0.png",), known[0].turns, "depth", "direct", answer="A", choices=("A", "B"))
    with pytest.raises(EvaluationError, match="record bare"):
        replacement_test(pipe, [bare], folder=folder)
    foreign = replace(known[0], evidence=replace(known[0].evidence, codec="0" * 16))
    with pytest.raises(EvaluationError, match=r"record '0': its depth codes are of the codec 0{16}, the model's of "):
        replacement_test(pipe, [foreign], folder=folder)
    contradictory = replace(known[0], turns=(Turn("user", QUESTION), Turn("assistant", "(B)")))
    with pytest.raises(EvaluationError, match="record '0': answer: the text says 'B', the record 'A'"):
        replacement_test(pipe, [contradictory], folder=folder)


def test_an_image_that_cannot_be_read_costs_only_itself(
    pipe: PerceptionPipeline, records: tuple[Path, list[PerceptionRecord]], tmp_path: Path
) -> None:
    """The other records are asked; the same call asks it once its image is there."""
    for number in (0, 2):
        (tmp_path / f"{number}.png").write_bytes((records[0] / f"{number}.png").read_bytes())
    (tmp_path / "1.png").write_bytes(b"cut")
    options: dict[str, Any] = {"folder": tmp_path, "max_new_tokens": 2, "output": tmp_path / "answers.jsonl"}
    found = replacement_test(pipe, records[1], ["own"], **options)
    assert found.unread.keys() == {"1"}
    assert {outcome.item.id for outcome in found.outcomes["own"]} | {*found.skipped} == {"0", "2"}
    write_replacement(found, tmp_path / "out", system="x", codec=pipe.codec)
    assert json.loads((tmp_path / "out" / "replacement.json").read_text())["unread"].keys() == {"1"}
    (tmp_path / "1.png").write_bytes((records[0] / "1.png").read_bytes())
    assert not replacement_test(pipe, records[1], ["own"], **options).unread
    with pytest.raises(EvaluationError, match="no image can be read"):
        replacement_test(pipe, records[1][:1], ["own"], folder=tmp_path / "none", max_new_tokens=2)
