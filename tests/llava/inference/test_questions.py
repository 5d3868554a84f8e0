"""Questions worded as they were trained: those of records that perceptok builds, and those of benchmarks."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

import perceptok as pt
from perceptok.boxes import ImageFrame
from perceptok.data import PROMPTS, DataRecipe, PerceptionRecord, build_data, read_records
from perceptok.errors import ConfigError, InferenceError
from perceptok.llava import InferenceConfig, PerceptionPipeline, build_question
from tests.llava.answering import leaning_pipeline, make_image
from tests.llava.inference.test_answers import Answered

RECIPE = """
seed: 3
size: 336
sources: {scenes: {scenes: 30}}
sets:
  - {name: depth-atomic, source: scenes, task: depth, regime: atomic, count: 1}
  - {name: depth-cot, source: scenes, task: depth, regime: cot, count: 3, stream: a}
  - {name: depth-direct, source: scenes, task: depth, regime: direct, count: 3, stream: a}
  - {name: pair-cot, source: scenes, task: depth, regime: cot, count: 1, markers: [2], question: pair, stream: b}
  - {name: pair-direct, source: scenes, task: depth, regime: direct, count: 1, markers: [2], question: pair, stream: b}
  - {name: count-atomic, source: scenes, task: counting, regime: atomic, count: 3, stream: c}
  - {name: count-cot, source: scenes, task: counting, regime: cot, count: 3, stream: c}
  - {name: count-direct, source: scenes, task: counting, regime: direct, count: 3, stream: c}
  - {name: worded-cot, source: scenes, task: counting, regime: cot, count: 5, wording: pool}
