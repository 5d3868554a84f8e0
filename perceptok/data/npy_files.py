"""NumPy files of AURORA's repository, pickled dictionaries among them, read without running any code of the file."""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perceptok.depth import block_from_text
from perceptok.errors import DataError, MalformedBlockError
from perceptok.files import open_input

__all__ = ["DepthCodesFile", "get_stem", "read_npy"]


_MAX_BYTES = 2**29
"""Of a file that is read whole: half a gigabyte."""


class _Array:
    """Stands for a pickled array and keeps its items."""

    items: Any = None

    def __setstate__(self, state: Any) -> None:
        self.items = state[-1]


class _Type:
    """Stands for a pickled dtype, which is not needed."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("numpy._core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("_codecs", "encode"): lambda *_: b"",
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
}


# fmt: off
_OPCODES = frozenset({
    "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
    "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "EMPTY_LIST", "APPEND", "APPENDS",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT",
    "MEMOIZE", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
})
# fmt: on
"""Operations of a pickle that text, numbers, lists, tuples, dictionaries and arrays of them need."""


class _RestrictedUnpickler(pickle.Unpickler):
    """Builds text, numbers, lists, tuples and dictionaries only; nothing of a pickled name is imported or called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}; only text, numbers, lists and dictionaries")
        return _STAND_INS[module, name]


def _unpickle(data: bytes) -> Any:
    """Unpickle text, numbers, lists, tuples and dictionaries; raises errors of any kind for anything else."""
    for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if opcode.name not in _OPCODES:
            raise pickle.UnpicklingError(f"it has the operation {opcode.name}")
        if opcode.name in ("BINPUT", "LONG_BINPUT") and int(argument or 0) > number:
            raise pickle.UnpicklingError(f"it asks for memory of {argument} objects")
    return _RestrictedUnpickler(io.BytesIO(data)).load()


def read_npy(path: str | Path) -> Any:
    """Read a NumPy file (`.npy`): an array, or what `numpy.save` pickled of a dictionary or a list.

    Pickled files can run any code when numpy loads them with `allow_pickle`; here they are built of text, numbers,
    lists, tuples and dictionaries alone.

    Returns:
        An array; for a pickled dictionary that dictionary; for a pickled array of objects a list.

    Raises:
        DataError: The file cannot be read, is not a NumPy file, or has pickled objects of other types.
    """
    try:
        with open_input(path, max_bytes=_MAX_BYTES) as file:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(file)
            if not dtype.hasobject:
                if math.prod(shape) > os.fstat(file.fileno()).st_size:
                    raise ValueError(f"its header says {shape} values")
                file.seek(0)
                return np.load(file, allow_pickle=False)
            array = _unpickle(file.read())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # damaged pickles raise errors of any kind
        raise DataError(f"{path}: not a NumPy file that can be read safely ({error})") from error
    if not isinstance(array, _Array) or not isinstance(array.items, list):
        raise DataError(f"{path}: not a NumPy file that can be read safely (not a pickled array)")
    if not shape and len(array.items) != 1:
        raise DataError(f"{path}: damaged; its header says one object, but {len(array.items)} are pickled")
    return array.items if shape else array.items[0]


class DepthCodesFile:
    """Depth codes by image name, from the dictionary that AURORA's `get_codes.py` saves.

    Its keys are names of depth maps such as `ADE_train_00000001_depth.png`, its values
    `<DEPTH_START><DEPTH_5>...<DEPTH_END>`, with or without spaces. Codes belong to the image whose name is the same
    without folder, suffix and `_depth`.

    Args:
        path: The file (`.npy`).

    Raises:
        DataError: The file cannot be read or is not such a dictionary, or two keys belong to one image.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        values = read_npy(path)
        if not isinstance(values, dict) or not all(isinstance(text, str) for pair in values.items() for text in pair):
            raise DataError(f"{path}: expected a dictionary of file names and depth tokens")
        self._texts: dict[str, str] = {}
        for name, text in values.items():
            stem = get_stem(name).removesuffix("_depth")
            if stem in self._texts:
                raise DataError(f"{path}: two entries for the image {stem}")
            self._texts[stem] = text

    def read(self, name: str, *, namesakes: Sequence[str] = ()) -> NDArray[np.int64]:
        """Read the codes of an image, (10, 10) in 0..127.

        Args:
            name: Of the image.
            namesakes: Other images with the same name except for folder and suffix, which the codes may be of.

        Raises:
            DataError: The image has no codes, they may be of another image, or they are malformed.
        """
        text = self._texts.get(get_stem(name))
        if text is None:
            raise DataError(f"this image has no depth codes in {self.path.name}")
        if namesakes:
            raise DataError(
                f"the depth codes of {get_stem(name)} in {self.path.name} may be of this image or of {namesakes[0]}; "
                "rename or exclude one of the images"
            )
        try:
            return block_from_text("".join(text.split()))
        except MalformedBlockError as error:
            raise DataError(f"depth codes in {self.path.name}: {error}") from error


def get_stem(name: str) -> str:
    """Return an image's name without folder, with `/` or a backslash, and suffix."""
    return PurePosixPath(name.replace("\\", "/")).stem
