"""`examples/reading`: its lessons are true, questions of one batch are separate samples, and the queue continues."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import perceptok as pt

EXAMPLE = Path(__file__).parents[1] / "examples" / "reading"
LEVELS = np.linspace(0, 1, 100, dtype=np.float32)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a file of the example as scripts of that folder do."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield importlib.import_module
    for name in ("lessons", "counting", "training", "run_text", "report"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def codec() -> pt.DepthCodec:
    return pt.DepthCodec.from_pretrained()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of random weights that fits into a second, with bytes as pieces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(sorted(letters))}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    folder = tmp_path_factory.mktemp("base")
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=tokenizer, pad_token="a").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def maps() -> list[Any]:
    rng = np.random.default_rng(0)
    ramps = [np.linspace(0, 1, 320, dtype=np.float32)[:, None].repeat(320, 1) for _ in range(6)]
    return [np.roll(ramp, int(rng.integers(320)), axis=0) for ramp in ramps]


def test_points_lie_in_their_cells(example: Any) -> None:
    """Whatever names a point names one cell, and its value is that cell's."""
    lessons = example("lessons")
    rng = np.random.default_rng(0)
    for count in (2, 3, 4, 5) * 20:
        points = lessons.draw_points(LEVELS, count, rng)
        assert [point.letter for point in points] == list("ABCDE"[:count])
        values = [LEVELS[lessons.find_cell(point)] for point in points]
        assert [point.level for point in points] == pytest.approx(values)
        assert min(abs(a - b) for i, a in enumerate(values) for b in values[:i]) >= 20 / 255 - 1e-6
        assert all(0 <= point.x < 336 and 0 <= point.y < 336 for point in points)
        assert lessons.find_nearest(points) == "ABCDE"[int(np.argmax(values))]


def test_texts_of_a_lesson(example: Any) -> None:
    lessons = example("lessons")
    points = (pt.data.Marker("A", 73, 188, 0.87), pt.data.Marker("B", 191, 77, 0.031))
    codes = np.arange(100)

    def write(**form: Any) -> tuple[str, str]:
        chosen = lessons.Form(**form)
        answer = "".join(piece.text for piece in lessons.write_answer(points, codes, chosen))
        return "".join(lessons.write_question(points, chosen)), answer

    assert write() == ("", " A<PIXEL_52><DEPTH_52> B<PIXEL_25><DEPTH_25>. point A")
    assert write(evidence="code_digits")[1] == " A<PIXEL_52><DEPTH_52>87 B<PIXEL_25><DEPTH_25>03. point A"
    assert write(leader=True, evidence="digits")[1] == " A<PIXEL_52>87: A B<PIXEL_25>03: A. point A"
    assert write(naming="cell", evidence="digits") == ("", " A 5 287 B 2 503. point A")
    assert write(naming="none", evidence="none") == ("", " A B. point A")
    assert write(order="block_question", evidence="bins") == (
        " A<PIXEL_52> B<PIXEL_25>?", " A<PIXEL_52>8 B<PIXEL_25>0. point A"
    )  # fmt: skip
    assert write(order="block_question", restated=False, naming="pixel")[1] == " A<DEPTH_52> B<DEPTH_25>. point A"
    assert write(order="question_block", evidence="none", naming="xy", wording="aurora") == (
        "Which point is the closest to the camera? Point A is located at (x = 73 y = 188), Point B is located at "
        "(x = 191 y = 77).",
        ". Since point A",
    )
    keyed = lessons.write_block(codes, lessons.Form(block="keyed"))
    assert keyed[:3] == ["<DEPTH_START>", "<PIXEL_0>", "<DEPTH_0>"]
    assert "".join(lessons.write_block(codes, lessons.Form())) == pt.depth.block_to_text(codes.reshape(10, 10))


@pytest.mark.parametrize("form", ["plain", "sorted", "numbered", "total", "aurora"])
def test_lists_of_boxes(example: Any, form: str) -> None:
    counting = example("counting")
    boxes = counting.draw_boxes(12, np.random.default_rng(1))
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert 0 <= boxes.min() <= boxes.max() < 336
    pieces = list(counting.write_list(boxes, counting.Listing(form)))
    text = "".join(piece for piece, _ in pieces)
    lines = text.splitlines()
    assert len(lines) == 12
    numbers = {"numbered": "12:<PIXEL", "aurora": "Bounding box 12: (<PIXEL"}
    assert lines[-1].startswith(numbers.get(form, "<PIXEL"))
    assert lines[-1].endswith(" 12") == (form == "total")
    known = "".join(piece for piece, is_known in pieces if is_known)
    assert ("12" in known) == (form in ("numbered", "total", "aurora"))
    if form == "sorted":
        assert [int(line.partition("_")[2].partition(">")[0]) for line in lines] == sorted(boxes[:, 0].tolist())


