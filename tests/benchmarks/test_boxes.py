"""One million boxes to codes, against numpy.floor on the same array, in one run.

Measured is processor time: others may work on the machine.

Run by hand: python -m pytest tests/benchmarks/test_boxes.py --benchmark-enable --benchmark-only -o addopts=""
"""

from __future__ import annotations

from time import process_time

import numpy as np
import pytest

from perceptok.boxes import BoxCodec, ImageFrame

VGA = (640, 480)
ENCODE = "1,000,000 boxes (float64) -> codes"
DECODE = "1,000,000 boxes of codes -> float64"


@pytest.fixture(scope="module")
def boxes() -> np.ndarray:
    """A tenth of the boxes touches the right edge, as in real data."""
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, VGA, (1_000_000, 2, 2)), axis=1)
    corners[::10, 1, 0] = 640
    return corners.reshape(-1, 4)


@pytest.mark.benchmark(group=ENCODE, timer=process_time)
def test_numpy_floor(benchmark, boxes: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    benchmark.pedantic(np.floor, (boxes,), rounds=25, warmup_rounds=2)


@pytest.mark.benchmark(group=ENCODE, timer=process_time)
def test_squashed(benchmark, boxes: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    codec = BoxCodec()
    codes = benchmark.pedantic(lambda: codec.encode(boxes, image_size=VGA), rounds=25, warmup_rounds=2)
    np.testing.assert_array_equal(codes, np.floor(boxes * (336 / np.tile(VGA, 2))).clip(0, 335))


@pytest.mark.benchmark(group=ENCODE, timer=process_time)
def test_letterboxed(benchmark, boxes: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    codec, frame = BoxCodec(), ImageFrame.letterbox(VGA)
    benchmark.pedantic(lambda: codec.encode(boxes, frame=frame), rounds=10, warmup_rounds=1)


@pytest.mark.benchmark(group=ENCODE, timer=process_time)
def test_coco_convention(benchmark, boxes: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    codec, xywh = BoxCodec(), boxes.copy()
    xywh[:, 2:] -= xywh[:, :2]
    benchmark.pedantic(lambda: codec.encode(xywh, image_size=VGA, convention="xywh"), rounds=10, warmup_rounds=1)


@pytest.mark.benchmark(group=ENCODE, timer=process_time)
def test_floats_of_32_bits(benchmark, boxes: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    codec, single = BoxCodec(), boxes.astype(np.float32)
    benchmark.pedantic(lambda: codec.encode(single, image_size=VGA), rounds=10, warmup_rounds=1)


@pytest.mark.benchmark(group=DECODE, timer=process_time)
def test_numpy_floor_again(benchmark, boxes: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    benchmark.pedantic(np.floor, (boxes,), rounds=25, warmup_rounds=2)


@pytest.mark.benchmark(group=DECODE, timer=process_time)
def test_decode(benchmark, boxes: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    codec = BoxCodec(decode="center")
    codes = codec.encode(boxes, image_size=VGA)
    benchmark.pedantic(lambda: codec.decode(codes, image_size=VGA), rounds=10, warmup_rounds=1)
