"""Markers found on images, and depth read at them before and after the codec."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import perceptok as pt
from perceptok.errors import EvaluationError
from perceptok.evaluation import Benchmark, BenchmarkItem, evaluate_specialist, find_markers, load_benchmark
from perceptok.evaluation.specialists import sample_nearness

POINTS = {"A": (60.0, 180.0), "B": (150.0, 100.0), "C": (210.0, 240.0), "D": (300.0, 160.0), "E": (110.0, 300.0)}


def marked(points: dict[str, tuple[float, float]], seed: int = 0) -> Image.Image:
    """An image with markers as HardBLINK draws them."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 255, (21, 21, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((336, 336), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for letter, (x, y) in points.items():
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), outline="red", width=2)
        draw.rectangle((x - 1, y - 26, x + 8, y - 13), fill="black")
        draw.text((x + 3.5, y - 19.5), letter, fill="white", font=ImageFont.load_default(12), anchor="mm")
    return image


@pytest.mark.parametrize("seed", range(3))
def test_drawn_markers_are_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    places = list(POINTS.values())
    points = {letter: places[place] for letter, place in zip("ABCDE", rng.permutation(5), strict=True)}
    found = find_markers(marked(points, seed), "ABCDE")
    for letter, point in points.items():
        assert found[letter] == pytest.approx(point, abs=1.5)


def test_real_pictures(shared: Path) -> None:
    """Read off the images by eye."""
    known = {
        ("3", "0"): {"C": (193.5, 184.5), "A": (207.5, 207.5)},
        ("5", "4"): {"D": (189.5, 131.5), "A": (138.5, 193.5), "E": (246.5, 203.5)},
    }
    for (markers, number), points in known.items():
        benchmark = load_benchmark(f"hardblink-{markers}", shared / "data" / "hardblink")
        item = next(item for item in benchmark.items if item.id == number)
        found = find_markers(item.open_image(), list(item.choices))
        for letter, point in points.items():
            assert found[letter] == pytest.approx(point, abs=2)


def test_pictures_without_markers_are_refused() -> None:
    with pytest.raises(EvaluationError, match="2 red circles"):
        find_markers(Image.new("RGB", (336, 336)), "AB")
    with pytest.raises(EvaluationError, match="336 x 336"):
        find_markers(Image.new("RGB", (300, 336)), "AB")


def test_levels_are_read_under_the_markers() -> None:
    nearness = np.arange(12, dtype=np.float32).reshape(3, 4)
    levels = sample_nearness(nearness, {"A": (0, 0), "B": (200, 150), "C": (199, 0), "D": (120, 60)}, (200, 150))
    assert levels == {"A": 0, "B": 11, "C": 3, "D": 6}


def test_a_specialist_that_knows_answers_right() -> None:
    def truth(image: Image.Image) -> pt.DepthMap:
        return pt.DepthMap.from_array(np.linspace(1, 9, 192 * 320).reshape(192, 320), kind="inverse", scale=1.0)

    out = io.BytesIO()
    marked(POINTS).save(out, "PNG")
    item = BenchmarkItem("0", "Which is closest?", "E", dict.fromkeys("ABCDE", ""), out.getvalue())
    codec = pt.DepthCodec.from_pretrained()
    result = evaluate_specialist(Benchmark("b", (item,)), truth, codec)
    assert result.direct.overall.accuracy == result.through_codec.overall.accuracy == 1
    (found,) = result.estimates.values()
    assert (found.letter, found.decoded_letter) == ("E", "E")
    assert found.item.markers["E"] == pytest.approx(POINTS["E"], abs=1.5)
    assert np.abs(found.decoded.mean() - 0.5) < 0.05
    with pytest.raises(EvaluationError, match="asks for counts"):
        evaluate_specialist(Benchmark("c", (BenchmarkItem("0", "How many?", "3"),)), truth, codec)


def test_an_image_that_cannot_be_read_costs_only_itself() -> None:
    out = io.BytesIO()
    marked(POINTS).save(out, "PNG")
    blank = io.BytesIO()
    Image.new("RGB", (336, 336)).save(blank, "PNG")
    images = {"cut": out.getvalue()[:200], "good": out.getvalue(), "blank": blank.getvalue(), "none": None}
    items = [BenchmarkItem(name, "Which?", "E", dict.fromkeys("ABCDE", ""), data) for name, data in images.items()]
    codec = pt.DepthCodec.from_pretrained()
    depth = pt.DepthMap.from_array(np.linspace(1, 9, 48 * 48).reshape(48, 48), kind="inverse", scale=1.0)
    steps: list[None] = []
    result = evaluate_specialist(
        Benchmark("b", tuple(items)), lambda _: depth, codec, advance=lambda: steps.append(None)
    )
    assert list(result.estimates) == ["good"]
    assert result.unread.keys() == {"cut", "blank", "none"}
    assert len(steps) == 4
    assert (result.direct.overall.right, result.direct.overall.unparsed) == (1, 3)
    assert len(result.through_codec.outcomes) == 4
    with pytest.raises(EvaluationError, match="no item of c has an estimate: item cut"):
        evaluate_specialist(Benchmark("c", (items[0],)), lambda _: depth, codec)
