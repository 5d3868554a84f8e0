"""The known file formats of depth maps, and how a file is read whatever its format."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from perceptok.depth.formats import arrays, exr, pfm, png, tiff
from perceptok.depth.stored_maps import MAX_PIXELS, StoredMap, describe_stack, squeeze
from perceptok.errors import DepthMapError, PerceptokError, quote_error
from perceptok.files import read_input

__all__ = ["FORMATS", "OTHER_SUFFIXES", "Format", "find_format", "read_mask", "read_stored"]


@dataclass(frozen=True)
class Format:
    """One file format.

    Attributes:
        name: Its common name.
        decode: Decodes the bytes of a file, with its `options` as keywords.
        encode: Encodes a map of uint8, uint16 or float32.
        count_values: The values that the header of a file declares, in all its arrays or channels together; None where
            the length of the file bounds them.
        bits: Bits per value that can be written, the default first. 8 and 16 are unsigned integers, 32 is float32.
        options: Arguments of `read_stored` that it takes.
        states_kind: Whether the file itself states kind, unit and mask.
    """

    name: str
    decode: Callable[..., StoredMap]
    encode: Callable[[StoredMap], bytes]
    count_values: Callable[[bytes], int] | None
    bits: tuple[int, ...] = (32,)
    options: tuple[str, ...] = ()
    states_kind: bool = False


_TIFF = Format(
    "TIFF", tiff.decode_tiff, tiff.encode_tiff, tiff.count_values_tiff, bits=(32, 16, 8), options=("colours",)
)

FORMATS = {
    ".exr": Format("EXR", exr.decode_exr, exr.encode_exr, exr.count_values_exr, options=("channel", "part")),
    ".npy": Format("NPY", arrays.decode_npy, arrays.encode_npy, arrays.count_values_npy),
    ".npz": Format(
        "NPZ",
        arrays.decode_npz,
        arrays.encode_npz,
        arrays.count_values_npz,
        options=("key", "mask_key"),
        states_kind=True,
    ),
    ".pfm": Format("PFM", pfm.decode_pfm, pfm.encode_pfm, None),
    ".png": Format("PNG", png.decode_png, png.encode_png, png.count_values_png, bits=(16, 8), options=("colours",)),
    ".tif": _TIFF,
    ".tiff": _TIFF,
}
"""Lower-case file name extension -> format."""

_BYTES_PER_PIXEL = 32
"""A file has at most so many bytes for each pixel: four channels of float64."""

_PLACE_OF_OPTION = {
    "key": "an array of an NPZ",
    "mask_key": "an array of an NPZ",
    "channel": "a channel of an EXR",
    "part": "a part of an EXR",
}

_PYTHON = 'python -c "import numpy, sys; {}" SOURCE TARGET'
_CONVERSIONS = {
    (".h5", ".hdf5"): (
        _PYTHON.format("import h5py; numpy.save(sys.argv[2], h5py.File(sys.argv[1])['depth'][()])")
        + "; where its data set is not called depth, with that name (list(h5py.File(...)) shows the names)"
    ),
    (".mat",): (
        _PYTHON.format("import scipy.io; numpy.save(sys.argv[2], scipy.io.loadmat(sys.argv[1])['depth'])")
        + "; where its variable is not called depth, with that name (scipy.io.whosmat shows the names); files of "
        "version 7.3 are HDF5: h5py.File(sys.argv[1])['depth'][()].T"
    ),
    (".pgm", ".pnm", ".gif", ".bmp", ".webp", ".jp2"): _PYTHON.format(
        "from PIL import Image; numpy.save(sys.argv[2], numpy.asarray(Image.open(sys.argv[1])))"
    ),
    (".pt", ".pth"): _PYTHON.format(
        "import torch; numpy.save(sys.argv[2], torch.load(sys.argv[1], map_location='cpu').numpy().squeeze())"
    ),
    (".dpt",): _PYTHON.format(
        "f = open(sys.argv[1], 'rb'); assert f.read(4) == b'PIEH'; w, h = numpy.fromfile(f, '<i4', 2); "
        "numpy.save(sys.argv[2], numpy.fromfile(f, '<f4').reshape(h, w))"
    )
    + " (Sintel's layout)",
    (".gz", ".zst", ".xz"): "decompress it first",
    (".heic", ".heif"): "export it again as 16-bit PNG, TIFF or EXR; this photo format keeps depth beside the photo",
}
"""Extensions of other formats that hold depth, and how such a file, SOURCE, is converted to TARGET."""

OTHER_SUFFIXES = frozenset(suffix for suffixes in _CONVERSIONS for suffix in suffixes)
"""Lower-case extensions of files that may hold depth and are not read."""


def find_format(path: Path) -> Format:
    """The format of a path's extension; raises DepthMapError for an unknown extension."""
    suffix = path.suffix.lower()
    if suffix in FORMATS:
        return FORMATS[suffix]
    if suffix in {".jpg", ".jpeg"}:
        raise DepthMapError("JPEG is lossy and 8-bit, made for photos; store depth as 16-bit PNG, NPY, TIFF or EXR")
    if suffix in {".jsonl", ".parquet"}:
        raise DepthMapError(
            f"{suffix} is for depth records, not for depth maps; convert them to maps with `perceptok depth decode`"
        )
    conversion = next((text for suffixes, text in _CONVERSIONS.items() if suffix in suffixes), None)
    hint = f". Convert it: {_fill_in_path(conversion, path)}" if conversion else ""
    raise DepthMapError(
        f"the extension {suffix!r} is not one of a depth map; supported are {', '.join(sorted(FORMATS))}{hint}"
    )


