"""TIFF: every number is that of the array that was written, whatever the byte order, width, compression and layout."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from perceptok.depth import DepthMap
from perceptok.depth.formats.registry import read_stored
from perceptok.errors import DepthMapError
from tests.depth.formats.test_formats import image_bytes, read, refused

DTYPES = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]
LAYOUTS: list[dict[str, Any]] = [{}, {"rowsperstrip": 7}, {"tile": (16, 32)}]


def numbers(dtype: str) -> np.ndarray:
    rows = np.arange(1000, 3000).reshape(40, 50) if dtype[1] != "1" else np.arange(2000).reshape(40, 50) % 127
    return rows.astype(dtype)


class TestEveryNumber:
    @pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd", "lzma", "packbits"])
    @pytest.mark.parametrize("byteorder", ["<", ">"])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_compressions_orders_widths_and_layouts(
        self, tmp_path: Path, dtype: str, byteorder: Any, compression: str | None
    ) -> None:
        array = numbers(dtype)
        for layout in LAYOUTS:
            tifffile.imwrite(tmp_path / "a.tif", array, byteorder=byteorder, compression=compression, **layout)
            stored = read_stored(tmp_path / "a.tif").array
            assert stored.dtype == array.dtype
            assert stored.dtype.isnative
            assert np.array_equal(stored, array)

    @pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd"])
    @pytest.mark.parametrize("byteorder", ["<", ">"])
    @pytest.mark.parametrize(
        ("predictor", "dtypes"), [(2, ["u1", "u2", "u4", "i2", "i4", "u8"]), (3, ["f2", "f4", "f8"])]
    )
    def test_predictors(
        self, tmp_path: Path, predictor: int, dtypes: list[str], byteorder: Any, compression: str
    ) -> None:
        for dtype in dtypes:
            for layout in LAYOUTS:
                tifffile.imwrite(
                    tmp_path / "a.tif",
                    numbers(dtype),
                    byteorder=byteorder,
                    compression=compression,
                    predictor=predictor,
                    **layout,
                )
                assert np.array_equal(read_stored(tmp_path / "a.tif").array, numbers(dtype))

    def test_the_reported_file(self, tmp_path: Path) -> None:
        array = np.arange(1000, 3000, dtype="f4").reshape(40, 50)
        tifffile.imwrite(tmp_path / "a.tif", array, byteorder=">", compression="zlib")
        assert np.array_equal(DepthMap.read(tmp_path / "a.tif", kind="metric", unit="m").values, array)

    @pytest.mark.parametrize("bigtiff", [False, True])
    @pytest.mark.parametrize("planar", ["contig", "separate"])
    def test_equal_channels_in_either_arrangement(self, tmp_path: Path, planar: Any, bigtiff: bool) -> None:
        gray = numbers("u2")
        array = np.repeat(gray[..., None], 3, axis=-1)
        written = np.moveaxis(array, -1, 0) if planar == "separate" else array
        tifffile.imwrite(
            tmp_path / "a.tif", written, photometric="rgb", planarconfig=planar, byteorder=">", bigtiff=bigtiff
        )
        assert np.array_equal(read_stored(tmp_path / "a.tif").array, gray)

    @pytest.mark.parametrize(("dtype", "opaque"), [("u1", 255), ("u2", 65535), ("f4", 1)])
    def test_opaque_alpha(self, tmp_path: Path, dtype: str, opaque: float) -> None:
        gray = numbers(dtype)
        array = np.stack([gray] * 3 + [np.full_like(gray, opaque)], axis=-1)
        tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", extrasamples=["unassalpha"])
        assert np.array_equal(read_stored(tmp_path / "a.tif").array, gray)
        array[0, 0, 3] = 0
        tifffile.imwrite(tmp_path / "b.tif", array, photometric="rgb", extrasamples=["unassalpha"])
        refused(tmp_path, "b.tif", (tmp_path / "b.tif").read_bytes(), "transparent")

    def test_orientation_is_undone_as_exif_says(self, tmp_path: Path) -> None:
        gray = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
        turn = Image.Transpose
        upright = {
            1: gray,
            2: gray.transpose(turn.FLIP_LEFT_RIGHT),
            3: gray.transpose(turn.ROTATE_180),
            4: gray.transpose(turn.FLIP_TOP_BOTTOM),
            5: gray.transpose(turn.TRANSPOSE),
            6: gray.transpose(turn.ROTATE_270),
            7: gray.transpose(turn.TRANSVERSE),
            8: gray.transpose(turn.ROTATE_90),
        }
        for orientation, expected in upright.items():
            (tmp_path / "a.tif").write_bytes(image_bytes(gray, "TIFF", tiffinfo={274: orientation}))
            assert np.array_equal(read_stored(tmp_path / "a.tif").array, np.asarray(expected))
        (tmp_path / "a.tif").write_bytes(image_bytes(gray, "TIFF", tiffinfo={274: 9}))
        refused(tmp_path, "a.tif", (tmp_path / "a.tif").read_bytes(), "orientation 9")

    def test_overviews_are_not_the_map(self, tmp_path: Path) -> None:
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            file.write(numbers("f4"))
            file.write(numbers("f4")[::2, ::2], subfiletype=1)
        assert np.array_equal(read_stored(tmp_path / "a.tif").array, numbers("f4"))


class TestNodata:
    @pytest.mark.parametrize(
        ("dtype", "nodata", "holes"),
        [
            ("f4", "-9999", [[True, False]]),
            ("f4", "nan", [[False, False]]),
            ("f4", "-3.4028234663852886e+38", [[False, False]]),
            ("i2", "-9999", [[True, False]]),
            ("u2", "7", [[False, True]]),
            ("u2", "-9999", [[False, False]]),
            ("u2", "nan", [[False, False]]),
            ("u2", "7.5", [[False, False]]),
        ],
    )
    def test_declared_holes(self, tmp_path: Path, dtype: str, nodata: str, holes: list[list[bool]]) -> None:
        array = np.array([[-9999, 7]]).astype(dtype)
        tifffile.imwrite(tmp_path / "a.tif", array, extratags=[(42113, 2, 0, nodata, True)])
        valid = DepthMap.read(tmp_path / "a.tif", kind="inverse").valid
        assert (~valid).tolist() == holes

    def test_no_number(self, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "a.tif", numbers("f4"), extratags=[(42113, 2, 0, "none", True)])
        refused(tmp_path, "a.tif", (tmp_path / "a.tif").read_bytes(), "'none' as the value of holes")


class TestRefusals:
    def test_pages_bits_and_white(self, tmp_path: Path) -> None:
        gray = Image.fromarray(np.zeros((3, 4), np.uint8))
        pages = image_bytes(gray, "TIFF", save_all=True, append_images=[gray])
        refused(tmp_path, "pages.tif", pages, "several pages")
        refused(tmp_path, "bits.tif", image_bytes(gray.convert("1"), "TIFF"), r"samples of 1 bits")
        white = bytearray(image_bytes(Image.fromarray(np.zeros((3, 4), np.uint16)), "TIFF"))
        entry = white.index(struct.pack("<HHIH", 262, 3, 1, 1))
        white[entry + 8] = 0
        refused(tmp_path, "white.tif", bytes(white), "0 is white")

    def test_photos_complex_numbers_and_loss(self, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 4), np.complex64))
        refused(tmp_path, "a.tif", (tmp_path / "a.tif").read_bytes(), "not complex")
        tifffile.imwrite(tmp_path / "b.tif", numbers("u1"), compression="jpeg")
        refused(tmp_path, "b.tif", (tmp_path / "b.tif").read_bytes(), "with loss")
        photo = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
        refused(tmp_path, "c.tif", image_bytes(Image.fromarray(photo), "TIFF"), "colour channels differ")
        tifffile.imwrite(tmp_path / "d.tif", np.zeros((3, 4, 5), np.uint8), planarconfig="contig", photometric=1)
        refused(tmp_path, "d.tif", (tmp_path / "d.tif").read_bytes(), "5 channels")

    @pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
    @pytest.mark.parametrize("byteorder", ["<", ">"])
    def test_cut_off_anywhere_in_the_pixels(self, tmp_path: Path, byteorder: Any, compression: str | None) -> None:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, numbers("f4"), byteorder=byteorder, compression=compression, rowsperstrip=9)
        data = buffer.getvalue()
        for length in range(0, len(data), 61):
            refused(tmp_path, "a.tif", data[:length], "export it again|the extension of what it is|is empty")


class TestWithoutTheExtra:
    """In an interpreter that finds no imagecodecs."""

    def run(self, path: Path) -> subprocess.CompletedProcess[str]:
        script = (
            "import sys; sys.modules['imagecodecs'] = None\n"
            "from perceptok.depth import DepthMap\n"
            f"print(DepthMap.read({str(path)!r}, kind='metric', unit='m').values.sum())"
        )
        return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    @pytest.mark.parametrize(
        ("dtype", "byteorder", "compression"), [("f4", ">", "zlib"), ("f4", "<", "lzw"), ("u2", ">", "lzw")]
    )
    def test_deflate_and_what_pillow_reads_right(
        self, tmp_path: Path, dtype: str, byteorder: Any, compression: str
    ) -> None:
        tifffile.imwrite(tmp_path / "a.tif", numbers(dtype), byteorder=byteorder, compression=compression)
        done = self.run(tmp_path / "a.tif")
        assert float(done.stdout) == numbers(dtype).sum(dtype=np.float64), done.stderr

    def test_the_others_name_it(self, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "a.tif", numbers("f4"), byteorder=">", compression="lzw")
        done = self.run(tmp_path / "a.tif")
        assert done.returncode == 1
        assert "MissingExtraError" in done.stderr
        assert "pip install 'perceptok[tiff]'" in done.stderr


def test_palettes_are_gray_or_refused(tmp_path: Path) -> None:
    gray = np.array([[0, 9, 200], [200, 0, 9]], np.uint8)
    image = Image.fromarray(gray).convert("P")
    assert np.array_equal(read(tmp_path, "a.tif", image_bytes(image, "TIFF"), scale=1.0).values, gray)
    image.putpalette([value for index in range(256) for value in (index, 255 - index, 40)])
    refused(tmp_path, "b.tif", image_bytes(image, "TIFF"), "colour-mapped image of depth")


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_a_chain_of_images_that_never_ends(tmp_path: Path, byteorder: Any, big: bool) -> None:
    """A directory that names itself as the next one; tifffile alone followed it for minutes."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, numbers("u2"), byteorder=byteorder, bigtiff=big)
    data = bytearray(path.read_bytes())
    start, pointer, count, size = (8, "Q", "Q", 20) if big else (4, "I", "H", 12)
    (first,) = struct.unpack_from(byteorder + pointer, data, start)
    (entries,) = struct.unpack_from(byteorder + count, data, first)
    struct.pack_into(byteorder + pointer, data, first + struct.calcsize(byteorder + count) + size * entries, first)
    path.write_bytes(data)
    with pytest.raises(DepthMapError, match="chain of images that does not end"):
        read_stored(path)
