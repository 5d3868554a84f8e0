"""EXR: which channel is depth, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from perceptok.depth import DepthMap
from perceptok.errors import DepthMapError, MissingExtraError


class TestExr:
    """Reading and writing."""

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint32])
    @pytest.mark.parametrize("channel", ["Z", "Y", "V", "depth", "ViewLayer.Depth.Z"])
    def test_a_single_channel_has_any_name(self, tmp_path: Path, dtype: type[Any], channel: str) -> None:
        array = np.arange(6).reshape(2, 3).astype(dtype)
        write_exr(tmp_path / "a.exr", {channel: array})
        assert np.array_equal(DepthMap.read(tmp_path / "a.exr", kind="inverse").values, array)

    def test_depth_among_colours(self, tmp_path: Path) -> None:
        colours = {name: np.full((2, 3), index, np.float32) for index, name in enumerate("RGBA")}
        depth = np.arange(6, dtype=np.float32).reshape(2, 3)
        write_exr(tmp_path / "a.exr", colours | {"Z": depth})
        assert np.array_equal(DepthMap.read(tmp_path / "a.exr", kind="inverse").values, depth)

    def test_equal_colours_are_depth_and_others_refused(self, tmp_path: Path) -> None:
        depth = np.arange(6, dtype=np.float32).reshape(2, 3)
        write_exr(tmp_path / "a.exr", dict.fromkeys("RGB", depth))
        assert np.array_equal(DepthMap.read(tmp_path / "a.exr", kind="inverse").values, depth)
        write_exr(tmp_path / "b.exr", {"R": depth, "G": depth, "B": depth + 1})
        with pytest.raises(DepthMapError, match=r"b\.exr: its colour channels differ"):
            DepthMap.read(tmp_path / "b.exr", kind="inverse")
        write_exr(tmp_path / "c.exr", {"U": depth, "V": depth})
        with pytest.raises(DepthMapError, match=r"c\.exr: has the channels \['U', 'V'\].*named Z"):
            DepthMap.read(tmp_path / "c.exr", kind="inverse")

    def test_a_window_is_refused(self, tmp_path: Path) -> None:
        window = (np.array([0, 0], np.int32), np.array([9, 9], np.int32))
        write_exr(tmp_path / "a.exr", {"Z": np.ones((2, 3), np.float32)}, displayWindow=window)
        with pytest.raises(DepthMapError, match=r"a\.exr: stores only a window"):
            DepthMap.read(tmp_path / "a.exr", kind="inverse")

    def test_without_the_extra(self, tmp_path: Path) -> None:
        """In an interpreter that finds no OpenEXR."""
        script = (
            "import sys; sys.modules['OpenEXR'] = None\n"
            "from perceptok.depth import DepthMap\n"
            f"DepthMap.from_array([[1]], kind='inverse').write({str(tmp_path / 'a.exr')!r})"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert f"{MissingExtraError.__name__}: writing EXR needs OpenEXR" in done.stderr
        assert "pip install 'perceptok[exr]'" in done.stderr
        assert list(tmp_path.iterdir()) == []


SIZE = (2, 3)
DEPTH = np.arange(6, dtype=np.float32).reshape(SIZE)
OTHER = np.full(SIZE, 7, np.float32)


def channels(depth: str | None, *others: str) -> dict[str, npt.NDArray[Any]]:
    return dict.fromkeys(others, OTHER) | ({depth: DEPTH} if depth else {})


class TestWhichChannelIsDepth:
    @pytest.mark.parametrize(
        ("depth", "others"),
        [
            ("Z", ["R", "G", "B", "A", "Normal.X", "Normal.Y", "Normal.Z"]),
            ("Z", ["R", "G", "B", "A", "NX", "NY", "NZ"]),
            ("Z", ["R", "G", "B", "A", "N.x", "N.y", "N.z"]),
            ("Z", ["A", "ZBack"]),
            ("Z", ["Y"]),
            ("z", ["R", "G", "B"]),
            ("Depth.Z", ["Normal.Z"]),
            ("Depth.Z", ["Normal.X", "Normal.Y", "Normal.Z"]),
            ("Depth.V", ["R", "G", "B"]),
            ("ViewLayer.Depth.Y", ["ViewLayer.Combined.R", "ViewLayer.Combined.G", "ViewLayer.Combined.B"]),
            ("ViewLayer.Depth.Z", ["ViewLayer.Mist.Z", "ViewLayer.Vector.Z", "ViewLayer.Vector.X"]),
            ("depth", ["X", "Y", "Z"]),
            ("Camera.depth", ["Camera.X", "Camera.Y", "Camera.Z"][1:]),
            ("left.Z", ["left.R", "left.G", "left.B"]),
            ("SceneDepth.R", ["Final.R", "Final.G", "Final.B"]),
        ],
    )
    def test_by_its_name(self, tmp_path: Path, depth: str, others: list[str]) -> None:
        write_exr(tmp_path / "a.exr", channels(depth, *others))
        assert np.array_equal(DepthMap.read(tmp_path / "a.exr", kind="inverse").values, DEPTH)

    @pytest.mark.parametrize(
        "names",
        [
            ["X", "Y", "Z"],
            ["x", "y", "z"],
            ["Normal.X", "Normal.Y", "Normal.Z"],
            ["R", "G", "B", "X", "Y", "Z"],
            ["R", "G", "B", "Normal.Z"],
            ["Position.Z"],
            ["Normal.Z"],
            ["A"],
            ["X"],
            ["left.Z", "right.Z"],
            ["Depth.Z", "DenoisingDepth.Z"],
            ["U", "V"],
        ],
    )
    def test_ambiguous_or_something_else(self, tmp_path: Path, names: list[str]) -> None:
        write_exr(tmp_path / "a.exr", channels(None, *names))
        with pytest.raises(DepthMapError, match=r"a\.exr: has the channels \[.*--channel") as caught:
            DepthMap.read(tmp_path / "a.exr", kind="inverse")
        assert all(repr(name) in str(caught.value) for name in names)

    def test_a_channel_that_is_named(self, tmp_path: Path) -> None:
        write_exr(tmp_path / "a.exr", channels("left.Z", "right.Z"))
        assert np.array_equal(DepthMap.read(tmp_path / "a.exr", kind="inverse", channel="left.Z").values, DEPTH)
        with pytest.raises(DepthMapError, match=r"no channel 'Z'; its channels are \['left.Z', 'right.Z'\]"):
            DepthMap.read(tmp_path / "a.exr", kind="inverse", channel="Z")

    @pytest.mark.parametrize("layer", ["", "ViewLayer.Combined."])
    def test_gray_with_opaque_alpha_as_its_png_twin(self, tmp_path: Path, layer: str) -> None:
        gray = {f"{layer}{name}": DEPTH for name in "RGB"}
        write_exr(tmp_path / "a.exr", gray | {f"{layer}A": np.ones(SIZE, np.float32)})
        assert np.array_equal(DepthMap.read(tmp_path / "a.exr", kind="inverse").values, DEPTH)
        write_exr(tmp_path / "b.exr", gray | {f"{layer}A": np.full(SIZE, 0.5, np.float32)})
        with pytest.raises(DepthMapError, match="transparent"):
            DepthMap.read(tmp_path / "b.exr", kind="inverse")


def write_exr(path: Path, channels: dict[str, npt.NDArray[Any]], **header: Any) -> None:
    import OpenEXR

    whole = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage, **header}
    OpenEXR.File(whole, channels).write(str(path))


class TestParts:
    def write(self, path: Path, **parts: dict[str, npt.NDArray[Any]]) -> None:
        import OpenEXR

        header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
        made = [OpenEXR.Part({**header, "name": name}, channels) for name, channels in parts.items()]
        OpenEXR.File(made).write(str(path))

    def test_the_only_part_of_depth_or_the_named_one(self, tmp_path: Path) -> None:
        colours = {"R": DEPTH, "G": DEPTH * 2, "B": DEPTH * 3}
        self.write(tmp_path / "a.exr", rgb=colours, depth={"V": DEPTH + 1})
        assert np.array_equal(DepthMap.read(tmp_path / "a.exr", kind="inverse").values, DEPTH + 1)
        self.write(tmp_path / "b.exr", rgb=colours, left={"Z": DEPTH}, right={"Z": DEPTH + 5})
        for part in ("right", "2"):
            assert np.array_equal(DepthMap.read(tmp_path / "b.exr", kind="inverse", part=part).values, DEPTH + 5)
        with pytest.raises(DepthMapError, match=r"2 of its 3 parts may be depth; .*--part.*2: right \(Z\)"):
            DepthMap.read(tmp_path / "b.exr", kind="inverse")
        with pytest.raises(DepthMapError, match="has no part 'top'"):
            DepthMap.read(tmp_path / "b.exr", kind="inverse", part="top")

    def test_depth_in_one_colour(self, tmp_path: Path) -> None:
        zeros = np.zeros(SIZE, np.float32)
        write_exr(tmp_path / "a.exr", {"R": DEPTH, "G": zeros, "B": zeros})
        with pytest.raises(DepthMapError, match=r"only its channel R has numbers.*--channel R\)"):
            DepthMap.read(tmp_path / "a.exr", kind="inverse")
        assert np.array_equal(DepthMap.read(tmp_path / "a.exr", kind="inverse", channel="R").values, DEPTH)
