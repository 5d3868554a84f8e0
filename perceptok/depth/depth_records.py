"""Records of depth maps: the codes of a map with its name, size, units and codec, in JSON lines, NPZ or Parquet."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, get_args
from zipfile import BadZipFile

import numpy as np

from perceptok.depth.blocks import block_from_text, block_to_text, validate_codes
from perceptok.depth.map_files import MapFailure
from perceptok.depth.maps import Nearness, NearnessRange
from perceptok.depth.stored_maps import Kind
from perceptok.errors import MalformedBlockError, OutputError, quote_error
from perceptok.files import decompress_input, find_suffix, open_input, parse_json, parse_number
from perceptok.parquet import import_parquet, iterate_rows

__all__ = [
    "DepthRecord",
    "drop_unchanged_codes",
    "parse_depth_records",
    "read_depth_records",
    "restore_frames",
    "write_depth_records",
]

RECORD_SUFFIXES = (".jsonl", ".npz", ".parquet")

MAX_SIDE = 2**20
"""Pixels of a side of a map in a record; the number of pixels in all is limited where records are decoded."""

_MAX_NAME = 4096
"""Characters of a name, as file systems have them."""

_MAX_UNPACKED, _MAX_COMPRESSION = 2**28, 40
"""An NPZ that declares more bytes than the first, and more than this multiple of its own size, is refused."""

_FRAME_FIELDS = ("clip", "frame", "changed")


@dataclass(frozen=True)
class DepthRecord:
    """The codes of a depth map, and what restores the map's own size and units.

    Attributes:
        name: The map's relative file name.
        codes: 100 integers in 0..127, row-major.
        kind: "metric", "inverse" or "relative".
        near: The value of nearness 1, in metres or the map's own scale.
        far: The value of nearness 0.
        width: Width of the map in pixels; the networks see it squashed to a square.
        height: Height of the map in pixels.
        codec: Fingerprint of the codec: codes mean nothing to another one.
        range: How near and far were chosen, as `str(NearnessRange)`.
        warning: What is odd about the map and its range (`Nearness.find_warnings`); empty where nothing is.
        clip: Of a frame, the folder of its clip; empty for a map that is not a frame.
        frame: Of a frame, its number in the clip, from 0; None for a map that is not a frame.
        changed: Of a frame, the cells (0..99, row-major, ascending) whose codes changed since the frame before; `codes`
            are those of these cells alone. All 100 in the first frame. None for a map that is not a frame.
    """

    name: str
    codes: tuple[int, ...]
    kind: Kind
    near: float
    far: float
    width: int
    height: int
    codec: str
    range: str = "extremes"
    warning: str = ""
    clip: str = ""
    frame: int | None = None
    changed: tuple[int, ...] | None = None

    @classmethod
    def from_codes(cls, name: str, codes: np.ndarray, nearness: Nearness, codec: str) -> DepthRecord:
        """The record of a map from its codes (10, 10), its nearness and its codec's fingerprint."""
        height, width = nearness.values.shape
        return cls(
            name=name,
            codes=tuple(codes.ravel().tolist()),
            kind=nearness.kind,
            near=float(nearness.near),
            far=float(nearness.far),
            width=width,
            height=height,
            codec=codec,
            range=str(nearness.range),
            warning="; ".join(nearness.find_warnings()),
        )

    @property
    def grid(self) -> np.ndarray:
        """The codes as (10, 10) int64.

        Raises:
            MalformedBlockError: They are not a block, or only the changes of a frame.
        """
        if self.changed is not None and len(self.changed) != 100:
            raise MalformedBlockError(
                f"{self.name}: frame {self.frame} of a clip, with the {len(self.changed)} codes that changed; "
                "restore_frames restores the others from the frames before it"
            )
        if len(self.codes) != 100:
            raise MalformedBlockError(f"{self.name}: a block has 100 codes; this record has {len(self.codes)}")
        return validate_codes(np.array(self.codes).reshape(10, 10))

    def to_json(self, *, text: bool = False) -> str:
        """One line of JSON; with `text`, the block of tokens beside the codes."""
        # Not `asdict`, which copies every code and takes eight times as long.
        values: dict[str, Any] = {name: getattr(self, name) for name in _list_stored_names(self.frame is not None)}
        if text:
            values["text"] = block_to_text(self.grid)
        return json.dumps(values)

    @classmethod
    def from_json(cls, line: str | bytes) -> DepthRecord:
        """The inverse of `to_json`; a `text` may stand instead of `codes`. Raises MalformedBlockError."""
        return cls.from_dict(parse_json(line, f"not a record (expected JSON with {_EXPECTED})", MalformedBlockError))

    @classmethod
    def from_dict(cls, values: object) -> DepthRecord:
        """A record of plain values, every type and range checked; unknown keys are ignored.

        Raises:
            MalformedBlockError: A field is missing, or has another type or a value out of its range; the message
                names it.
        """
        if not isinstance(values, Mapping):
            raise MalformedBlockError(f"not a record, but {type(values).__name__}; expected an object with {_EXPECTED}")
        try:
            given = dict(values)
            if given.get("text") is not None and "codes" not in given:
                given["codes"] = block_from_text(given["text"]).ravel().tolist()
            if missing := [field.name for field in fields(cls) if field.name not in given and field.default is MISSING]:
                raise ValueError(f"{', '.join(missing)} is missing")
            return _check_record(cls(**{field.name: given[field.name] for field in fields(cls) if field.name in given}))
        except MalformedBlockError:
            raise
        except (ValueError, TypeError) as error:
            raise MalformedBlockError(f"not a record ({error}); expected {_EXPECTED}") from error


