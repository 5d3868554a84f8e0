"""Prompts: AURORA's texts byte for byte, the variants, and invalid templates."""

from __future__ import annotations

import numpy as np
import pytest

from perceptok.data.prompts import PROMPTS, PromptSet
from perceptok.errors import ConfigError

AURORA = PROMPTS["aurora"]


def test_aurora_texts() -> None:
    assert AURORA.write("depth_question") + AURORA.write("depth_thinking", size=336) == (
        "Multiple points are circled on the image, labeled by letters beside each circle. Which point is the closest "
        "to the camera?\nTo answer this question, let's think through it step by step, and we know the image is "
        "336 x 336. First, what are the coordinates of points in the image? Second, what is the depth map for the "
        "image? Which point has a higher pixel value on the depth map? Remember, higher values indicate that the "
        "point is closer to the camera."
    )
    assert AURORA.write("point", letter="A", x=73, y=188) == "Point A is located at (x = 73 y = 188)"
    assert AURORA.write("depth_conclusion", answer="B") == (
        "Since point B has a higher pixel value on the depth map, the answer is that point B is closer to the camera."
    )
    assert AURORA.write("depth_direct", answer="B") == "(B)"
    assert AURORA.write("boxes_atomic", plural="dogs") == "Return the bounding boxes of dogs."
    assert AURORA.write("boxes_none", plural="dogs") == "There are no dogs in the image."
    assert AURORA.write("count_none", plural="dogs") == "There are no dogs in the image. We conclude there are 0 dogs."
    assert AURORA.write("count_conclusion", plural="dogs", count=3) == (
        "Since there are 3 distinct bounding boxes and masks, we conclude there are 3 dogs."
    )
    assert AURORA.write("depth_atomic") == "What is the depth map for the image?"  # the paper's section 6.3
    assert AURORA.write("count_question", plural="dogs") == "How many dogs are in the image?"
    assert AURORA.write("count_question", plural="dogs") + AURORA.write("count_thinking", plural="dogs") == (
        "How many dogs are in the image?.\n To solve this, let\u2019s carefully analyze the image. First, identify "
        "the bounding boxes associated with the dogs. After that, count how many distinct bounding boxes correspond to "
        "dogs."
    )


def test_released_box_questions() -> None:
    rng = np.random.default_rng(0)
    assert {AURORA.ask("boxes_atomic", rng, plural="dogs") for _ in range(100)} == {
        "Please perform bounding box prediction for each instance of dogs in the image.",
        "Find instances of dogs, return the x1 y1 x2 y2 coordinates of each instance.",
        "Find instances of dogs in the image and return their bounding boxes.",
        "Return the bounding boxes of dogs.",
        "Please locate all of the dogs in this image.",
    }


def test_variants_omit_a_step() -> None:
    assert "coordinates" not in PROMPTS["no_coordinates"].depth_thinking
    assert "depth map" not in PROMPTS["no_depth"].depth_thinking
    assert {prompts.label for prompts in PROMPTS.values()} == {
        "aurora/2",
        "varied/2",
        "evidence/2",
        "evidence_places/2",
        "evidence_cells/2",
        "evidence_running/2",
        "no_coordinates/2",
        "no_depth/2",
        "numerals/2",
        "box_numerals/2",
    }


def test_wording_is_drawn_from_pool_with_template() -> None:
    rng = np.random.default_rng(0)
    varied = PROMPTS["varied"]
    drawn = {varied.ask("count_question", rng, plural="dogs") for _ in range(100)}
    assert len(drawn) == 1 + len(varied.wordings["count_question"])
    assert varied.ask("count_question", plural="dogs") in drawn
    assert all("dogs" in question and question.endswith("?") for question in drawn)
    assert {AURORA.ask("count_question", rng, plural="dogs") for _ in range(9)} == {"How many dogs are in the image?"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"depth_direct": "({winner})"},
            r"template depth_direct of .*unknown variable \{winner\}; its variables are answer",
        ),
        ({"depth_direct": "the nearest"}, r"template depth_direct of .*lacks \{answer\}"),
        ({"depth_question": "{}?"}, "unknown variable"),
        ({"depth_question": "{"}, "write a literal brace twice"),
        ({"dept_question": "?"}, "PromptSet: unknown key 'dept_question'"),
        ({"wordings": {"greeting": ("Hi",)}}, "unknown template 'greeting'"),
        ({"point": "Point {letter}"}, r"template point of .*lacks {x} and {y} or {row} and {column}"),
        ({"point": "Point {letter} is at {x}, {row}"}, "lacks {x} and {y} or {row} and {column}"),
        ({"depth_evidence": "{letter} <DEPTH_{code}>"}, "unknown variable {code}"),
        ({"depth_evidence": "{nearness}"}, "lacks {letter}"),
        ({"reading_question": "{points}?"}, "lacks {block}"),
        ({"depth_conclusion": "{answer} {row}"}, "unknown variable {row}"),
        ({"wordings": {"count_question": ("How many {plurals}?",)}}, "unknown variable {plurals}"),
    ],
)
def test_invalid_templates(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PromptSet.from_name("aurora", changes)


def test_texts_can_be_replaced() -> None:
    changed = PromptSet.from_name("no_depth", {"depth_direct": "{{{answer}}}"})
    assert changed.write("depth_direct", answer="C") == "{C}"
    assert changed.label == "no_depth, changed/2"
    with pytest.raises(
        ConfigError, match="prompts are aurora, varied, evidence, evidence_places, evidence_cells, evidence_running"
    ):
        PromptSet.from_name("auroa")
