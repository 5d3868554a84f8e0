"""Depth records: texts, evidence and frames."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from perceptok.boxes import ImageFrame
from perceptok.data import MarkerProtocol, PerceptionRecord, Turn, find_supervision_problems
from perceptok.data.prompts import PROMPTS, PromptSet
from perceptok.data.sources import Sample
from perceptok.data.tasks import SetConfig, TaskContext, TaskRecord, frame_nearness, make_depth_records
from perceptok.decoding import read_answer
from perceptok.depth import DepthCodec, DepthMap, block_to_text
from perceptok.errors import ConfigError


@pytest.fixture(scope="module")
def codec() -> DepthCodec:
    return DepthCodec.from_pretrained()


def sample(name: str = "a.png", shape: tuple[int, int] = (90, 120)) -> Sample:
    rng = np.random.default_rng(4)
    metres = (1 + 5 * ndimage.gaussian_filter(rng.random(shape), 5)).astype(np.float32)
    metres = (metres - metres.min()) * 20 + 1
    depth = DepthMap(metres.astype(np.float32), np.ones(shape, dtype=bool), "metric")
    return Sample(name, Image.new("RGB", (shape[1] * 2, shape[0] * 2), "white"), depth)


def make(codec: DepthCodec, regime: str, prompts: str = "aurora", frame: str = "squash", **options: Any) -> TaskRecord:
    config = SetConfig("s", "x", "depth", regime, 1, **options)  # type: ignore[arg-type]
    context = TaskContext(PROMPTS[prompts], codec, frame)  # type: ignore[arg-type]
    (result,) = make_depth_records([(sample(), np.random.default_rng(1))], config, context)
    assert isinstance(result, TaskRecord), result
    return result


def get_texts(record: PerceptionRecord) -> tuple[str, str]:
    return record.turns[0].text, record.turns[1].text


def test_soft_codes_on_request(codec: DepthCodec) -> None:
    """Beside a block, never beside a direct label; the same of a squashed map and of a framed marker."""
    for frame in ("squash", "letterbox"):
        for regime, has_soft_codes in (("atomic", True), ("cot", True), ("direct", False), ("reading", False)):
            config = SetConfig("s", "x", "depth", regime, 1)  # type: ignore[arg-type]
            context = TaskContext(PROMPTS["aurora"], codec, frame, soft_codes=3)  # type: ignore[arg-type]
            (result,) = make_depth_records([(sample(), np.random.default_rng(1))], config, context)
            assert isinstance(result, TaskRecord), result
            soft = result.record.evidence.soft
            assert (soft is not None) == has_soft_codes
            assert soft is None or (len(soft.codes), soft.nearest) == (300, result.record.evidence.codes)
    assert make(codec, "atomic")[0].evidence.soft is None


def test_atomic_record_has_codes_of_whole_map(codec: DepthCodec) -> None:
    record, image = make(codec, "atomic")
    depth = sample().depth
    assert depth is not None
    codes = codec.encode(depth)[0]
    assert record.evidence.codes == tuple(codes.ravel().tolist())
    assert record.evidence.codec == codec.fingerprint
    assert get_texts(record) == (
        "What is the depth map for the image?",
        f"The depth map for the image is {block_to_text(codes)}.",
    )
    assert image.size == (336, 336)
    assert record.frame == ImageFrame.squash((336, 336))
    assert record.provenance["image_frame"] == ImageFrame.squash((240, 180)).to_dict()


def test_chain_of_thought_has_points_map_and_answer(codec: DepthCodec) -> None:
    record, image = make(codec, "cot", markers=(2,))
    first, second = record.evidence.markers
    block = block_to_text(np.array(record.evidence.codes).reshape(10, 10))
    nearest = "A" if (first.level or 0) > (second.level or 0) else "B"
    assert record.answer == nearest
    assert record.choices == ("A", "B")
    assert get_texts(record)[1] == (
        f"Point A is located at (x = {first.x} y = {first.y}),Point B is located at (x = {second.x} y = {second.y})."
        f"The depth map for the image is {block}. Since point {nearest} has a higher pixel value on the depth map, "
        f"the answer is that point {nearest} is closer to the camera."
    )
    assert np.asarray(image)[int(first.y), int(first.x) + 4].tolist() == [255, 0, 0]


def test_marker_levels_match_the_map(codec: DepthCodec) -> None:
    """Looked up in the original map, which the frame squashes."""
    record, _ = make(codec, "direct", markers=(5,))
    depth = sample().depth
    assert depth is not None
    nearness = depth.to_nearness().values
    for marker in record.evidence.markers:
        row, column = int((marker.y + 0.5) / 336 * 90), int((marker.x + 0.5) / 336 * 120)
        assert marker.level == pytest.approx(nearness[row, column], abs=0.5 / 255)
    assert get_texts(record)[1] == f"({record.answer})"
    assert record.answer == max(record.evidence.markers, key=lambda marker: marker.level or 0).letter
    assert 5 <= record.difficulty <= 6


@pytest.mark.parametrize(
    ("prompts", "has", "lacks"),
    [
        ("no_coordinates", "The depth map for the image is <DEPTH_START>", "located"),
        ("no_depth", "). The answer is that point", "DEPTH"),
        ("numerals", "The depth map for the image is ", "DEPTH"),
    ],
)
def test_prompt_variants(codec: DepthCodec, prompts: str, has: str, lacks: str) -> None:
    record, _ = make(codec, "cot", prompts)
    assert has in get_texts(record)[1]
    assert lacks not in get_texts(record)[1]
    assert record.provenance["prompts"] == f"{prompts}/2"
    assert record.evidence.codes is not None


def test_pair_question(codec: DepthCodec) -> None:
    record, _ = make(codec, "direct", markers=(2,), question="pair", placement=MarkerProtocol(area="middle"))
    assert get_texts(record)[0].startswith(
        "Two points are circled on the image, labeled by A and B beside each circle."
    )
    assert all(95 <= marker.y < 228 for marker in record.evidence.markers)


@pytest.mark.parametrize("mode", ["letterbox", "center_crop"])
def test_map_is_what_other_frames_show(codec: DepthCodec, mode: str) -> None:
    record, image = make(codec, "direct", frame=mode)
    frame = ImageFrame.from_dict(record.provenance["image_frame"])  # type: ignore[arg-type]
    assert frame.mode == mode
    assert image.size == (336, 336)
    depth = sample().depth
    assert depth is not None
    shown = frame_nearness(depth, frame)
    for marker in record.evidence.markers:
        x, y = frame.to_image([marker.x + 0.5, marker.y + 0.5])
        assert 0 <= x <= 240
        assert 0 <= y <= 180
        assert shown.valid[int(marker.y), int(marker.x)]


def test_invalid_samples_do_not_affect_others(codec: DepthCodec) -> None:
    flat = sample("flat")
    assert flat.depth is not None
    flat = Sample("flat", flat.image, DepthMap(np.ones((9, 9), np.float32), np.ones((9, 9), bool), "metric"))
    invalid = Sample("holes", flat.image, DepthMap(np.ones((9, 9), np.float32), np.zeros((9, 9), bool), "metric"))
    without = Sample("none", flat.image)
    config = SetConfig("s", "x", "depth", "direct", 1)
    rngs = [np.random.default_rng(seed) for seed in range(4)]
    results = make_depth_records(
        list(zip([flat, invalid, without, sample()], rngs, strict=True)), config, TaskContext(PROMPTS["aurora"], codec)
    )
    assert "grey levels 20 apart" in str(results[0])
    assert "nothing to encode" in str(results[1])
    assert results[2] == (
        "this image has no depth map: no file of the folder has its name, or its name and _depth; depth_names says "
        "what else maps are called"
    )
    assert isinstance(results[3], TaskRecord)


def read_record(codec: DepthCodec, prompts: PromptSet = PROMPTS["aurora"], **options: Any) -> TaskRecord:
    config = SetConfig("s", "x", "depth", "reading", 1, markers=(4,), **options)
    (result,) = make_depth_records(
        [(sample(), np.random.default_rng(1))], config, TaskContext(prompts, codec, size=336)
    )
    assert isinstance(result, TaskRecord), result
    return result


def test_reading_asks_about_the_block_that_it_gives(codec: DepthCodec) -> None:
    """The answer, the levels and the evidence are those of the decoded block, not those of the map."""
    prompts = replace(
        PROMPTS["aurora"], point="Point {letter} is in row {row} column {column}", depth_evidence="{letter} {nearness}"
    )
    record, _ = read_record(codec, prompts)
    assert record.evidence.codes is not None
    codes = np.array(record.evidence.codes).reshape(10, 10)
    decoded = codec.decode(codes)[0]
    levels, places = {}, []
    for marker in record.evidence.markers:
        level = decoded[int((marker.y + 0.5) * 320 / 336), int((marker.x + 0.5) * 320 / 336)]
        levels[marker.letter] = float(level)
        assert marker.level == pytest.approx(level, abs=0.5 / 255)
        places.append(f"Point {marker.letter} is in row {int(marker.y / 33.6)} column {int(marker.x / 33.6)}")
    nearest = max(levels, key=lambda letter: levels[letter])
    assert record.answer == nearest
    question, answer = get_texts(record)
    assert question == (
        f"The depth map for the image is {block_to_text(codes)}. {','.join(places)}. "
        "Which point is the closest to the camera?"
    )
    evidence = ", ".join(f"{letter} {int(level * 100):02d}" for letter, level in levels.items())
    assert answer == (
        f"{evidence}. Since point {nearest} has a higher pixel value on the depth map, "
        f"the answer is that point {nearest} is closer to the camera."
    )
    assert find_supervision_problems(record) == []
    assert read_answer(answer, record.choices).value == nearest


def test_reading_needs_codes_but_no_map(codec: DepthCodec) -> None:
    whole, config = sample(), SetConfig("s", "x", "depth", "reading", 1, with_image=False)
    codes = codec.encode(whole.depth)[0]
    (result,) = make_depth_records(
        [(replace(whole, depth=None, codes=codes), np.random.default_rng(1))],
        config,
        TaskContext(PROMPTS["aurora"], codec),
    )
    assert isinstance(result, TaskRecord), result
    assert result.record.evidence.codes == tuple(codes.ravel().tolist())


@pytest.mark.parametrize("block", ["", "<DEPTH_START><DEPTH_3><DEPTH_END>", block_to_text(np.zeros((10, 10), int))])
def test_reading_with_another_block_is_a_problem(codec: DepthCodec, block: str) -> None:
    record, _ = read_record(codec)
    assert record.evidence.codes is not None
    given = block_to_text(np.array(record.evidence.codes).reshape(10, 10))
    turns = (Turn("user", record.question.replace(given, block)), record.turns[1])
    assert find_supervision_problems(replace(record, turns=turns))


def test_chain_of_thought_states_what_its_block_shows(codec: DepthCodec) -> None:
    """An image whose block shows another point nearest has no such chain."""
    prompts = replace(PROMPTS["aurora"], depth_evidence="{letter} at (x = {x} y = {y}): {nearness}")
    config = SetConfig("s", "x", "depth", "cot", 1, markers=(5,))
    results = make_depth_records(
        [(sample(), np.random.default_rng(seed)) for seed in range(20)], config, TaskContext(prompts, codec)
    )
    reasons = {result for result in results if isinstance(result, str)}
    assert reasons <= {"its block shows another point nearest than its map"}
    made = [result for result in results if isinstance(result, TaskRecord)]
    assert made
    for record, _ in made:
        assert record.evidence.codes is not None
        decoded = codec.decode(np.array(record.evidence.codes).reshape(10, 10))[0]
        for marker in record.evidence.markers:
            level = decoded[int((marker.y + 0.5) * 320 / 336), int((marker.x + 0.5) * 320 / 336)]
            written = f"{marker.letter} at (x = {marker.x} y = {marker.y}): {int(min(0.999, level) * 100):02d}"
            assert written in get_texts(record)[1]
        assert find_supervision_problems(record) == []


@pytest.mark.parametrize("regime", ["cot", "reading"])
def test_evidence_with_the_nearest_point_so_far(codec: DepthCodec, regime: Any) -> None:
    """The last of them is the conclusion, and none of them is taken for it."""
    config = SetConfig("s", "x", "depth", regime, 1, markers=(5,))
    samples = [(sample(), np.random.default_rng(seed)) for seed in range(12)]
    results = make_depth_records(samples, config, TaskContext(PROMPTS["evidence_running"], codec, size=336))
    records = [result.record for result in results if isinstance(result, TaskRecord)]
    assert len({record.answer for record in records}) > 1
    for record in records:
        text = get_texts(record)[1]
        stated = re.findall(r"([A-E]) \(x = \d+ y = \d+\) (\d\d), so far ([A-E])", text)
        assert [letter for letter, _, _ in stated] == [marker.letter for marker in record.evidence.markers]
        for count in range(1, len(stated) + 1):
            values = {letter: int(level) for letter, level, _ in stated[:count]}
            assert values[stated[count - 1][2]] == max(values.values())
        assert stated[-1][2] == record.answer == read_answer(text, record.choices).value
        assert find_supervision_problems(record) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regime": "reading", "task": "counting"}, "needs task: depth"),
        ({"regime": "reading", "question": "pair", "markers": (2,)}, "question: closest"),
        ({"regime": "cot", "with_image": False}, "with_image: false is for the regime reading"),
    ],
)
def test_reading_settings_that_contradict(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SetConfig(**{"name": "s", "source": "x", "task": "depth", "count": 1, **options})


def test_places_as_rows_and_columns_at_any_size(codec: DepthCodec) -> None:
    """Of the block's 10x10 cells, also in a smaller frame and without evidence."""
    prompts = replace(PROMPTS["aurora"], point="Point {letter} is in row {row} column {column}")
    for size in (64, 128, 336):
        (result,) = make_depth_records(
            [(sample(), np.random.default_rng(1))],
            SetConfig("s", "x", "depth", "cot", 1, markers=(2,), placement=MarkerProtocol(margin=0, min_distance=4)),
            TaskContext(prompts, codec, size=size),
        )
        assert isinstance(result, TaskRecord), result
        for marker in result.record.evidence.markers:
            place = f"Point {marker.letter} is in row {int(marker.y / size * 10)} column {int(marker.x / size * 10)}"
            assert place in get_texts(result.record)[1]
