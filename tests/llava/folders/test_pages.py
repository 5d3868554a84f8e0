"""Lines of answers on a page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import perceptok as pt
from perceptok.errors import InferenceError, OutputError
from perceptok.llava import FileQuestion, answer_files, write_answer_page
from perceptok.llava.inference.batch import case_from_line
from tests.llava.answering import leaning_pipeline, make_image


@pytest.fixture(scope="module")
def lines(tiny_llava: Path, codec: pt.DepthCodec, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    folder = tmp_path_factory.mktemp("page")
    pipe = leaning_pipeline(tiny_llava, codec, frame="letterbox")
    pipe.config = pt.llava.InferenceConfig(max_new_tokens=104, force_block="first")
    asked = []
    for number, name in enumerate(("plain.png", "</script><script>alert(1)</script>")):
        make_image(30 + number, 20, number).save(folder / f"{number}.png")
        asked.append(FileQuestion((folder / f"{number}.png",), f"{name}?", name, markers={"A": (3.0, 4.0)}))
    answer_files(pipe, asked, folder / "out.jsonl")
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


def test_a_case_shows_what_the_answer_holds(lines: list[dict[str, object]], codec: pt.DepthCodec) -> None:
    case = case_from_line(lines[0], codec)
    assert case.image is not None
    assert case.markers == [("A", 3.0, 4.0)]
    assert case.frame == (30, 20)
    assert case.depth is not None
    assert case.depth.shape == (20, 30)
    assert np.isfinite(case.depth).all()
    assert case.prompt == "plain.png?"


def test_a_page(lines: list[dict[str, object]], codec: pt.DepthCodec, tmp_path: Path) -> None:
    assert write_answer_page(tmp_path / "page.html", lines, codec, title="two") == 2
    page = (tmp_path / "page.html").read_text()
    assert "alert(1)</script>" not in page
    with pytest.raises(OutputError, match="exists already"):
        write_answer_page(tmp_path / "page.html", lines, codec, title="two")


def test_what_cannot_be_shown(lines: list[dict[str, object]], codec: pt.DepthCodec, tmp_path: Path) -> None:
    with pytest.raises(InferenceError, match="no answers to show"):
        write_answer_page(tmp_path / "page.html", [], codec, title="none")
    with pytest.raises(InferenceError, match="its codes are of the codec other"):
        case_from_line({**lines[0], "codec": "other"}, codec)
    with pytest.raises(InferenceError, match="it lacks 'question'"):
        case_from_line({key: value for key, value in lines[0].items() if key != "question"}, codec)
    assert case_from_line({**lines[0], "image": "gone.png"}, codec).image is None
