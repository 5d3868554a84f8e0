"""Counting records: choice of the category, rejections and texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from perceptok.boxes import BoxLabels, ImageBoxes, read_annotations
from perceptok.data import Plurals
from perceptok.data.prompts import PROMPTS
from perceptok.data.sources import Sample
from perceptok.data.tasks import SetConfig, TaskContext, TaskRecord, make_counting_record
from perceptok.depth import DepthCodec
from perceptok.errors import ConfigError, DataError

NAMES = {1: "dog", 2: "cat", 3: "bow_(weapon)", 4: "horse"}
PLURALS = Plurals()


@pytest.fixture(scope="module")
def codec() -> DepthCodec:
    return DepthCodec.from_pretrained()


def sample(categories: Sequence[int], boxes: object = None, complete: bool = True, **labels: Any) -> Sample:
    count = len(categories)
    corners = [[10 * n, 5 * n, 10 * n + 20, 5 * n + 30] for n in range(count)] if boxes is None else boxes
    box_labels = BoxLabels(category_ids=tuple(categories), categories=NAMES, **labels)
    image = ImageBoxes("a.png", 200, 100, np.array(corners, dtype=np.float64).reshape(-1, 4), box_labels)
    return Sample("a.png", Image.new("RGB", (200, 100)), None, image, complete)


def make(
    codec: DepthCodec, image: Sample, regime: str = "cot", frame: str = "squash", **options: Any
) -> TaskRecord | str:
    config = SetConfig("s", "x", "counting", regime, 1, **{"zero_share": 0.0, **options})  # type: ignore[arg-type]
    context = TaskContext(PROMPTS[options.pop("prompts", "aurora")], codec, frame)  # type: ignore[arg-type]
    return make_counting_record(image, np.random.default_rng(0), config, context, PLURALS)


def answer(codec: DepthCodec, image: Sample, regime: str = "cot", **options: Any) -> str:
    result = make(codec, image, regime, **options)
    assert isinstance(result, TaskRecord), result
    return result.record.turns[1].text


def test_question_is_about_most_frequent_category(codec: DepthCodec) -> None:
    result = make(codec, sample([1, 2, 1]))
    assert isinstance(result, TaskRecord)
    record = result.record
    assert record.turns[0].text.startswith("How many dogs are in the image?.\n To solve")
    assert record.turns[1].text == (
        "Based on the analysis, here are the bounding boxes for the dogs:\n"
        "Bounding box 1: (<PIXEL_0>,<PIXEL_0>,<PIXEL_33>,<PIXEL_100>)\n"
        "Bounding box 2: (<PIXEL_33>,<PIXEL_33>,<PIXEL_67>,<PIXEL_134>)\n"
        "Since there are 2 distinct bounding boxes and masks, we conclude there are 2 dogs."
    )
    assert record.evidence.boxes == ((0, 0, 33, 100), (33, 33, 67, 134))
    assert (record.answer, record.difficulty, record.evidence.plural) == ("2", 2.0, "dogs")


def test_atomic_and_direct_regimes(codec: DepthCodec) -> None:
    assert answer(codec, sample([1, 1]), "direct") == "2"
    assert answer(codec, sample([3]), "atomic") == (
        "Here are the bounding boxes for the bows (weapon):\n"
        "Bounding box 1: (<PIXEL_0>,<PIXEL_0>,<PIXEL_33>,<PIXEL_100>)"
    )
    result = make(codec, sample([3]), "atomic")
    assert isinstance(result, TaskRecord)
    assert result.record.answer is None


def test_numerals_instead_of_tokens(codec: DepthCodec) -> None:
    config = SetConfig("s", "x", "counting", "atomic", 1, zero_share=0.0)
    result = make_counting_record(
        sample([3]), np.random.default_rng(0), config, TaskContext(PROMPTS["numerals"], codec), PLURALS
    )
    assert isinstance(result, TaskRecord)
    assert result.record.turns[1].text.endswith("Bounding box 1: (0,0,33,100)")


def test_zero_questions_are_about_absent_categories(codec: DepthCodec) -> None:
    image = sample([1, 2, 3])
    assert answer(codec, image, zero_share=1.0) == "There are no horses in the image. We conclude there are 0 horses."
    assert answer(codec, image, "atomic", zero_share=1.0) == "There are no horses in the image."
    assert answer(codec, image, "direct", zero_share=1.0) == "0"
    lvis = sample([1], negative_category_ids=(2,))
    assert answer(codec, lvis, "atomic", zero_share=1.0) == "There are no cats in the image."
    detected = sample([1], complete=False)
    assert make(codec, detected, zero_share=1.0) == "no category is known to be absent from this image"


def test_released_rule(codec: DepthCodec) -> None:
    """As in AURORA's notebook: no second choice beyond the maximum, and zero only where no category is left."""

    def ask(image: Sample, **options: Any) -> str:
        return answer(codec, image, "atomic", category_rule="released", **options)

    assert "bounding boxes for the cats" in ask(sample([2, 1, 1, 2]))  # the first annotated of two
    assert "bounding boxes for the dogs" in ask(sample([1, 2, 2], not_exhaustive_category_ids=(2,)))
    lvis = {"negative_category_ids": (4,), "not_exhaustive_category_ids": (1,)}
    assert ask(sample([1, 1], **lvis)) == "There are no horses in the image."
    assert ask(sample([], **lvis)) == "There are no horses in the image."
    too_many = make(codec, sample([1, 1, 1, 2]), "atomic", category_rule="released", max_instances=2)
    assert too_many == "its most frequent category is shown more than 2 times"


