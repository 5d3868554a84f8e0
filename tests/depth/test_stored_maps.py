"""Depth packed into other numbers: read when the packing is named, refused with the remedy otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from perceptok.depth import DepthMap, read_depth_records
from perceptok.errors import DepthMapError
from perceptok_cli.main import app

METRES = np.linspace(0.75, 120, 48 * 64).reshape(48, 64)


def carla(metres: np.ndarray, alpha: int | None = None) -> np.ndarray:
    number = np.rint(metres / 1000 * (2**24 - 1)).astype(np.int64)
    channels = [
        number & 255,
        number >> 8 & 255,
        number >> 16,
        *([] if alpha is None else [np.full_like(number, alpha)]),
    ]
    return np.stack(channels, -1).astype(np.uint8)


@pytest.mark.parametrize("alpha", [None, 255])
@pytest.mark.parametrize("suffix", [".png", ".npy", ".tif"])
def test_driving_simulators_24_bits(tmp_path: Path, suffix: str, alpha: int | None) -> None:
    path = tmp_path / f"a{suffix}"
    pixels = carla(METRES, alpha)
    pixels[0, 0] = 0, 0, 0, *([] if alpha is None else [alpha])
    pixels[0, 1] = 255
    if suffix == ".png":
        Image.fromarray(pixels).save(path)
    elif suffix == ".npy":
        np.save(path, pixels)
    else:
        tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=None if alpha is None else ["unassalpha"])
    for options in ({}, {"kind": "metric"}, {"kind": "metric", "unit": "m"}):
        depth = DepthMap.read(path, packing="carla24", **options)  # type: ignore[arg-type]
        assert depth.kind == "metric"
        assert not depth.valid[0, 0]
        assert depth.values[0, 1] == 1000
        assert np.abs(depth.values - METRES).ravel()[2:].max() < 1000 / 2**24
    assert np.allclose(DepthMap.read(path, packing="carla24", scale=0.5).values[1:], METRES[1:] / 2, atol=1e-4)
    far = DepthMap.read(path, packing="carla24", sky_values=[1000])
    assert far.sky is not None
    assert far.sky.sum() == 1
    for wrong in ({"kind": "inverse"}, {"unit": "mm"}):
        with pytest.raises(DepthMapError, match="holds metres"):
            DepthMap.read(path, packing="carla24", **wrong)  # type: ignore[arg-type]
    with pytest.raises(DepthMapError, match=r"packing|two dimensions"):
        DepthMap.read(path, kind="metric", unit="m")


def test_float_bits_in_colours(tmp_path: Path) -> None:
    values = METRES.astype(np.float32)
    values[0, :3] = np.nan, np.inf, 0
    Image.fromarray(values.view(np.uint8).reshape(48, 64, 4)).save(tmp_path / "a.png")
    depth = DepthMap.read(tmp_path / "a.png", kind="metric", unit="m", packing="rgba_float")
    assert np.array_equal(depth.values[1:], values[1:])
    assert depth.valid[0, :4].tolist() == [False, False, False, True]
    assert depth.sky is not None
    with pytest.raises(DepthMapError, match="rgba_float"):
        DepthMap.read(tmp_path / "a.png", kind="metric", unit="m")
    with pytest.raises(DepthMapError, match="say packing='rgba_float'"):
        DepthMap.read(tmp_path / "a.png", packing="carla24")
    with pytest.raises(DepthMapError, match="does not say its kind"):
        DepthMap.read(tmp_path / "a.png", packing="rgba_float")


@pytest.mark.parametrize(
    ("packing", "array"),
    [
        ("carla24", np.zeros((4, 5), np.uint16)),
        ("carla24", np.zeros((4, 5, 3), np.uint16)),
        ("carla24", np.zeros((4, 5, 2), np.uint8)),
        ("rgba_float", np.zeros((4, 5, 3), np.uint8)),
        ("rgba_float", np.zeros((4, 5), np.float32)),
        ("sunrgbd", np.zeros((4, 5), np.float32)),
        ("sunrgbd", np.zeros((4, 5), np.uint8)),
    ],
)
def test_other_numbers_are_refused_by_what_they_are(tmp_path: Path, packing: Any, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DepthMapError, match=f"packing='{packing}' is for") as found:
        DepthMap.read(tmp_path / "a.npy", kind="metric", unit="m", packing=packing)
    assert str(array.dtype) in str(found.value)


def test_unknown_packing(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 5), np.uint8))
    with pytest.raises(DepthMapError, match="sunrgbd, carla24, rgb24, bgr24, rgba_float"):
        DepthMap.read(tmp_path / "a.npy", kind="metric", unit="m", packing="zip")  # type: ignore[arg-type]


def test_at_a_shell(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    Image.fromarray(carla(METRES)).save(tmp_path / "maps" / "a.png")
    words = ["depth", "encode", str(tmp_path / "maps"), "-o", str(tmp_path / "a.jsonl")]
    assert CliRunner().invoke(app, [*words, "--packing", "carla24"]).exit_code == 0
    (record,) = read_depth_records(tmp_path / "a.jsonl")
    assert (record.kind, record.near, record.far) == ("metric", pytest.approx(0.75, abs=1e-4), pytest.approx(120))
    bare = CliRunner().invoke(app, [*words, "--force", "--kind", "metric", "--unit", "m"])
    assert bare.exit_code == 1
    assert "--packing" in bare.output


@pytest.mark.parametrize(("packing", "order"), [("rgb24", (16, 8, 0)), ("bgr24", (0, 8, 16))])
def test_24_bit_integers_in_either_order(tmp_path: Path, packing: Any, order: tuple[int, int, int]) -> None:
    numbers = np.arange(1, 4801, dtype=np.uint32).reshape(60, 80) * 3001
    Image.fromarray(np.stack([numbers >> bits & 255 for bits in order], -1).astype(np.uint8)).save(tmp_path / "a.png")
    depth = DepthMap.read(tmp_path / "a.png", kind="metric", scale=1e-6, packing=packing)
    np.testing.assert_allclose(depth.values, numbers * 1e-6, rtol=1e-6)
    other = "bgr24" if packing == "rgb24" else "rgb24"
    swapped = DepthMap.read(tmp_path / "a.png", kind="metric", scale=1e-6, packing=other)  # type: ignore[arg-type]
    assert np.abs(swapped.values - depth.values).max() > 1


ROOM = np.linspace(500, 9000, 4800).reshape(60, 80)


@pytest.mark.parametrize(
    ("dtype", "mark", "kind", "number"),
    [
        (np.uint16, 65535, "metric", "65535"),
        (np.int16, 32767, "metric", "32767"),
        (np.float32, 1e10, "metric", "1e+10"),
        (np.float32, 65504, "relative", "65504"),
        (np.float32, -9999, "inverse", "-9999"),
        (np.uint16, 65535, "inverse", "65535"),
    ],
)
def test_numbers_that_seem_to_mark_holes(dtype: Any, mark: float, kind: Any, number: str) -> None:
    array = ROOM.astype(dtype)
    array[:2] = mark
    unit = {"unit": "mm"} if kind == "metric" else {}
    warnings = DepthMap.from_array(array, kind=kind, **unit).to_nearness().find_warnings()
    assert f"hold {number}, " in warnings[0]
    assert f"--invalid {number}" in warnings[0]
    declared = DepthMap.from_array(array, kind=kind, invalid=[mark], **unit)
    assert declared.warnings == ()


@pytest.mark.parametrize(("dtype", "mark"), [("int32", 65535), ("float32", 65535), ("int16", 32767), ("uint32", 65535)])
def test_the_largest_number_of_narrower_integers(dtype: str, mark: int) -> None:
    """Of a map that was converted after it had been stored; all other numbers lie close below."""
    array = np.linspace(500, 0.9 * mark, 4800).reshape(60, 80).round()
    array[:3] = mark
    (warning,) = DepthMap.from_array(array.astype(dtype), kind="metric", unit="mm").warnings
    assert f"--invalid {mark}" in warning


def test_floats_of_opencv_in_colours(tmp_path: Path) -> None:
    """TartanAir V2: OpenCV writes the bytes of the float as B, G, R, A."""
    metres = np.hypot(*np.mgrid[1:49, 1:65]).astype("<f4")
    lowest_first = metres[..., None].view(np.uint8)
    Image.fromarray(np.ascontiguousarray(lowest_first[..., [2, 1, 0, 3]])).save(tmp_path / "a.png")
    depth = DepthMap.read(tmp_path / "a.png", kind="metric", unit="m", packing="bgra_float")
    np.testing.assert_array_equal(depth.values, metres)
    assert depth.warnings == ()
    (warning,) = DepthMap.read(tmp_path / "a.png", kind="metric", unit="m", packing="rgba_float").warnings
    assert "is its packing bgra_float (--packing)?" in warning


def test_maps_that_use_all_their_numbers_are_not_warned_of() -> None:
    levels = np.linspace(0, 1, 4800).reshape(60, 80)
    clipped = np.clip(levels * 1.1, 0, 1)
    for array in (np.rint(clipped * 255).astype(np.uint8), np.rint(clipped * 65535).astype(np.uint16), clipped):
        assert DepthMap.from_array(array, kind="inverse").warnings == ()
    assert DepthMap.from_array(np.full((60, 80), 3.0), kind="metric", unit="m").warnings == ()
    assert DepthMap.from_array(ROOM, kind="metric", unit="mm").warnings == ()


def test_a_frequent_number_far_below_all_others_is_reported(tmp_path: Path) -> None:
    """A map in millimetres in which 1 marks holes: its inverse would decide the range alone."""
    values = np.linspace(1000, 9000, 64 * 48).reshape(48, 64).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "plain.png")
    values[:10, :10] = 1
    Image.fromarray(values).save(tmp_path / "marked.png")
    plain, marked = (DepthMap.read(tmp_path / name, kind="metric", unit="mm") for name in ("plain.png", "marked.png"))
    assert not plain.warnings
    assert "hold 1, while all others begin at" in marked.warnings[0]
    assert "--invalid 1" in marked.warnings[0]
