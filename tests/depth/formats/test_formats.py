"""Every file format: what is written is read back; what cannot be read is refused by name, with a remedy."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from perceptok.depth import FORMATS, DepthMap, Kind
from perceptok.depth.formats.png import decode_png, encode_png
from perceptok.depth.stored_maps import StoredMap
from perceptok.errors import DepthMapError

FLOAT_FORMATS = [".exr", ".npy", ".npz", ".pfm", ".tif"]
SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)
SIZES = st.floats(2.0**-100, 2.0**100, width=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("formats")


def same(one: DepthMap, other: DepthMap) -> bool:
    return (
        one.kind == other.kind
        and np.array_equal(one.valid, other.valid)
        and np.array_equal(one.values[one.valid], other.values[other.valid])
    )


def png(rows: npt.NDArray[np.uint8], width: int, bits: int, colour_type: int, extra: bytes = b"") -> bytes:
    """A PNG of raw rows (height, bytes per row)."""
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def image_bytes(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def read(folder: Path, name: str, data: bytes, **options: Any) -> DepthMap:
    path = folder / name
    path.write_bytes(data)
    return DepthMap.read(path, **({"kind": "inverse"} | options))


def refused(folder: Path, name: str, data: bytes, message: str, **options: Any) -> None:
    with pytest.raises(DepthMapError, match=message) as caught:
        read(folder, name, data, **options)
    assert str(folder / name) in str(caught.value)


class TestWrittenIsRead:
    @settings(max_examples=40)
    @given(data=st.data(), suffix=st.sampled_from(FLOAT_FORMATS), metric=st.booleans())
    def test_floats(self, folder: Path, data: st.DataObject, suffix: str, metric: bool) -> None:
        elements = SIZES if metric else st.one_of(SIZES, SIZES.map(lambda size: -size), st.just(0.0))
        values = data.draw(hnp.arrays(np.float32, SHAPES, elements=elements))
        valid = data.draw(hnp.arrays(np.bool_, values.shape))
        kind: Kind = "metric" if metric else "inverse"
        depth = DepthMap(values, valid, kind)
        depth.write(folder / f"a{suffix}", force=True)
        options: dict[str, Any] = {"kind": kind, "unit": "m" if metric else None}
        assert same(DepthMap.read(folder / f"a{suffix}", **({} if suffix == ".npz" else options)), depth)

    @settings(max_examples=40)
    @given(
        stored=hnp.arrays(np.uint16, SHAPES),
        suffix=st.sampled_from([".png", ".tiff"]),
        scale=st.sampled_from([None, 0.001, 0.0001, 0.00195312, 1.0, 1 / 256]),
    )
    def test_sixteen_bit_metric(
        self, folder: Path, stored: npt.NDArray[np.uint16], suffix: str, scale: float | None
    ) -> None:
        """Every 16-bit number survives the way to metres and back to the file."""
        factor: dict[str, Any] = {"unit": "mm"} if scale is None else {"scale": scale}
        depth = DepthMap.from_array(stored, kind="metric", **factor)
        assert np.array_equal(depth.valid, stored != 0)
        path = folder / f"b{suffix}"
        depth.write(path, bits=16, force=True, **factor)
        with Image.open(path) as image:
            assert image.mode == "I;16"
            assert np.array_equal(np.asarray(image), stored)
        assert same(DepthMap.read(path, kind="metric", **factor), depth)

    @settings(max_examples=40)
    @given(data=st.data(), bits=st.sampled_from([8, 16]), suffix=st.sampled_from([".png", ".tif"]))
    def test_integer_inverse(self, folder: Path, data: st.DataObject, bits: Any, suffix: str) -> None:
        stored = data.draw(hnp.arrays(f"u{bits // 8}", SHAPES))
        depth = DepthMap.from_array(stored, kind="inverse")
        path = folder / f"c{suffix}"
        depth.write(path, bits=bits, force=True)
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(image), stored)
        assert same(DepthMap.read(path, kind="inverse"), depth)

    def test_defaults_are_millimetres_in_16_bit_png_and_metres_in_floats(self, tmp_path: Path) -> None:
        depth = DepthMap.from_array([[1.234, 0]], kind="metric", unit="m")
        for suffix in (".png", ".npy"):
            depth.write(tmp_path / f"a{suffix}")
        assert np.asarray(Image.open(tmp_path / "a.png")).tolist() == [[1234, 0]]
        assert np.array_equal(np.load(tmp_path / "a.npy"), np.array([[1.234, np.nan]], np.float32), equal_nan=True)

    def test_upper_case_extension(self, tmp_path: Path) -> None:
        depth = DepthMap.from_array([[1, 2]], kind="metric", unit="m")
        depth.write(tmp_path / "A.PFM")
        assert same(DepthMap.read(tmp_path / "A.PFM", kind="metric", unit="m"), depth)


class TestDamage:
    @pytest.mark.parametrize("suffix", sorted(FORMATS))
    def test_empty_file(self, tmp_path: Path, suffix: str) -> None:
        refused(tmp_path, f"a{suffix}", b"", "is empty")

    @pytest.mark.parametrize("suffix", sorted(FORMATS))
    @pytest.mark.parametrize("junk", [b"\0", b"junk" * 100, pickle.dumps({"depth": [1, 2]})])
    def test_junk(self, tmp_path: Path, suffix: str, junk: bytes) -> None:
        refused(tmp_path, f"a{suffix}", junk, "does not begin like")

    @pytest.mark.parametrize("suffix", sorted(FORMATS))
    def test_cut_off_anywhere(self, tmp_path: Path, suffix: str) -> None:
        DepthMap.from_array(np.linspace(0, 1, 35).reshape(5, 7), kind="inverse").write(tmp_path / f"whole{suffix}")
        data = (tmp_path / f"whole{suffix}").read_bytes()
        for length in range(len(data)):
            refused(
                tmp_path,
                f"cut{suffix}",
                data[:length],
                "export it again|the extension of what it is|store it with",
            )

    @pytest.mark.parametrize("suffix", [".npy", ".npz", ".pfm", ".png", ".tif"])
    def test_any_flipped_byte_is_refused_or_harmless(self, tmp_path: Path, suffix: str) -> None:
        """No other exception than our own; of PNG, with its checksums, every byte counts."""
        DepthMap.from_array(np.linspace(0, 1, 35).reshape(5, 7), kind="inverse").write(tmp_path / f"whole{suffix}")
        data = (tmp_path / f"whole{suffix}").read_bytes()
        for position in range(len(data)):
            damaged = data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :]
            if suffix == ".png":
                refused(tmp_path, "damaged.png", damaged, "export it again|does not begin like a PNG")
                continue
            try:
                read(tmp_path, f"damaged{suffix}", damaged, kind=None if suffix == ".npz" else "inverse")
            except DepthMapError as error:
                assert f"damaged{suffix}" in str(error)  # noqa: PT017 - most damage to pixels cannot be seen

    def test_a_large_header_does_not_take_the_memory(self, tmp_path: Path) -> None:
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (999999999, 999999999), }\n"
        data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)
        refused(tmp_path, "a.npy", data, "damaged")
        refused(tmp_path, "a.pfm", b"Pf\n999999999 999999999\n-1\n" + bytes(64), "64 follow the header")


class TestPng:
    @pytest.mark.parametrize("installed", [True, False])
    @pytest.mark.parametrize("shape", [(1, 1), (3, 5), (256, 3), (257, 2), (600, 70)])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_pillow_reads_what_is_written_with_and_without_isal(
        self, monkeypatch: pytest.MonkeyPatch, installed: bool, shape: tuple[int, int], dtype: Any
    ) -> None:
        if installed:
            pytest.importorskip("isal")
        else:
            monkeypatch.setitem(sys.modules, "isal", None)
        rng = np.random.default_rng(0)
        noise = rng.integers(np.iinfo(dtype).max, size=shape, dtype=dtype, endpoint=True)
        for array in (noise, np.sort(noise, 0), noise[::-1, ::-1], np.zeros_like(noise), np.asfortranarray(noise)):
            data = encode_png(StoredMap(array))
            with Image.open(io.BytesIO(data)) as image:
                assert image.mode == ("L" if dtype == np.uint8 else "I;16")
                assert np.array_equal(np.asarray(image), array)
            assert np.array_equal(decode_png(data).array, array)

    def test_smooth_maps_become_smaller_than_their_pixels(self) -> None:
        y, x = np.mgrid[:320, :320]
        smooth = (100 * x + 3 * y).astype(np.uint16)
        assert len(encode_png(StoredMap(smooth))) < smooth.nbytes / 20

    def test_eight_and_sixteen_bits_keep_every_number(self, tmp_path: Path) -> None:
        eight = np.arange(256, dtype=np.uint8).reshape(16, 16)
        sixteen = np.arange(65536, dtype=np.uint16).reshape(256, 256)
        for array in (eight, sixteen):
            data = image_bytes(Image.fromarray(array), "PNG")
            assert np.array_equal(read(tmp_path, "a.png", data, scale=1.0).values, array)

    @pytest.mark.parametrize(("mode", "channels"), [("LA", 2), ("RGB", 3), ("RGBA", 4)])
    def test_equal_channels_are_one(self, tmp_path: Path, mode: str, channels: int) -> None:
        gray = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
        array = np.repeat(gray[..., None], channels, axis=-1)
        if channels in (2, 4):
            array[..., -1] = 255
        image = Image.fromarray(array)
        assert image.mode == mode
        assert np.array_equal(read(tmp_path, "a.png", image_bytes(image, "PNG"), scale=1.0).values, gray)
        array[2, 3, -1] = 254
        message = "transparent" if channels in (2, 4) else "colour channels differ"
        refused(tmp_path, "b.png", image_bytes(Image.fromarray(array), "PNG"), message)

    def test_gray_palette_is_read_and_colour_map_refused(self, tmp_path: Path) -> None:
        gray = np.array([[0, 9, 200], [200, 0, 9]], np.uint8)
        image = Image.fromarray(gray).convert("P")
        assert np.array_equal(read(tmp_path, "a.png", image_bytes(image, "PNG"), scale=1.0).values, gray)
        image.putpalette([value for index in range(256) for value in (index, 255 - index, 40)])
        refused(
            tmp_path,
            "b.png",
            image_bytes(image, "PNG"),
            "colour-mapped image of depth.*export the map itself",
        )

    def test_photo(self, tmp_path: Path) -> None:
        photo = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
        refused(tmp_path, "a.png", image_bytes(Image.fromarray(photo), "PNG"), "or a photo")

    @pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)])
    def test_sixteen_bit_colour_is_not_cut_to_eight(self, tmp_path: Path, colour_type: int, channels: int) -> None:
        rows = np.repeat(np.arange(12, dtype=">u2").reshape(3, 4, 1), channels, axis=-1).reshape(3, -1).view(np.uint8)
        data = png(rows, 4, 16, colour_type)
        assert np.asarray(Image.open(io.BytesIO(data))).dtype == np.uint8  # what Pillow would do
        refused(tmp_path, "a.png", data, "16-bit colour or alpha; save one channel")

    @pytest.mark.parametrize("bits", [1, 2, 4])
    def test_too_few_bits(self, tmp_path: Path, bits: int) -> None:
        refused(tmp_path, "a.png", png(np.zeros((3, bits), np.uint8), 8, bits, 0), f"stores {bits} bits per pixel")

    def test_transparent_colour_and_animation(self, tmp_path: Path) -> None:
        rows = np.zeros((3, 4), np.uint8)
        refused(tmp_path, "a.png", png(rows, 4, 8, 0, chunk(b"tRNS", b"\0\0")), "transparent colour.*invalid=")
        refused(tmp_path, "b.png", png(rows, 4, 8, 0, chunk(b"acTL", bytes(8))), "animated")

    def test_wrong_checksum_says_so(self, tmp_path: Path) -> None:
        data = bytearray(png(np.zeros((3, 4), np.uint8), 4, 8, 0))
        data[-15] ^= 1
        refused(tmp_path, "a.png", bytes(data), "wrong checksum")

    def test_jpeg_that_is_called_png(self, tmp_path: Path) -> None:
        jpeg = image_bytes(Image.fromarray(np.zeros((8, 8), np.uint8)), "JPEG")
        refused(tmp_path, "a.png", jpeg, "does not begin like a PNG; give the file the extension of what it is")


class TestPfm:
    @pytest.mark.parametrize(("order", "scale"), [("<", b"-1.0"), (">", b"1.0"), ("<", b"-1"), (">", b"1e0")])
    @pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
    def test_byte_orders_and_rows_from_the_bottom(
        self, tmp_path: Path, order: str, scale: bytes, newline: bytes
    ) -> None:
        array = np.arange(6, dtype=np.float32).reshape(2, 3)
        header = newline.join([b"Pf", b"3 2", scale, b""])
        data = header + array[::-1].astype(f"{order}f4").tobytes()
        assert np.array_equal(read(tmp_path, "a.pfm", data).values, array)

    def test_colour(self, tmp_path: Path) -> None:
        colour = np.repeat(np.arange(6, dtype="<f4").reshape(2, 3, 1), 3, axis=-1)
        colour[0, 0] = np.nan
        depth = read(tmp_path, "a.pfm", b"PF\n3 2\n-1\n" + colour[::-1].tobytes())
        assert depth.values.tolist() == [[0, 1, 2], [3, 4, 5]]
        assert not depth.valid[0, 0]
        colour[1, 1, 2] = 0
        refused(tmp_path, "b.pfm", b"PF\n3 2\n-1\n" + colour[::-1].tobytes(), "colour channels differ")

    def test_a_scale_other_than_one_must_be_decided(self, tmp_path: Path) -> None:
        data = b"Pf\n1 1\n-0.5\n" + struct.pack("<f", 3)
        refused(tmp_path, "a.pfm", data, "declares the scale 0.5.*say scale=")
        refused(tmp_path, "a.pfm", data, "declares the scale 0.5", kind="metric", unit="m")
        assert read(tmp_path, "a.pfm", data, scale=1.0).values == 3
        assert read(tmp_path, "a.pfm", data, kind="metric", scale=0.5).values == 1.5

    def test_scale_zero_and_wrong_size(self, tmp_path: Path) -> None:
        refused(tmp_path, "a.pfm", b"Pf\n1 1\n0\n" + bytes(4), "scale 0")
        refused(tmp_path, "b.pfm", b"Pf\n1 1\n-1\n" + bytes(5), "4 bytes, but 5 follow")
        refused(tmp_path, "c.pfm", b"Pf\n0 1\n-1\n", "at least one pixel")


class TestNumpyFiles:
    @pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "i2", "<i8", "f2", "<f4", ">f4", "f8"])
    def test_any_real_dtype(self, tmp_path: Path, dtype: str) -> None:
        array = np.asfortranarray(np.arange(12).reshape(3, 4).astype(dtype))
        np.save(tmp_path / "a.npy", array)
        assert np.array_equal(DepthMap.read(tmp_path / "a.npy", kind="metric", unit="m").values, array)

    def test_pickles_are_never_loaded(self, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> tuple[Any, ...]:
                return (Path.touch, (tmp_path / "sprung",))

        trap = np.empty((1, 1), object)
        trap[0, 0] = Trap()
        np.save(tmp_path / "a.npy", trap, allow_pickle=True)
        np.savez(tmp_path / "a.npz", trap, allow_pickle=True)
        (tmp_path / "b.npy").write_bytes(pickle.dumps(Trap()))
        for name in ("a.npy", "a.npz", "b.npy"):
            with pytest.raises(DepthMapError, match=rf"{name}: .*(allow_pickle|[Pp]ickle)"):
                DepthMap.read(tmp_path / name, kind="inverse")
        assert not (tmp_path / "sprung").exists()

    @pytest.mark.parametrize("shape", [(), (4,), (3, 4, 3), (1, 4, 1), (2, 1, 3, 4)])
    def test_wrong_dimensions(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        np.save(tmp_path / "a.npy", np.zeros(shape))
        with pytest.raises(DepthMapError, match=r"a\.npy: holds an array of shape .* two dimensions"):
            DepthMap.read(tmp_path / "a.npy", kind="inverse")

    @pytest.mark.parametrize("shape", [(3, 4, 1), (1, 3, 4), (1, 1, 3, 4), (1, 3, 4, 1)])
    def test_axes_of_length_one_are_none(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        array = np.arange(12.0).reshape(shape)
        np.save(tmp_path / "a.npy", array)
        flat = array.reshape(3, 4).astype(np.float32)
        assert np.array_equal(DepthMap.read(tmp_path / "a.npy", kind="inverse").values, flat)
        assert np.array_equal(DepthMap.from_array(array, kind="inverse").values, flat)

    @pytest.mark.parametrize("array", [np.zeros((2, 2), bool), np.zeros((2, 2), complex), np.full((2, 2), "a")])
    def test_not_real_numbers(self, tmp_path: Path, array: npt.NDArray[Any]) -> None:
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(DepthMapError, match=r"a\.npy: .*array of integers or floats"):
            DepthMap.read(tmp_path / "a.npy", kind="inverse")

    def test_foreign_npz(self, tmp_path: Path) -> None:
        array = np.arange(6.0).reshape(2, 3)
        np.savez_compressed(tmp_path / "a.npz", depth=array, intrinsics=np.zeros(4))
        assert np.array_equal(DepthMap.read(tmp_path / "a.npz", kind="inverse").values, array)
        np.savez(tmp_path / "b.npz", near=array, pose=np.eye(4))
        with pytest.raises(DepthMapError, match=r"2 two-dimensional arrays among \['near', 'pose'\].*--key"):
            DepthMap.read(tmp_path / "b.npz", kind="inverse")
        assert np.array_equal(DepthMap.read(tmp_path / "b.npz", kind="inverse", key="near").values, array)
        with pytest.raises(DepthMapError, match=r"no array 'far'; it holds near float64 \(2, 3\), pose"):
            DepthMap.read(tmp_path / "b.npz", kind="inverse", key="far")
        np.savez(tmp_path / "c.npz", depth=array[None, ..., None], pose=np.eye(4), mask=array > 2)
        assert np.array_equal(DepthMap.read(tmp_path / "c.npz", kind="inverse").values, array)
        masked = DepthMap.read(tmp_path / "c.npz", kind="inverse", mask_key="mask")
        assert np.array_equal(masked.valid, array > 2)

    def test_our_npz_says_everything_itself(self, tmp_path: Path) -> None:
        depth = DepthMap.from_array([[1, 0, 3]], kind="metric", unit="m")
        path = tmp_path / "a.npz"
        depth.write(path)
        assert same(DepthMap.read(path), depth)
        assert same(DepthMap.read(path, kind="metric"), depth)
        assert DepthMap.read(path, invalid=(3,)).valid.tolist() == [[True, False, False]]
        with pytest.raises(DepthMapError, match="says that it is metric, but kind='inverse'"):
            DepthMap.read(path, kind="inverse")
        with pytest.raises(DepthMapError, match="says its own unit"):
            DepthMap.read(path, unit="mm")
        with pytest.raises(DepthMapError, match="NPZ keeps metres"):
            depth.write(path, unit="mm", force=True)

    def test_our_npz_from_the_future(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", perceptok_depth_map=np.array(2), values=np.ones((2, 2)))
        with pytest.raises(DepthMapError, match="layout version 2, not 1; update"):
            DepthMap.read(tmp_path / "a.npz")

    def test_our_npz_with_a_damaged_member(self, tmp_path: Path) -> None:
        for member in (
            {"kind": np.array("disparity")},
            {"valid": np.ones((1, 3), bool)},
            {"valid": np.ones((2, 2))},
        ):
            whole = {
                "values": np.ones((2, 2), np.float32),
                "valid": np.ones((2, 2), bool),
                "kind": np.array("metric"),
            }
            np.savez(tmp_path / "a.npz", perceptok_depth_map=np.array(1), **(whole | member))
            with pytest.raises(DepthMapError, match=r"a\.npz: .*expected"):
                DepthMap.read(tmp_path / "a.npz")

    def test_a_zip_of_something_else(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
            file.writestr("readme.txt", "no arrays here")
        with pytest.raises(DepthMapError, match=r"a\.npz: "):
            DepthMap.read(tmp_path / "a.npz", kind="inverse")