def ask_as_released(image: dict[str, Any], annotations: list[dict[str, Any]], names: dict[int, str]) -> str | None:
    """The notebook's rule on one image of an LVIS file: `count name`, "0" of a negative category, None if dropped."""
    boxes: dict[int, int] = {}
    for annotation in annotations:
        if annotation["image_id"] == image["id"]:
            boxes[annotation["category_id"]] = boxes.get(annotation["category_id"], 0) + 1
    for category in image["not_exhaustive_category_ids"]:
        boxes.pop(category, None)
    if not boxes:
        return "0" if image["neg_category_ids"] else "no category is known to be absent from this image"
    category = list(boxes)[int(np.argmax(list(boxes.values())))]
    return None if boxes[category] > 15 else f"{boxes[category]} {names[category]}"


def test_released_rule_on_lvis(codec: DepthCodec, shared: Path) -> None:
    path = shared / "data" / "counting" / "lvis_val_100.json"
    lvis = json.loads(path.read_text())
    names = {category["id"]: category["name"] for category in lvis["categories"]}
    file = read_annotations(path)
    outcomes = Counter[str]()
    for image, boxes in zip(lvis["images"], file.images, strict=True):
        expected = ask_as_released(image, lvis["annotations"], names)
        example = Sample(boxes.name, Image.new("RGB", (boxes.width, boxes.height)), None, boxes, complete=True)
        result = make(codec, example, "direct", category_rule="released")
        if isinstance(result, str):
            outcome = None if "shown more than 15 times" in result else result
        else:
            is_zero = result.record.answer == "0"
            outcome = "0" if is_zero else f"{result.record.answer} {result.record.provenance['category']}"
            if is_zero:
                negative = [names[category] for category in image["neg_category_ids"]]
                assert result.record.provenance["category"] in negative
        assert outcome == expected, boxes.name
        outcomes["dropped" if outcome is None else "counted" if outcome[0] in "123456789" else "zero"] += 1
    assert outcomes["counted"] > 50
    assert outcomes["zero"] > 0


def test_only_countable_categories(codec: DepthCodec) -> None:
    assert answer(codec, sample([1, 1, 2], not_exhaustive_category_ids=(1,)), "direct") == "1"
    assert answer(codec, sample([1, 1, 2], crowd=(False, True, False)), "direct") == "1"
    assert answer(codec, sample([1, 1, 2]), "direct", max_instances=1) == "1"
    assert answer(codec, sample([1, 1, 2]), "direct", categories=("cat",)) == "1"
    small = sample([1, 1, 2], [[0, 0, 1, 1], [5, 5, 50, 50], [5, 5, 50, 50]])
    assert answer(codec, small, "direct", min_box_area=50.0) == "1"
    assert "shown more than 1 times" in str(make(codec, sample([1, 1]), max_instances=1))
    assert "not annotated exhaustively" in str(make(codec, sample([1], not_exhaustive_category_ids=(1,))))
    assert make(codec, sample([])) == "no category that may be asked is in this image"
    assert make(codec, Sample("a", Image.new("RGB", (9, 9)))) == "this image has no boxes"