_EXPECTED = ", ".join(field.name for field in fields(DepthRecord) if field.name not in _FRAME_FIELDS)


def _list_stored_names(frames: bool) -> list[str]:
    """The fields that are written; those of frames only for frames."""
    return [field.name for field in fields(DepthRecord) if frames or field.name not in _FRAME_FIELDS]


def _check_record(record: DepthRecord) -> DepthRecord:
    """A record whose fields were filled with values of any type, checked and converted; raises ValueError."""
    codes, frame, changed = record.codes, record.frame, record.changed
    for field, valid, expected in (
        ("name", _is_name(record.name), "the relative name of a file"),
        ("codes", _are_integers(codes, 127), "integers in 0..127"),
        ("kind", record.kind in get_args(Kind), " or ".join(get_args(Kind))),
        ("width", _is_integer(record.width, 1, MAX_SIDE), f"pixels in 1..{MAX_SIDE}"),
        ("height", _is_integer(record.height, 1, MAX_SIDE), f"pixels in 1..{MAX_SIDE}"),
        ("codec", isinstance(record.codec, str), "the fingerprint of a codec"),
        ("range", isinstance(record.range, str), "the name of a range"),
        ("warning", isinstance(record.warning, str), "text"),
        ("clip", record.clip in ("", None) or _is_name(record.clip), "the name of a folder"),
        ("frame", frame is None or _is_integer(frame, 0, 2**53 - 1), "the number of a frame, 0 or more"),
        ("changed", changed is None or _are_integers(changed, 99), "the numbers of cells, 0..99"),
    ):
        if not valid:
            raise ValueError(f"{field}: expected {expected}; got {getattr(record, field)!r:.80}")
    if changed is None and len(codes) != 100:
        raise ValueError(f"codes: a block has 100 integers in 0..127; this record has {len(codes)}")
    if (frame is None) != (changed is None) or (frame is None) != (not record.clip):
        raise ValueError("clip, frame and changed belong together; a record has all of them or none")
    if changed is not None:
        if list(changed) != sorted(set(changed)):
            raise ValueError(f"changed: expected each cell once and rising; got {changed!r:.80}")
        if len(changed) != len(codes):
            raise ValueError(f"changed has {len(changed)} cells, codes {len(codes)}; expected as many")
        if frame == 0 and len(codes) != 100:
            raise ValueError(f"the first frame of a clip has 100 codes; this one has {len(codes)}")
    try:
        near, far = parse_number(record.near), parse_number(record.far)
    except ValueError as error:
        raise ValueError(f"near and far: {error}") from error
    return replace(
        record,
        codes=tuple(codes),
        near=near,
        far=far,
        range=str(NearnessRange.parse(record.range)),
        clip=record.clip or "",
        changed=None if changed is None else tuple(changed),
    )