@pytest.fixture
def data(example: Any, codec: pt.DepthCodec, maps: list[Any]) -> Any:
    made = example("lessons").make_lessons(maps, codec)
    return example("training").Data(made, made, codec)


def test_questions_of_a_block_are_separate_samples(example: Any, data: Any, base: Path) -> None:
    """The loss of several questions about one block is the mean of those of each alone."""
    training = example("training")
    setting = training.Setting(block_loss="one_hot", conclusion_weight=5, codes_loss="beside")
    model, writer = training.build_model(setting, data, base)
    model.train(False)
    (sequence,) = writer.write_points(data.train, 0, 3, np.random.default_rng(0))
    sizes = {len(branch.answer) for branch in sequence.branches}
    assert len(sizes) > 1, "questions of several lengths are compared"

    def measure(sequences: list[Any]) -> tuple[float, float]:
        batch = training.make_batch(sequences, block_loss=True)
        loss = training.compute_loss(model, writer, batch, data.train.soft, False)
        return float(loss.detach()) * float(batch.weights.sum()), float(batch.weights.sum())

    together = measure([sequence])
    apart = [measure([replace(sequence, branches=[branch])]) for branch in sequence.branches]
    assert together == pytest.approx(tuple(sum(values) for values in zip(*apart, strict=True)), rel=1e-4)
    assert measure([replace(sequence, branches=[branch]) for branch in sequence.branches]) == pytest.approx(together)


def test_generation_is_greedy(example: Any, data: Any, base: Path) -> None:
    """The same tokens as without cache and padding; those that are given are not chosen."""
    training = example("training")
    model, writer = training.build_model(training.Setting(), data, base)
    model.train(False)
    rng = np.random.default_rng(0)
    sequences = [writer.write_points(data.train, block % len(data.train), 1, rng)[0] for block in range(4)]
    for sequence, written in zip(sequences, training.generate(model, sequences, False), strict=True):
        (branch,) = sequence.branches
        expected: list[int] = []
        for token, weight in zip(branch.answer, branch.weights, strict=True):
            logits = model(torch.tensor([sequence.prefix + branch.prompt + expected])).logits
            expected.append(int(logits[0, -1].argmax()) if weight else token)
        assert written == expected


def test_a_sorted_id_is_the_rank_of_its_code(example: Any, data: Any, base: Path) -> None:
    training = example("training")
    _, writer = training.build_model(training.Setting(ids="sorted", init="ordinal"), data, base)
    levels = data.train.levels
    used = np.flatnonzero(np.isfinite(levels))
    order = [writer.code_ids[code] for code in used[np.argsort(levels[used])]]
    assert order == sorted(order)
    assert sorted(writer.code_ids) == writer.vocab.ids(pt.tokens.DEPTH).tolist()


def test_a_tiny_queue(
    example: Any,
    data: Any,
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is finished is skipped, an incomplete line is not a result, and table and curves are written."""
    run_text, report, training = (example(name) for name in ("run_text", "report", "training"))
    (tmp_path / "base-8").symlink_to(base)
    monkeypatch.setattr(training, "VALIDATION", 2)
    changes = {"updates": 1, "blocks": 2, "points": 6, "layers": 2}
    names = ["default", "AURORA's texts", "ordinal, ids sorted", "Eq. 1 beside cross entropy", "SmolLM2"]
    names += ["counting: total"]
    run_text.run(tmp_path, 1, names, data, changes, eval_steps=1)
    results = run_text.read_results(tmp_path)
    assert [result["name"] for result in results] == names
    assert all(result["final"]["items"] > 0 and result["curve"][0][0] == 1 for result in results)
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"name": "default", "seed": 1')
    before = (tmp_path / "results.jsonl").read_bytes()
    run_text.run(tmp_path, 1, names, data, changes, eval_steps=1)
    assert (tmp_path / "results.jsonl").read_bytes() == before
    run_text.run(tmp_path, 2, names[:1], data, changes, eval_steps=1)
    assert [result["seed"] for result in run_text.read_results(tmp_path)][-1] == 1
    report.main([str(tmp_path)])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert sum(f"| {name.removeprefix('counting: ')} |" in table for name in names) == len(names)
    assert json.loads((tmp_path / "results.jsonl").read_text().splitlines()[0])["setting"]["updates"] == 1
