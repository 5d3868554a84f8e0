"""NumPy files: published dictionaries are read, and no code of a file is run."""

from __future__ import annotations

import io
import os
import pickle
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from perceptok.data.npy_files import DepthCodesFile, read_npy
from perceptok.depth import block_to_text
from perceptok.errors import DataError

CODES = np.arange(100).reshape(10, 10)
SPACED = " ".join(["<DEPTH_START>", *(f"<DEPTH_{code}>" for code in range(100)), "<DEPTH_END>"])


_buffer = io.BytesIO()
np.save(_buffer, {"a.png": SPACED, "b": [1, 2.5, None, (True, "x")]}, allow_pickle=True)  # type: ignore[arg-type]
WHOLE = _buffer.getvalue()


def save(path: Path, values: Any) -> Path:
    """Save as `numpy.save` does a dictionary: as an array of objects of no dimension."""
    np.save(path, values, allow_pickle=True)
    return path


def test_arrays_dictionaries_and_lists(tmp_path: Path) -> None:
    assert read_npy(save(tmp_path / "ids.npy", np.arange(3))).tolist() == [0, 1, 2]
    names = np.array(["a.jpg", "b.jpg"])
    assert read_npy(save(tmp_path / "names.npy", names)).tolist() == ["a.jpg", "b.jpg"]
    values = {"ä": "x", "b": [1, (2.5, None)], "c": {"d": True}}
    assert read_npy(save(tmp_path / "values.npy", values)) == values
    assert read_npy(save(tmp_path / "objects.npy", np.array(["a", None, 3], dtype=object))) == ["a", None, 3]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol(tmp_path: Path, protocol: int) -> None:
    array = np.array({"a": SPACED}, dtype=object)
    with (tmp_path / "values.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        pickle.dump(array, file, protocol=protocol)
    assert read_npy(tmp_path / "values.npy") == {"a": SPACED}


class _RunsCode:
    """A pickled object that makes a folder when it is loaded without restrictions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_no_code_is_run(tmp_path: Path) -> None:
    path = save(tmp_path / "codes.npy", {"a.png": _RunsCode(tmp_path / "made")})
    with pytest.raises(DataError, match=r"codes\.npy: not a NumPy file that can be read safely .*posix\.mkdir"):
        read_npy(path)
    assert not (tmp_path / "made").exists()
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        pickle.load(file)  # noqa: S301 - the file is dangerous indeed
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("value", [np.float64(1.5), bytes, Path()], ids=repr)
def test_other_types_are_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(DataError, match="can be read safely"):
        read_npy(save(tmp_path / "values.npy", {"a": value}))


def test_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.npy: cannot be read"):
        read_npy(tmp_path / "gone.npy")
    whole = save(tmp_path / "whole.npy", {"a": "b"}).read_bytes()
    for data in (b"", b"no array", whole[:60], whole[:-10], whole[:128], whole[:128] + pickle.dumps("text")):
        (tmp_path / "bad.npy").write_bytes(data)
        with pytest.raises(DataError, match=r"bad\.npy: not a NumPy file that can be read safely"):
            read_npy(tmp_path / "bad.npy")


changed_bytes = st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))


@given(st.lists(changed_bytes, min_size=1, max_size=6), st.booleans())
@settings(max_examples=300)
def test_damage_of_any_kind_is_refused_or_harmless(changes: list[tuple[int, int]], cut: bool) -> None:
    data = bytearray(WHOLE)
    for place, value in changes:
        data[place] = value
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        file.write(data[: len(data) // 2] if cut else data)
        file.flush()
        with suppress(DataError):  # any other error fails the test
            read_npy(file.name)


def test_huge_memo_is_refused(tmp_path: Path) -> None:
    """The C unpickler would allocate and fill 16 GB."""
    header = WHOLE[: WHOLE.index(b"\n") + 1]
    (tmp_path / "memo.npy").write_bytes(header + b"\x80\x04]r\xff\xff\xff\x7f.")
    with pytest.raises(DataError, match="it asks for memory of 2147483647 objects"):
        read_npy(tmp_path / "memo.npy")


def test_depth_codes(tmp_path: Path) -> None:
    values = {
        "ADE_train_1_depth.png": block_to_text(CODES),
        "b.png": SPACED,
        "short_depth.png": "<DEPTH_START><DEPTH_1><DEPTH_END>",
    }
    codes = DepthCodesFile(save(tmp_path / "ADE_codes.npy", values))
    np.testing.assert_array_equal(codes.read("training/street/ADE_train_1.jpg"), CODES)
    np.testing.assert_array_equal(codes.read("b.jpg"), CODES)
    with pytest.raises(DataError, match=r"no depth codes in ADE_codes\.npy"):
        codes.read("c.jpg")
    with pytest.raises(DataError, match=r"depth codes in ADE_codes\.npy: "):
        codes.read("short.jpg")
    for wrong in ({"a.png": 3}, ["a.png"], np.arange(3)):
        with pytest.raises(DataError, match="expected a dictionary of file names and depth tokens"):
            DepthCodesFile(save(tmp_path / "wrong.npy", wrong))
    with pytest.raises(DataError, match="two entries for the image a"):
        DepthCodesFile(save(tmp_path / "twice.npy", {"a.png": SPACED, "x/a_depth.png": SPACED}))


def test_one_object_that_is_missing(tmp_path: Path) -> None:
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    with (tmp_path / "values.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        pickle.dump(np.array([], dtype=object), file, protocol=3)
    with pytest.raises(DataError, match=r"values\.npy: damaged; its header says one object, but 0 are pickled"):
        read_npy(tmp_path / "values.npy")