def _is_name(value: object) -> bool:
    """Whether a value is text of a name's length, without NUL and without halves of surrogate pairs."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= _MAX_NAME
        and not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value)
    )


def _is_integer(value: object, smallest: int, largest: int) -> bool:
    return type(value) is int and smallest <= value <= largest  # not isinstance: True is not a number of pixels


def _are_integers(values: object, largest: int) -> bool:
    return isinstance(values, list | tuple) and all(type(value) is int and 0 <= value <= largest for value in values)


def read_depth_records(path: str | Path, failures: list[MapFailure] | None = None) -> Iterator[DepthRecord]:
    """Read the records of a file that `encode_files` or `write_depth_records` wrote.

    Args:
        path: `.jsonl`, `.npz` or `.parquet`.
        failures: Collects the records that are damaged, which are then left out; without it the first one raises.

    Raises:
        MalformedBlockError: The file cannot be read or is damaged, or a record in it is, without `failures`; the
            message says which.
        MissingExtraError: Parquet without the extra `parquet`.
    """
    path = Path(path)
    suffix = find_suffix(path)
    if suffix not in RECORD_SUFFIXES:
        raise MalformedBlockError(f"{path}: records are in {', '.join(RECORD_SUFFIXES)} files")
    try:
        if suffix == ".jsonl":
            with decompress_input(open_input(path, allow_pipe=True)) as file:
                yield from parse_depth_records(file, str(path), failures)
            return
        rows = _read_npz(path) if suffix == ".npz" else _read_parquet(path)
        yield from _parse_numbered(((f"{path}, record {n}", row) for n, row in enumerate(rows, 1)), failures)
    except OSError as error:
        raise MalformedBlockError(f"{path}: cannot be read ({error.strerror or error})") from error


def parse_depth_records(
    lines: Iterable[str | bytes], where: str, failures: list[MapFailure] | None = None
) -> Iterator[DepthRecord]:
    """Parse JSON lines of records, skipping blank ones.

    Args:
        lines: The lines, such as an open file.
        where: What messages call them; they add the number of the line.
        failures: Collects the lines that are damaged, which are then left out; without it the first one raises.

    Raises:
        MalformedBlockError: A line is not a record, without `failures`.
    """
    numbered = ((f"{where}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip())
    return _parse_numbered(numbered, failures)


def _parse_numbered(
    numbered: Iterable[tuple[str, str | bytes | dict[str, Any]]], failures: list[MapFailure] | None
) -> Iterator[DepthRecord]:
    for place, values in numbered:
        try:
            yield DepthRecord.from_dict(values) if isinstance(values, dict) else DepthRecord.from_json(values)
        except MalformedBlockError as error:
            if failures is None:
                raise MalformedBlockError(f"{place}: {error}") from error
            failures.append(MapFailure(place, str(error)))


def check_output(output: Path, *, text: bool, force: bool) -> None:
    """Raise OutputError where the path has another format, or exists already and `force` is not given."""
    if output.suffix not in RECORD_SUFFIXES:
        raise OutputError(f"{output}: records are written to {', '.join(RECORD_SUFFIXES)}")
    if text and output.suffix != ".jsonl":
        raise OutputError(f"{output}: only .jsonl files hold the text of blocks")
    if output.exists() and not force:
        raise OutputError(f"{output} exists already; choose another path, or replace it with force (--force)")


def write_depth_records(file: BinaryIO, suffix: str, records: Sequence[DepthRecord], *, text: bool = False) -> None:
    """Write records to an open file; the same records give the same bytes.

    Args:
        file: Open for writing bytes.
        suffix: The format: `.jsonl`, `.npz` or `.parquet`.
        records: Maps alone or frames of clips alone, except in JSON lines.
        text: JSON lines only: write the block of tokens too.

    Raises:
        OutputError: Another suffix, or frames among other maps.
        MissingExtraError: Parquet without the extra `parquet`.
    """
    if suffix == ".jsonl":
        file.writelines((record.to_json(text=text) + "\n").encode() for record in records)
    elif suffix == ".npz":
        _write_npz(file, _to_columns(records))
    elif suffix == ".parquet":
        parquet = import_parquet("a .parquet file")
        import pyarrow

        buffer = io.BytesIO()
        parquet.write_table(pyarrow.table(_to_columns(records)), buffer)
        file.write(buffer.getvalue())
    else:
        raise OutputError(f"records are written to {', '.join(RECORD_SUFFIXES)}; got {suffix!r}")


def _to_columns(records: Sequence[DepthRecord]) -> dict[str, list[Any]]:
    frames = any(record.frame is not None for record in records)
    if frames and any(record.frame is None for record in records):
        raise OutputError("frames of clips and other maps are records of two kinds; write them to two files")
    return {name: [getattr(record, name) for record in records] for name in _list_stored_names(frames)}


def _write_npz(file: BinaryIO, columns: dict[str, list[Any]]) -> None:
    """Codes (N, 10, 10) uint8; or of frames, the changed cells (N, 10, 10) bool and their codes, one after another."""
    codes = np.array([code for record in columns.pop("codes") for code in record], dtype=np.uint8)
    changed = columns.pop("changed", None)
    arrays: dict[str, Any] = {name: np.array(column) for name, column in columns.items()}
    if changed is None:
        codes = codes.reshape(-1, 10, 10)
    else:
        masks = np.zeros((len(changed), 100), np.bool_)
        for mask, cells in zip(masks, changed, strict=True):
            mask[list(cells)] = True
        arrays["changed"] = masks.reshape(-1, 10, 10)
    np.savez_compressed(file, codes=codes, **arrays)


def _read_npz(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with open_input(path) as file, np.load(file, allow_pickle=False) as saved:
            declared, size = sum(member.file_size for member in saved.zip.infolist()), file.seek(0, io.SEEK_END)
            if declared > max(_MAX_UNPACKED, _MAX_COMPRESSION * size):
                raise ValueError(f"it declares {declared} bytes in {size}")
            columns = {name: saved[name] for name in _choose_columns(saved.files)}
        if "changed" in columns:
            _split_changes(columns)
        if any(len(column) > declared for column in columns.values()):  # values of no bytes
            raise ValueError(f"it declares {max(map(len, columns.values()))} rows in {declared} bytes")
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1:
            raise ValueError(f"its columns have {sorted(lengths)} rows")
    except (  # what np.load raises for damaged archives
        ValueError, KeyError, TypeError, AttributeError, OSError, EOFError, NotImplementedError, MemoryError,
        BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise MalformedBlockError(f"{path}: not a file of depth records ({quote_error(error)})") from error
    grids = columns.pop("codes")
    return (
        {"codes": grid.ravel().tolist(), **{name: column[index].tolist() for name, column in columns.items()}}
        for index, grid in enumerate(grids)
    )


def _split_changes(columns: dict[str, Any]) -> None:
    """Replace mask and joined codes of frames, as `_write_npz` stores them, by the cells and codes of each frame."""
    masks, codes = columns["changed"], columns["codes"]
    if masks.dtype != np.bool_ or masks.shape[1:] != (10, 10) or codes.shape != (np.count_nonzero(masks),):
        raise ValueError(f"a mask {masks.dtype} {masks.shape} of changed cells does not fit codes {codes.shape}")
    columns["changed"] = [np.flatnonzero(mask) for mask in masks]
    columns["codes"] = np.split(codes, np.cumsum(masks.sum((1, 2)))[:-1])


def _read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    rows = iterate_rows(path, MalformedBlockError, choose_columns=_choose_columns)
    for row in rows:
        if any(isinstance(value, list) and len(value) > 100 for value in row.values()):
            raise MalformedBlockError(f"{path}: not a file of depth records (a record has at most 100 codes)")
        yield row


def _choose_columns(stored: Sequence[str]) -> list[str]:
    """The columns to read; one with a default may be missing: an older version wrote the file."""
    return [field.name for field in fields(DepthRecord) if field.name in stored or field.default is MISSING]


def restore_frames(records: Iterable[DepthRecord], failures: list[MapFailure] | None = None) -> Iterator[DepthRecord]:
    """Restore all 100 codes of frames that carry changes only; other records pass as they are.

    Args:
        records: As `read_depth_records` gives them; frames of several clips may alternate.
        failures: Collects the frames that cannot be restored, as one before them is missing or damaged, and frames that
            come twice; without it the first one raises. A frame in which all cells changed begins anew.

    Raises:
        MalformedBlockError: A frame cannot be restored, without `failures`.
    """
    clips: dict[str, _ClipState] = {}
    for record in records:
        if record.frame is None:
            yield record
            continue
        try:
            codes = clips.setdefault(record.clip, _ClipState()).update(record)
        except MalformedBlockError as error:
            if failures is None:
                raise MalformedBlockError(f"{record.name}: {error}") from error
            failures.append(MapFailure(record.name, str(error)))
        else:
            yield replace(record, codes=codes, changed=tuple(range(100)))


def drop_unchanged_codes(records: Iterable[DepthRecord]) -> Iterator[DepthRecord]:
    """Leave each frame the codes that differ from its clip's frame before: the inverse of `restore_frames`.

    Args:
        records: Frames with all 100 codes, those of a clip in their order; other records pass as they are.

    Raises:
        MalformedBlockError: A frame has fewer codes.
    """
    previous: dict[str, np.ndarray] = {}
    for record in records:
        if record.frame is None:
            yield record
            continue
        codes = record.grid.ravel()
        before, previous[record.clip] = previous.get(record.clip), codes
        changed = np.arange(100) if before is None else np.flatnonzero(codes != before)
        yield replace(record, codes=tuple(codes[changed].tolist()), changed=tuple(changed.tolist()))


class _ClipState:
    """The codes of a clip's last frame; None where a frame before it is missing."""

    def __init__(self) -> None:
        self.codes: list[int] | None = None
        self.frame = -1
        self.missing = 0

    def update(self, record: DepthRecord) -> tuple[int, ...]:
        """All codes of the clip's next frame."""
        assert record.frame is not None
        assert record.changed is not None
        previous, self.frame = self.frame, max(self.frame, record.frame)
        if record.frame <= previous:
            raise MalformedBlockError(
                f"frame {record.frame} of clip {record.clip!r} stands after frame {previous}: a second time, or out of "
                "order"
            )
        if len(record.changed) == 100:
            self.codes = list(record.codes)
        elif self.codes is None or record.frame > previous + 1:
            if self.codes is not None or previous < 0:
                self.missing = previous + 1
            self.codes = None
            raise MalformedBlockError(
                f"frame {record.frame} of clip {record.clip!r} cannot be restored: frame {self.missing} is missing or "
                "damaged, and what changed there is not known; take the records as they were written, or encode the "
                "clip again"
            )
        else:
            for cell, code in zip(record.changed, record.codes, strict=True):
                self.codes[cell] = code
        return tuple(self.codes)