"""


@pytest.fixture(scope="module", params=sorted(PROMPTS))
def records(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[PerceptionRecord]:
    """Records of every regime, made with one set of prompts."""
    folder = tmp_path_factory.mktemp("records")
    (folder / "recipe.yaml").write_text(RECIPE + f"prompts: {request.param}\n", encoding="utf-8")
    build_data(DataRecipe.read(folder / "recipe.yaml"), folder / "out")
    return list(read_records(folder / "out" / "records.jsonl"))


def test_every_regime_is_asked_as_it_was_trained(records: list[PerceptionRecord]) -> None:
    prompts = PROMPTS[records[0].provenance["prompts"].partition("/")[0]]
    asks = {("depth", "atomic"): "depth", ("counting", "atomic"): "boxes"}
    for record in records:
        if "worded" in record.id:
            continue
        trained, plural = record.turns[0].text, record.evidence.plural
        ask = asks.get((record.task, record.regime), record.regime)
        for other in records:  # from the question of any other regime about the same
            is_same = other.task == record.task and other.evidence.plural == plural and "worded" not in other.id
            is_same = is_same and ("pair" in other.id) == ("pair" in record.id)
            if is_same and other.regime != "atomic":
                given = other.turns[0].text
                assert build_question(given, ask, task=record.task, plural=plural, prompts=prompts) == trained  # type: ignore[arg-type]
                if record.regime != "atomic":
                    assert build_question(given, ask, prompts=prompts) == trained  # type: ignore[arg-type]


def test_a_record_in_another_wording_has_its_chain_of_thought_once(records: list[PerceptionRecord]) -> None:
    prompts = PROMPTS[records[0].provenance["prompts"].partition("/")[0]]
    for record in records:
        if "worded" in record.id:
            plural = record.evidence.plural
            expected = prompts.count_question.format(plural=plural)
            assert build_question(record.turns[0].text, "direct", plural=plural, prompts=prompts) == expected
            asked = build_question(record.turns[0].text, "cot", prompts=prompts)
            assert asked == expected + prompts.count_thinking.format(plural=plural)


AURORA = PROMPTS["aurora"]


@pytest.mark.parametrize(
    ("question", "ask", "expected"),
    [
        ("Which point is closer to the camera?", "direct", AURORA.pair_question),
        ("<image>\nWhich point is closest to the camera?", "direct", AURORA.depth_question),
        (AURORA.depth_question, "cot", AURORA.depth_question + AURORA.depth_thinking.format(size=336)),
        ("How many dogs are there in the image?", "direct", AURORA.count_question.format(plural="dogs")),
        ("how many red cars are in the picture? ", "direct", AURORA.count_question.format(plural="red cars")),
        ("How many dogs are in this photo?", "boxes", AURORA.boxes_atomic.format(plural="dogs")),
        (
            "How many people are wearing hats?",
            "cot",
            "How many people are wearing hats?" + AURORA.count_thinking.format(plural="people"),
        ),
        (
            "Which object is closer to the camera, the chair or the lamp?",
            "cot",
            "Which object is closer to the camera, the chair or the lamp?" + AURORA.depth_thinking.format(size=336),
        ),
        ("Which object is closer to the camera?", "direct", "Which object is closer to the camera?"),
        ("Anything at all?", "depth", AURORA.depth_atomic),
        ("<image>\nAnything at all?", "published", "<image>\nAnything at all?"),
    ],
)
def test_questions_of_benchmarks(question: str, ask: str, expected: str) -> None:
    assert build_question(question, ask) == expected  # type: ignore[arg-type]


def test_without_a_question_the_trained_one_is_asked() -> None:
    assert build_question(ask="depth") == AURORA.depth_atomic
    assert build_question(ask="direct", task="depth") == AURORA.depth_question
    assert build_question(ask="cot", task="depth", size=448).count("448 x 448") == 1
    assert build_question(ask="boxes", plural="dogs") == AURORA.boxes_atomic.format(plural="dogs")
    assert build_question(ask="direct", plural="dogs") == AURORA.count_question.format(plural="dogs")


def test_what_cannot_be_worded() -> None:
    with pytest.raises(InferenceError, match="not empty, or be worded by ask"):
        build_question(" ")
    for ask in ("published", "direct", "cot", "depth", "boxes"):
        for question in (None, 3):
            with pytest.raises(InferenceError, match=f"a question must be a string .*; got {question}"):
                build_question(question, ask)  # type: ignore[arg-type]
    with pytest.raises(InferenceError, match="neither about the depth of points nor about a number of objects"):
        build_question("What is this?", "cot")
    with pytest.raises(InferenceError, match="does not say what is counted"):
        build_question("Are there dogs?", "boxes")
    with pytest.raises(InferenceError, match="does not say what is counted"):
        build_question("Are there dogs?", "cot", task="counting")
    with pytest.raises(ConfigError, match="ask must be one of published, direct, cot, depth, boxes; got 'loud'"):
        build_question("Why?", "loud")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="ask must be one of published"):
        InferenceConfig(ask="loud")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"prompts must be one of aurora, .*; got 'mine'"):
        InferenceConfig(prompts="mine")


@pytest.mark.parametrize("text", ["how many ", "which ", "Count the ", "closest to the camera "])
def test_long_questions_take_linear_time(text: str) -> None:
    with contextlib.suppress(InferenceError):  # which of them name a task is not the point here
        build_question(text * 100_000, "cot", plural=None)  # quadratic time would be hours


@pytest.fixture(scope="module")
def pipe(tiny_llava: Path, codec: pt.DepthCodec) -> PerceptionPipeline:
    return leaning_pipeline(tiny_llava, codec)


def test_the_pipeline_asks_as_it_is_set(pipe: PerceptionPipeline) -> None:
    image = make_image(60, 40)
    asked = pipe(image, "How many dogs are in the image?", ask="cot", max_new_tokens=4)
    assert asked.question == build_question("How many dogs are in the image?", "cot")
    assert pipe(image, ask="boxes", plural="dogs", max_new_tokens=4).question == "Return the bounding boxes of dogs."
    with pytest.raises(InferenceError, match="does not say what is counted"):
        pipe(image, ask="boxes", max_new_tokens=4)
    markers = {"A": (10.0, 10.0), "B": (50.0, 30.0)}
    streamed = [*pipe.stream(image, ask="direct", markers=markers, max_new_tokens=4)][-1].answer
    assert streamed is not None
    assert streamed.question == AURORA.depth_question


def test_depth_is_read_off_the_map_at_the_markers(pipe: PerceptionPipeline) -> None:
    image, markers = make_image(60, 40), {"A": (10.0, 10.0), "B": (50.0, 30.0), "C": (30.0, 5.0)}
    answer = pipe(image, ask="depth", markers=markers, choices=("A", "B", "C"), max_new_tokens=120)
    assert answer.question == AURORA.depth_atomic
    assert answer.depth is not None
    by_map = {letter: answer.depth.values[int(y), int(x)] for letter, (x, y) in markers.items()}
    assert answer.answer == max(by_map, key=lambda letter: by_map[letter])
    free = pipe(image, ask="depth", markers=markers, max_new_tokens=3, constraints=False)
    assert free.answer is None  # nothing forces a block
    assert any("no complete depth block" in problem for problem in free.problems)


def test_answers_by_the_way_they_were_asked(answered: Answered, block: str) -> None:
    text = f"The depth map for the image is {block}. The answer is that point A is closer to the camera."
    markers = {"A": (5.0, 40.0), "B": (115.0, 40.0)}  # the right of the block is near
    assert answered(text, markers=markers, choices=("A", "B")).answer == "A"
    assert answered(text, markers=markers, choices=("A", "B"), ask="depth").answer == "B"
    without = answered("I do not know: (A).", markers=markers, choices=("A", "B"), ask="depth")
    assert without.answer is None
    assert without.problems == ("no answer among A, B: there is no complete depth block to read it from",)
    assert answered(block, choices=("A", "B"), ask="depth").problems == (
        "no answer among A, B: there are no markers at which to read the depth map",
    )
    assert answered(block, ask="depth").valid  # the map itself is what was asked for
    hidden = answered(
        block, make_image(300, 100), ImageFrame.center_crop((300, 100)), markers={"A": (5.0, 5.0)}, ask="depth"
    )
    assert "marker A lies outside the part of the image that the model sees" in hidden.problems[0]
    boxes = "Here are:\nBounding box 1: (<PIXEL_1>,<PIXEL_2>,<PIXEL_30>,<PIXEL_40>)\nSo there are 7."
    assert answered(boxes, ask="boxes").answer == "1"
    assert answered(boxes).answer == "7"
    assert answered("There are no dogs in the image.", ask="boxes").answer == "0"
    refused = answered(boxes, ask="boxes", choices=("2", "3"))
    assert refused.answer is None
    assert refused.problems == ("no answer among 2, 3: the answer is 1, the number of boxes",)
