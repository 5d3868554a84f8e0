"""What is made of a text: spans, evidence in the image's own pixels, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import perceptok as pt
from perceptok.boxes import ImageFrame
from perceptok.errors import DepthMapError, InferenceError, OutputError
from perceptok.llava import PerceptionAnswer
from tests.llava.answering import make_image

Answered = Callable[..., PerceptionAnswer]


def test_a_chain_of_thought_about_depth(answered: Answered, block: str, codec: pt.DepthCodec) -> None:
    text = (
        "Point A is located at (x = 28 y = 168),Point B is located at (x = 308 y = 168).The depth map for the image is "
        f"{block}. Since point B has a higher pixel value on the depth map, the answer is that point B is closer."
    )
    answer = answered(text, make_image(120, 80), choices=("A", "B"), markers={"B": (110.0, 40.0)})
    assert answer.text == text
    assert answer.valid
    assert answer.answer == "B"
    assert [(point.letter, point.x, point.y) for point in answer.points] == [("A", 10.0, 40.0), ("B", 110.0, 40.0)]
    assert answer.codes is not None
    np.testing.assert_array_equal(answer.codes, codec.from_text(block))
    assert answer.depth is not None
    assert answer.depth.values.shape == (80, 120)
    far, near = answer.points
    assert near.nearness is not None
    assert far.nearness == pytest.approx(answer.depth.values[40, 10], abs=0.01)
    assert far.nearness < 0.2 < 0.8 < near.nearness
    assert answer.markers == (near,)
    assert "".join(text[span.start : span.end] for span in answer.spans) == text
    assert [span.kind for span in answer.spans] == ["text", "depth", "text"]
    assert answer.plain.count("[depth map]") == 1


def test_boxes_come_back_in_the_images_pixels(answered: Answered) -> None:
    frame = ImageFrame.letterbox((300, 100))
    boxes = np.array([[10.0, 20.0, 60.0, 90.0], [100.0, 0.0, 299.0, 99.0]])
    codec = pt.BoxCodec(decode="center")
    first, second = (codec.to_text(codec.encode(box[None], frame=frame)) for box in boxes)
    text = f"Here are the bounding boxes for the cars:\nBounding box 1: {first}\n Bounding box 2: {second}"
    answer = answered(text, make_image(300, 100), frame)
    assert answer.valid, answer.problems
    assert np.abs(answer.boxes - boxes).max() <= 0.5 / frame.scale[0] + 1e-9
    assert answer.labels == ("Bounding box 1", "Bounding box 2")
    assert answer.plain.endswith("Bounding box 1: [1]\n Bounding box 2: [2]")


def test_two_blocks(answered: Answered, block: str, codec: pt.DepthCodec) -> None:
    other = codec.to_text(np.full((10, 10), 7))
    answer = answered(f"{block} or {other}")
    assert len(answer.blocks) == 2
    assert answer.codes is not None
    assert (answer.codes == 7).all()
    assert answer.problems == ("2 depth blocks of one image; depth and codes are those of the last",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<DEPTH_START><DEPTH_1><DEPTH_2><DEPTH_END>", "a depth block of 2 codes"),
        ("<DEPTH_START><DEPTH_1>", "an unclosed depth block of 1 codes"),
        ("the map <DEPTH_4>", "1 depth codes outside a block"),
        ("(<PIXEL_9>,<PIXEL_9>,<PIXEL_3>,<PIXEL_9>)", "a box with x2 < x1"),
        ("(<PIXEL_9>,<PIXEL_9>,<PIXEL_30>)", "a box of 3 coordinates"),
        ("Point A is located at (x = 400 y = 3)", "point A lies outside the frame"),
    ],
)
def test_malformed_output_is_reported_and_not_repaired(answered: Answered, text: str, problem: str) -> None:
    answer = answered(text)
    assert not answer.valid
    assert problem in answer.problems[0]
    assert answer.text == text
    assert answer.depth is None
    assert len(answer.boxes) == 0
    assert answer.points == ()


def test_an_answer_that_was_cut(answered: Answered) -> None:
    assert answered("The depth", ended=False).problems == ("the answer was cut off at the maximum number of tokens",)


def test_a_box_in_the_padding(answered: Answered) -> None:
    text = "(<PIXEL_0>,<PIXEL_0>,<PIXEL_50>,<PIXEL_200>)"
    assert answered(text, make_image(300, 100), ImageFrame.letterbox((300, 100))).problems == (
        "box 1 reaches out of the image into the padding",
    )
    assert answered("(<PIXEL_0>,<PIXEL_0>,<PIXEL_335>,<PIXEL_335>)", make_image(3, 2)).valid


def test_no_answer_among_the_choices(answered: Answered) -> None:
    answer = answered("the answer is that point C", choices=("A", "B"))
    assert answer.answer is None
    assert answer.problems[0].startswith("no answer among A, B: ")
    assert answered("I cannot say").valid


@pytest.mark.parametrize(
    ("text", "given", "expected"),
    [
        ("(B)", {}, "B"),
        (" 4", {}, "4"),
        ("Two cars: (<PIXEL_0>,<PIXEL_0>,<PIXEL_9>,<PIXEL_9>) We conclude there are 2 cars.", {}, "2"),
        ("Point A is located at (x = 3 y = 4). The answer is that point A is closer.", {}, "A"),
        ("point Z is the closest", {"markers": {"Z": (1.0, 1.0), "Y": (2.0, 2.0)}}, "Z"),
        ("There are 3 cars", {"choices": ("1", "2", "3")}, "3"),
        ("A room with 3 chairs and a lamp", {}, None),
    ],
)
def test_what_is_answered(answered: Answered, text: str, given: dict[str, object], expected: str | None) -> None:
    assert answered(text, **given).answer == expected


def test_nothing_written(answered: Answered) -> None:
    answer = answered("")
    assert answer.spans == ()
    assert answer.text == answer.plain == ""
    assert answer.depth is None
    assert answer.tokens == 0


def test_one_pixel(answered: Answered, block: str) -> None:
    answer = answered(f"{block} (<PIXEL_0>,<PIXEL_0>,<PIXEL_335>,<PIXEL_335>)", make_image(1, 1))
    assert answer.depth is not None
    assert answer.depth.values.shape == (1, 1)
    np.testing.assert_allclose(answer.boxes, [[0, 0, 1, 1]], atol=0.002)


def test_saving(answered: Answered, block: str, tmp_path: Path) -> None:
    answer = answered(block)
    answer.save_depth(tmp_path / "depth.png")
    back = pt.DepthMap.read(tmp_path / "depth.png", kind="inverse")
    assert answer.depth is not None
    np.testing.assert_allclose(back.values, answer.depth.values, atol=1 / 65535)
    with pytest.raises(OutputError, match="exists already"):
        answer.save_depth(tmp_path / "depth.png")
    with pytest.raises(InferenceError, match="no complete depth block"):
        answered("none").save_depth(tmp_path / "none.png")
    cropped = answered(block, make_image(120, 80), ImageFrame.center_crop((120, 80)))
    with pytest.raises(DepthMapError):
        cropped.save_depth(tmp_path / "cropped.png")
    cropped.save_depth(tmp_path / "cropped.npz")
    assert pt.DepthMap.read(tmp_path / "cropped.npz").valid.mean() < 0.7


def test_a_line_of_json(answered: Answered, block: str) -> None:
    text = f"Point A is located at (x = 3 y = 4) {block}(<PIXEL_0>,<PIXEL_0>,<PIXEL_335>,<PIXEL_335>)"
    answer = answered(text, name="a/b.jpg", markers={"Z": (1, 2)})
    values = json.loads(json.dumps(answer.to_dict()))
    assert values["name"] == "a/b.jpg"
    assert values["text"] == text
    assert len(values["codes"]) == 100
    assert values["points"][0]["letter"] == "A"
    assert values["markers"][0]["x"] == 1.0
    assert ImageFrame.from_dict(values["frame"]) == answer.frame