def test_cropped_instances_are_not_counted(codec: DepthCodec) -> None:
    """The middle square of 200 x 100 is 50..150."""
    visible = [[60, 10, 90, 30], [100, 10, 140, 60]]
    result = make(codec, sample([1, 1, 2, 2, 2], [*visible, *visible, [0, 0, 20, 20]]), frame="center_crop")
    assert isinstance(result, TaskRecord)
    assert result.record.evidence.plural == "dogs"
    assert result.record.evidence.boxes == ((33, 33, 134, 100), (168, 33, 302, 201))


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([150, 10, 260, 40], "outside"),
        ([210, 10, 260, 40], "outside"),
        ([20, 20, 20, 40], "without"),
    ],
)
def test_boxes_outside_or_without_area_are_rejected(codec: DepthCodec, box: list[int], reason: str) -> None:
    assert isinstance(make(codec, sample([1], [box])), str)


def test_rounded_edges_are_accepted(codec: DepthCodec) -> None:
    assert answer(codec, sample([1], [[-0.3, 0, 200.4, 100.2]]), "direct") == "1"


def test_boxes_of_another_image_size_are_rejected(codec: DepthCodec) -> None:
    original = sample([1])
    other = Sample("a.png", Image.new("RGB", (100, 200)), None, original.boxes)
    assert make(codec, other) == "the boxes are of an image of 200x100 pixels, the file has 100x200"


@pytest.mark.parametrize(
    ("order", "first"),
    [("annotation", 100), ("left_to_right", 0), ("top_to_bottom", 50), ("largest_first", 10)],
)
def test_box_order(codec: DepthCodec, order: str, first: int) -> None:
    boxes = [[100, 40, 110, 50], [0, 30, 10, 40], [50, 0, 60, 10], [10, 20, 90, 90]]
    result = make(codec, sample([1] * 4, boxes), box_order=order)
    assert isinstance(result, TaskRecord)
    assert result.record.evidence.boxes is not None
    assert result.record.evidence.boxes[0][0] == int(first * 336 / 200)
    assert result.record.provenance["order"] == order


def test_plurals(shared: Path, tmp_path: Path) -> None:
    known = {
        "bus": "buses",
        "person": "people",
        "scissors": "scissors",
        "wine_glass": "wine glasses",
        "knife": "knives",
    }
    assert {name: PLURALS.pluralize(name) for name in known} == known
    table = Plurals(shared / "data" / "counting" / "lvis_plurals.json")
    assert table.pluralize("mouse_(computer_equipment)") == "mouses (computer equipment)"
    assert PLURALS.pluralize("mouse_(computer_equipment)") == "mice (computer equipment)"
    published = tmp_path / "plurals.npy"
    np.save(published, np.array({"mouse": "mice"}, dtype=object), allow_pickle=True)
    assert Plurals(published).pluralize("mouse") == "mice"
    with pytest.raises(DataError, match=r"'1234' is not a noun with a plural; add it to a table"):
        PLURALS.pluralize("1234")


def test_invalid_tables_of_plurals(tmp_path: Path) -> None:
    for text, message in (
        ("[]", "an object singular: plural"),
        ('{"a": 3}', "an object singular: plural"),
        ("{", "not valid JSON"),
    ):
        (tmp_path / "table.json").write_text(text)
        with pytest.raises(ConfigError, match=message):
            Plurals(tmp_path / "table.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        Plurals(tmp_path / "gone.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "a b"}, "letters, digits"),
        ({"count": -1}, "count >= 0"),
        ({"markers": (1,)}, "markers are numbers from 2"),
        ({"question": "pair"}, r"markers: \[2\]"),
        ({"box_order": "random"}, "box_order is one of"),
        ({"regime": "zero-shot"}, "regime is one of"),
    ],
)
def test_invalid_sets(options: dict[str, Any], message: str) -> None:
    values = {"name": "a", "source": "x", "task": "depth", "regime": "cot", "count": 1, **options}
    with pytest.raises(ConfigError, match=message):
        SetConfig(**values)