def _fill_in_path(text: str, path: Path) -> str:
    """Put paths into a command of a message: SOURCE (the file), TARGET (an NPY file) and FOLDER, both of its name."""
    paths = {"SOURCE": path, "TARGET": path.with_suffix(".npy"), "FOLDER": path.with_suffix("")}
    return re.sub("SOURCE|TARGET|FOLDER", lambda match: shlex.quote(str(paths[match[0]])), text)


def read_stored(
    path: Path,
    *,
    key: str | None = None,
    mask_key: str | None = None,
    channel: str | None = None,
    part: str | None = None,
    colours: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> StoredMap:
    """Read a file in its own dtype and numbers; raises DepthMapError, to which the caller adds the path.

    Args:
        path: The file.
        key: Name of the array in an NPZ with several.
        mask_key: Name of the array in an NPZ that is True, or not 0, where the map is valid.
        channel: Name of the channel in an EXR with several.
        part: Name or number of the part in an EXR with several.
        colours: Keep all channels, as (H, W, channels), of a map that is packed into colours.
        max_pixels: A file that declares more values is refused before it is unpacked.
    """
    form = find_format(path)
    named = {"key": key, "mask_key": mask_key, "channel": channel, "part": part}
    options: dict[str, str | bool] = {option: value for option, value in named.items() if value}
    for option in options:
        if option not in form.options:
            raise DepthMapError(f"{option} names {_PLACE_OF_OPTION[option]}; {form.name} has none")
    if colours and "colours" in form.options:
        options["colours"] = True
    data = _read_bytes(path, max_pixels)
    _check_declared_size(form, data, max_pixels)
    try:
        stored = form.decode(data, **options)
    except DepthMapError as error:
        raise DepthMapError(_fill_in_path(str(error), path)) from error
    except PerceptokError:
        raise
    except MemoryError as error:
        raise DepthMapError("not enough memory for it; read it alone, or make it smaller") from error
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise DepthMapError(
            f"not a {form.name} file, or a damaged one ({quote_error(error)}); fetch or export it again"
        ) from error
    stored = replace(stored, array=squeeze(stored.array))
    if stored.array.ndim != 2 and not (colours and stored.array.ndim == 3):
        load = "numpy.load(sys.argv[1])" + (f"[{key!r}]" if key else "")
        raise DepthMapError(_fill_in_path(describe_stack(stored.array.shape, load), path))
    return stored


def _check_declared_size(form: Format, data: bytes, max_pixels: int) -> None:
    """Refuse a file that declares more values than `max_pixels`, before any of them is unpacked."""
    try:
        declared = form.count_values(data) if form.count_values else 0
    except Exception:  # noqa: BLE001 - the decoder names what is wrong with a damaged header
        return
    if declared > max_pixels:
        raise DepthMapError(
            f"declares {declared} values in {len(data)} bytes; at most {max_pixels} are read: allow more with "
            "max_pixels (--max-pixels) if you trust the file; where it is damaged, fetch or export it again"
        )


def read_mask(path: Path) -> npt.NDArray[np.bool_]:
    """Read a mask from an image of any bit depth or a depth map file; (H, W) bool, True where it is not 0."""
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".bmp"):
        return np.asarray(read_stored(path).array != 0)
    data = _read_bytes(path, MAX_PIXELS)
    try:
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(image.convert("L") if image.mode == "P" else image)
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise DepthMapError(f"not a mask image, or a damaged one ({error}); fetch or export it again") from error
    return np.asarray((pixels != 0) if pixels.ndim == 2 else (pixels[..., :3] != 0).any(-1))


def _read_bytes(path: Path, max_pixels: int) -> bytes:
    try:
        data = read_input(path, max_bytes=_BYTES_PER_PIXEL * max_pixels + 2**20)
    except FileNotFoundError as error:
        raise DepthMapError("file not found; check the path") from error
    except ValueError as error:  # a NUL, which a list may hold
        raise DepthMapError(f"not a valid file name ({error}); check the list that names it") from error
    except OSError as error:
        raise DepthMapError(f"cannot be read ({error.strerror}); check that it is a file you may read") from error
    if not data:
        raise DepthMapError("the file is empty (0 bytes); fetch or export it again")
    return data
