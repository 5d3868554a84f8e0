"""Evidence checks against maps and boxes whose worth is known."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

import perceptok as pt
from perceptok.data import Evidence
from perceptok.decoding import read_evidence
from perceptok.errors import EvaluationError
from perceptok.evaluation import Benchmark, Prediction, check_evidence, describe_agreement, evaluate
from perceptok.evaluation.benchmarks import WHOLE_BLOCK, BenchmarkItem
from perceptok.evaluation.evidence import calibrate, check_boxes, check_depth

RAMP = np.linspace(0, 1, 320, dtype=np.float32)[:, None].repeat(320, 1)
MARKERS = {"A": (20.0, 40.0), "B": (20.0, 300.0), "C": (300.0, 170.0)}
BOX = "(<PIXEL_{}>,<PIXEL_{}>,<PIXEL_{}>,<PIXEL_{}>)"


@pytest.fixture(scope="module")
def codec() -> pt.DepthCodec:
    return pt.DepthCodec.from_pretrained()


@pytest.fixture(scope="module")
def block(codec: pt.DepthCodec) -> str:
    return codec.to_text(codec.encode(RAMP)[0])


def test_a_good_block(codec: pt.DepthCodec, block: str) -> None:
    found = check_depth(f"{block} (B)", codec, MARKERS, (336, 336), answer="B", truth=RAMP)
    assert (found.shows, found.follows, found.ordered, found.problems) == ("B", True, 1.0, ())
    # Measured 0.005 on a ramp.
    assert found.rmse < 0.03
    assert found.abs_rel < 0.1
    assert check_depth(block, codec, MARKERS, (336, 336), answer="A").follows is False
    turned = check_depth(block, codec, MARKERS, (336, 336), truth=RAMP[::-1])
    assert turned.ordered == 0
    assert turned.rmse > 0.5


def test_holes_of_the_truth_do_not_count(codec: pt.DepthCodec, block: str) -> None:
    holed = RAMP.copy()
    holed[:200] = np.nan
    found = check_depth(block, codec, MARKERS, (336, 336), truth=holed)
    assert np.isnan(found.ordered)  # one marker of three is known
    assert found.rmse < 0.03
    assert np.isnan(check_depth(block, codec, MARKERS, (336, 336), truth=np.full_like(RAMP, np.nan)).rmse)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda block: block[: len(block) // 2], "unclosed"),
        (lambda block: block.replace("<DEPTH_END>", ""), "unclosed"),
        (lambda block: block * 2, "2 depth blocks"),
        (lambda block: re.sub(r"<DEPTH_\d+>", "<DEPTH_128>", block, count=1), "does not exist"),
        (lambda block: "no block", ""),
    ],
)
def test_broken_blocks_are_no_evidence(codec: pt.DepthCodec, block: str, change: object, problem: str) -> None:
    assert callable(change)
    found = check_depth(change(block), codec, MARKERS, (336, 336), answer="B", truth=RAMP)
    assert (found.codes, found.shows, found.follows) == (None, None, None)
    assert np.isnan([found.rmse, found.ordered]).all()
    assert problem in " ".join(found.problems)


def test_markers_outside_are_refused(codec: pt.DepthCodec, block: str) -> None:
    # An image of another size than the frame says.
    with pytest.raises(EvaluationError, match="marker B at 20, 300 lies outside an image of 100 x 100"):
        check_depth(block, codec, {"B": (20.0, 300.0)}, (100, 100))


def test_boxes_and_their_count() -> None:
    text = f"Bounding box 1: {BOX.format(0, 0, 99, 99)}\nBounding box 2: {BOX.format(200, 200, 299, 299)}\nthere are 2"
    truth = [[0, 0, 99, 99], [200, 200, 299, 279], [10, 300, 30, 330]]
    assert check_boxes(text, answer="2", truth=truth) == (
        2, True, 1.0, pytest.approx(2 / 3), pytest.approx(0.6), (),
    )  # fmt: skip
    assert check_boxes(text, answer="3").follows is False
    assert check_boxes("There are no dogs.", answer="0", truth=[])[:2] == (0, True)
    upside_down = check_boxes(BOX.format(50, 50, 10, 10), answer="1", truth=truth)
    assert (upside_down.boxes, upside_down.follows) == (0, False)
    assert upside_down.problems


def test_calibration_by_hand() -> None:
    calibration = calibrate([0.1, 0.2, float("nan"), 0.8, 0.9], [False, False, True, True, False], bins=2)
    assert calibration.bins == ((0.1, 0.2, 2, 0.0), (0.8, 0.9, 2, 0.5))
    assert 0 < calibration.correlation < 1
    assert np.isnan(calibrate([0.5, 0.5], [True, False]).correlation)
    for quality, right in (([1.0], []), ([float("nan")], [True])):
        with pytest.raises(EvaluationError):
            calibrate(quality, right)


def test_what_is_written() -> None:
    assert read_evidence("").block is None
    assert read_evidence("x" * 100_000).problems == ()
    assert read_evidence("<PIXEL_400>").problems


def test_equal_qualities_share_a_bin() -> None:
    calibration = calibrate([1.0, 0.0, 1.0, 1.0, 0.0, 1.0], [True, False, True, False, False, True])
    assert calibration.bins == ((0.0, 0.0, 2, 0.0), (1.0, 1.0, 4, 0.75))
    assert calibrate([2.0, 2.0], [True, False]).bins == ((2.0, 2.0, 2, 0.5),)


def test_a_picture_that_is_too_small_for_its_markers_is_named(codec: pt.DepthCodec, block: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (30, 20)).save(file, format="PNG")
    item = BenchmarkItem("q7", "Which?", "A", {"A": "", "B": ""}, file.getvalue(), markers={"A": (5, 5), "B": (200, 5)})
    scores = evaluate({"q7": f"{block} (A)"}, Benchmark("small", (item,)))
    with pytest.raises(EvaluationError, match="item q7: its marker B at 200, 5 lies outside its image of 30 x 20"):
        check_evidence(scores, codec)


def test_atomic_items_are_measured_by_their_map_and_boxes(codec: pt.DepthCodec, block: str) -> None:
    codes = tuple(int(code) for code in codec.encode(RAMP).ravel())
    other = codec.to_text(codec.encode(np.ascontiguousarray(RAMP[::-1]))[0])
    maps = tuple(
        BenchmarkItem(name, "q", WHOLE_BLOCK, evidence=Evidence(codes=codes), target="block") for name in "xyz"
    )
    boxes = Evidence(boxes=((0, 0, 9, 9), (100, 100, 199, 199)))
    counts = tuple(BenchmarkItem(name, "q", "2", evidence=boxes, target="boxes") for name in "uvw")
    half = f"Bounding box 1: {BOX.format(0, 0, 9, 9)}\nBounding box 2: {BOX.format(100, 100, 199, 149)}"
    texts = {"x": block, "y": other, "z": "no map", "u": half, "v": BOX.format(0, 0, 9, 9), "w": "There are none."}
    scores = evaluate(texts, Benchmark("atomic", (*maps, *counts)))
    assert [outcome.right for outcome in scores.outcomes] == [True, True, False, True, False, False]
    report = check_evidence(scores, codec)
    assert report is not None
    assert report.figures["answers with one whole block"] == (3, pytest.approx(2 / 3))
    first, second = report.items["x"].depth, report.items["y"].depth
    assert first is not None
    assert second is not None
    assert first.rmse == 0
    assert second.rmse > 0.5
    assert report.figures["RMSE of the block against the teacher"] == (2, pytest.approx(second.rmse / 2))
    assert report.items["x"].teacher is not None
    assert report.figures["mean IoU of boxes"] == (3, pytest.approx((0.75 + 0.5 + 0) / 3))
    assert report.figures["number of boxes is right"] == (3, pytest.approx(1 / 3))
    assert report.figures["answer is the number of boxes"][0] == 0


def test_codes_of_another_codec_are_not_decoded(codec: pt.DepthCodec, block: str) -> None:
    codes = tuple(int(code) for code in codec.encode(RAMP).ravel())
    items = tuple(
        BenchmarkItem(name, "q", WHOLE_BLOCK, evidence=Evidence(codes=codes, codec=fingerprint), target="block")
        for name, fingerprint in (("own", codec.fingerprint), ("foreign", "0" * 16))
    )
    report = check_evidence(evaluate({"own": block, "foreign": block}, Benchmark("atomic", items)), codec)
    assert report is not None
    assert report.items["own"].teacher is not None
    assert report.items["foreign"].teacher is None


def test_agreement_of_conclusions_with_their_own_evidence(codec: pt.DepthCodec, block: str) -> None:
    """Counted are answers with a whole block and a letter, whatever is right; read-off answers are not conclusions."""
    buffer = io.BytesIO()
    Image.new("RGB", (336, 336)).save(buffer, "PNG")
    items = [
        BenchmarkItem(
            name, "Which is closest?", "A", dict.fromkeys(MARKERS, ""), image=buffer.getvalue(), markers=MARKERS
        )
        for name in ("follows", "contradicts", "unread", "broken", "read off")
    ]
    benchmark = Benchmark("own", tuple(items))
    texts: dict[str, str | Prediction] = {
        "follows": f"{block} (B)",
        "contradicts": f"{block} (A)",
        "unread": f"{block} It is hard to say.",
        "broken": f"{block[:-20]} (B)",
        "read off": Prediction(block, "B"),
    }
    scores = evaluate(texts, benchmark)
    line = describe_agreement(scores, check_evidence(scores, codec))
    assert line == "conclusion follows the own block: 1 of 2, 50.0% (9.5 to 90.5), by chance 33.3%"
    nothing = evaluate(dict.fromkeys(texts, "(B)"), benchmark)
    assert (
        describe_agreement(nothing, check_evidence(nothing, codec)) == "conclusion and own evidence: no answer has both"
    )


def test_agreement_of_counts(codec: pt.DepthCodec) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (336, 336)).save(buffer, "PNG")
    items = [BenchmarkItem(name, "How many dogs are in the image?", "3", image=buffer.getvalue()) for name in "abc"]
    boxes = "\n".join(BOX.format(1, 2, 30 + number, 40) for number in range(2))
    texts = {"a": f"{boxes}\nwe conclude there are 2 dogs.", "b": f"{boxes}\nwe conclude there are 3 dogs.", "c": "2"}
    scores = evaluate(texts, Benchmark("own", tuple(items)))
    line = describe_agreement(scores, check_evidence(scores, codec))
    assert line == "conclusion is the number of own boxes: 1 of 3, 33.3% (6.1 to 79.2)"
