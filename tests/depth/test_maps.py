"""Depth maps: what their numbers mean is stated, never guessed; what does not fit is refused."""

from __future__ import annotations

import os
import re
import resource
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from perceptok.depth import DepthMap
from perceptok.errors import DepthMapError, OutputError


def metric(array: npt.ArrayLike, **options: Any) -> DepthMap:
    return DepthMap.from_array(array, kind="metric", **options)


def inverse(array: npt.ArrayLike, **options: Any) -> DepthMap:
    return DepthMap.from_array(array, kind="inverse", **options)


class TestMeaning:
    @pytest.mark.parametrize(
        ("options", "metres"),
        [({"unit": "mm"}, 1.5), ({"unit": "cm"}, 15), ({"unit": "m"}, 1500), ({"scale": 0.0002}, 0.3)],
    )
    @pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float16, np.float32, np.float64])
    def test_units(self, options: dict[str, Any], metres: float, dtype: npt.DTypeLike) -> None:
        assert metric(np.full((1, 1), 1500, dtype), **options).values == np.float32(metres)

    def test_metric_holes(self) -> None:
        depth = metric([[1, 0, -0.0, np.nan, np.inf, -np.inf, 65535]], unit="m", invalid=(65535,))
        assert depth.valid.tolist() == [[True] + [False] * 6]
        assert depth.values.tolist() == [[1] + [0] * 6]

    def test_zero_is_the_farthest_in_an_inverse_map_unless_named(self) -> None:
        gray = np.array([[0, 128, 255]], np.uint8)
        assert inverse(gray).valid.all()
        assert inverse(gray, invalid=(0,)).valid.tolist() == [[False, True, True]]
        assert inverse([[0, np.nan, np.inf, -np.inf, -3.5]]).valid.tolist() == [[True, False, False, False, True]]

    def test_unsigned_integers_of_inverse_maps_are_fractions_of_their_range(self) -> None:
        assert inverse(np.array([[0, 51, 255]], np.uint8)).values.tolist() == [[0, np.float32(0.2), 1]]
        assert inverse(np.array([[0, 13107, 65535]], np.uint16)).values.tolist() == [[0, np.float32(0.2), 1]]
        assert inverse(np.array([[0, 51, 255]], np.uint8), scale=1.0).values.tolist() == [[0, 51, 255]]
        assert inverse(np.array([[-4, 51, 300]], np.int32)).values.tolist() == [[-4, 51, 300]]

    @pytest.mark.parametrize(
        ("dtype", "sentinel"),
        [("f2", 65535), ("f4", -9999.99), ("f8", -9999.99), ("u2", 65535), ("u1", 65535)],
    )
    def test_sentinels_are_numbers_of_the_file(self, dtype: str, sentinel: float) -> None:
        with np.errstate(over="ignore"):
            array = np.array([[7, sentinel if dtype != "u1" else 255]]).astype(dtype)
        assert metric(array, unit="mm", invalid=(sentinel,)).valid.tolist() == [[True, dtype == "u1"]]

    def test_a_mask_is_added_to_the_holes(self) -> None:
        depth = metric([[1, 0, 3]], unit="m", valid=[[False, True, True]])
        assert depth.valid.tolist() == [[False, False, True]]
        with pytest.raises(DepthMapError, match=r"the mask is bool \(1, 2\); expected bool \(1, 3\)"):
            metric([[1, 2, 3]], unit="m", valid=[[True, True]])
        with pytest.raises(DepthMapError, match="the mask is int64"):
            metric([[1, 2, 3]], unit="m", valid=[[0, 1, 1]])

    def test_all_invalid_map_is_a_map(self) -> None:
        assert not metric(np.zeros((2, 3), np.uint16), unit="mm").valid.any()

    def test_tensors_and_lists(self) -> None:
        assert inverse(torch.tensor([[1.0, 2.0]])).values.tolist() == [[1, 2]]
        assert inverse([[1, 2]]).values.tolist() == [[1, 2]]

    def test_the_array_is_copied(self) -> None:
        array = np.ones((1, 2), np.float32)
        depth = inverse(array)
        array[...] = 5
        assert (depth.values == 1).all()

    def test_repr_is_short(self) -> None:
        depth = metric(np.array([[1, 0], [3, 4], [5, 6]]), unit="m")
        assert repr(depth) == "DepthMap(metric, 2x3 pixels, 83.3% valid)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": None}, "does not say its kind; say kind='metric' with unit or scale"),
        ({"kind": "disparity"}, "kind is 'disparity'; expected 'metric'"),
        ({"kind": "metric"}, "metric depth without a unit; say unit='mm', 'cm' or 'm', or scale="),
        ({"kind": "metric", "unit": "mm", "scale": 0.001}, "twice; give one of them"),
        ({"kind": "metric", "unit": "km"}, "unit is 'km'; expected one of mm, cm, m"),
        ({"kind": "metric", "scale": 0.0}, "scale is 0.0; expected a positive number"),
        ({"kind": "metric", "scale": float("nan")}, "scale is nan"),
        ({"kind": "inverse", "scale": -1.0}, "scale is -1.0"),
        ({"kind": "inverse", "unit": "m"}, "inverse depth is relative, leave unit out"),
    ],
)
def test_ambiguous_meaning_is_refused_by_file_name(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    Image.fromarray(np.ones((2, 3), np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(DepthMapError, match=re.escape(f"{tmp_path / 'a.png'}: ") + ".*" + message):
        DepthMap.read(tmp_path / "a.png", **options)


class TestRefusedArrays:
    @pytest.mark.parametrize(
        "array", [np.zeros(3), np.zeros((2, 2, 2)), np.zeros((2, 2), bool), [["a"]], np.array([[None]]), 5]
    )
    def test_not_a_map_of_numbers(self, array: npt.ArrayLike) -> None:
        with pytest.raises(DepthMapError, match="array of integers or floats"):
            inverse(array)

    @pytest.mark.parametrize("shape", [(1, 2, 3), (2, 3, 1), (1, 2, 3, 1)])
    def test_axes_of_length_one_are_no_other_map(self, shape: tuple[int, ...]) -> None:
        assert inverse(np.zeros(shape)).values.shape == (2, 3)

    @pytest.mark.parametrize(
        "array", [[[1, 2], [3]], torch.ones(1, 1, requires_grad=True), torch.ones(1, 1, dtype=torch.bfloat16)]
    )
    def test_not_an_array(self, array: Any) -> None:
        with pytest.raises(DepthMapError, match="not an array of numbers"):
            inverse(array)

    @pytest.mark.parametrize("shape", [(0, 0), (0, 4), (4, 0)])
    def test_empty(self, shape: tuple[int, int]) -> None:
        with pytest.raises(DepthMapError, match="at least one pixel"):
            inverse(np.zeros(shape))

    def test_negative_metric_depth(self) -> None:
        array = [[1.0, -1.0, -2.0]]
        with pytest.raises(DepthMapError, match=r"2 pixels of metric depth are negative, such as -1\.0.*invalid="):
            metric(array, unit="m")
        assert metric(array, unit="m", invalid=(-1, -2)).valid.tolist() == [[True, False, False]]

    @pytest.mark.parametrize("kind", ["metric", "inverse"])
    def test_numbers_beyond_float32(self, kind: Any) -> None:
        with pytest.raises(DepthMapError, match=r"1 pixels marked valid are not .*finite as float32"):
            DepthMap.from_array([[1.0, 1e300]], kind=kind, scale=1.0)

    def test_metres_that_vanish_in_float32(self) -> None:
        with pytest.raises(DepthMapError, match="not positive and finite"):
            metric([[1.0]], scale=1e-60)

    @pytest.mark.parametrize(
        ("values", "valid", "message"),
        [
            (np.ones((1, 2)), np.ones((1, 2), bool), "float32, not float64; DepthMap"),
            ([[1.0]], np.ones((1, 1), bool), "float32, not list"),
            (np.ones((1, 2), np.float32), np.ones((2, 1), bool), "one shape"),
            (np.zeros((1, 2), np.float32), np.ones((1, 2), bool), "2 pixels marked valid are not positive"),
            (np.full((1, 2), np.nan, np.float32), np.ones((1, 2), bool), "2 pixels marked valid"),
        ],
    )
    def test_the_constructor_checks(self, values: Any, valid: Any, message: str) -> None:
        with pytest.raises(DepthMapError, match=message):
            DepthMap(values, valid, "metric")


class TestUnreadablePaths:
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("a.jpg", "JPEG is lossy"),
            ("a.JPEG", "JPEG is lossy"),
            ("a.webp", r"'\.webp' is not one of a depth map; supported are \.exr, \.npy, .*\.tiff"),
            ("a.pkl", "is not one of a depth map"),
            ("depth", "the extension '' is not one"),
            ("missing.png", "file not found"),
            ("folder.png", r"cannot be read \(is a folder\)"),
        ],
    )
    def test_named_with_a_remedy(self, tmp_path: Path, name: str, message: str) -> None:
        (tmp_path / "folder.png").mkdir()
        with pytest.raises(DepthMapError, match=message) as caught:
            DepthMap.read(tmp_path / name, kind="inverse")
        assert str(tmp_path / name) in str(caught.value)

    def test_no_permission(self) -> None:
        with tempfile.TemporaryDirectory() as name:  # tmp_path is closed to other users as a whole
            folder = Path(name) / "locked"
            folder.mkdir()
            inverse([[1]]).write(folder / "a.npy")
            folder.chmod(0)
            Path(name).chmod(0o755)
            user = os.geteuid()
            if user == 0:
                os.seteuid(65534)
            try:
                with pytest.raises(DepthMapError, match=r"a\.npy: cannot be read \(Permission denied\)"):
                    DepthMap.read(folder / "a.npy", kind="inverse")
                with pytest.raises(OutputError, match=r"cannot write .*b\.npy: Permission denied"):
                    inverse([[1]]).write(folder / "b.npy")
            finally:
                os.seteuid(user)
                folder.chmod(0o755)


class TestRefusedWrites:
    @pytest.mark.parametrize(
        ("depth", "name", "options", "message"),
        [
            (metric([[65.536]], unit="m"), "a.png", {}, "65536 in this unit, but 16 bits hold at most 65535"),
            (
                metric([[0.3]], unit="m"),
                "a.png",
                {"bits": 8},
                "300 in this unit, but 8 bits hold at most 255",
            ),
            (metric([[0.0004]], unit="m"), "a.png", {}, "1 valid pixels would round to 0.*finer unit"),
            (metric([[1e38]], unit="m"), "a.npy", {"unit": "mm"}, "do not fit float32"),
            (metric([[1]], unit="m"), "a.png", {"unit": "mm", "scale": 1.0}, "twice"),
            (metric([[1]], unit="m"), "a.png", {"bits": 32}, "PNG is written with bits = 16 or 8, not 32"),
            (metric([[1]], unit="m"), "a.npy", {"bits": 16}, "NPY is written with bits = 32, not 16"),
            (metric([[1]], unit="m"), "a.jpg", {}, "JPEG is lossy"),
            (inverse([[1.5, 0]]), "a.png", {}, r"inverse maps in \[0, 1\]; this goes from 0.0 to 1.5"),
            (inverse([[-0.5, 0]]), "a.png", {"bits": 8}, "goes from -0.5"),
            (inverse([[0.5, np.nan]]), "a.png", {}, "1 pixels are holes, which integers cannot mark"),
            (inverse([[0.5]]), "a.png", {"unit": "mm"}, "unit and scale are for metric maps"),
            (inverse([[0.5]]), "a.npy", {"scale": 2.0}, "unit and scale are for metric maps"),
        ],
    )
    def test_nothing_is_clipped_and_nothing_left(
        self, tmp_path: Path, depth: DepthMap, name: str, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(DepthMapError, match=message) as caught:
            depth.write(tmp_path / name, **options)
        assert str(tmp_path / name) in str(caught.value)
        assert list(tmp_path.iterdir()) == []

    def test_existing_file(self, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        metric([[1]], unit="m").write(path)
        with pytest.raises(OutputError, match="exists already"):
            metric([[2]], unit="m").write(path)
        assert DepthMap.read(path, kind="metric", unit="mm").values == 1
        metric([[2]], unit="m").write(path, force=True)
        assert DepthMap.read(path, kind="metric", unit="mm").values == 2

    @pytest.mark.parametrize("suffix", [".exr", ".npy", ".npz", ".pfm", ".png", ".tif"])
    def test_full_disk(self, tmp_path: Path, suffix: str) -> None:
        noise = inverse(np.random.default_rng(0).random((64, 64)))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            with pytest.raises(OutputError, match=rf"cannot write .*a\{suffix}: File too large"):
                noise.write(tmp_path / f"a{suffix}")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert list(tmp_path.iterdir()) == []


class TestFromArray:
    @pytest.mark.parametrize(("dtype", "largest"), [("u1", 255), ("u2", 65535)])
    def test_integers_of_either_byte_order_are_scaled(self, dtype: str, largest: int) -> None:
        numbers = np.array([[0, 77, largest]])
        for order in "<>=":
            depth = DepthMap.from_array(numbers.astype(np.dtype(dtype).newbyteorder(order)), kind="inverse")
            assert np.array_equal(depth.values, (numbers / largest).astype(np.float32))
        assert DepthMap.from_array(np.array([[4998]], ">u2"), kind="inverse").values[0, 0] == np.float32(4998 / 65535)

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_metric_numbers_of_either_byte_order(self, order: str) -> None:
        for dtype in ("u2", "i4", "f4", "f8"):
            depth = DepthMap.from_array(np.array([[1500, 2500]], f"{order}{dtype}"), kind="metric", unit="mm")
            assert depth.values.tolist() == [[1.5, 2.5]]

    def test_masks_of_masked_arrays_are_holes(self) -> None:
        array = np.ma.array([[1.0, -5.0, 3.0]], mask=[[False, True, False]])
        depth = DepthMap.from_array(array, kind="metric", unit="m")
        assert depth.valid.tolist() == [[True, False, True]]
        both = DepthMap.from_array(array, kind="metric", unit="m", valid=[[True, True, False]])
        assert both.valid.tolist() == [[True, False, False]]
        hidden = np.ma.array([[True, True, True]], mask=[[True, False, False]])
        assert DepthMap.from_array([[1, 2, 3]], kind="inverse", valid=hidden).valid.tolist() == [[False, True, True]]

    def test_a_masked_array_without_holes(self) -> None:
        assert DepthMap.from_array(np.ma.array([[1.0, 2.0]]), kind="inverse").valid.all()
