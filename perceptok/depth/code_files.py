"""Codes of many maps in a file: JSON lines, NPZ or Parquet."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast, get_args
from zipfile import BadZipFile

import numpy as np

from perceptok.depth.blocks import block_from_text, block_to_text, checked_codes
from perceptok.depth.formats.stored import Kind
from perceptok.depth.maps import Nearness, NearnessRange
from perceptok.errors import MalformedBlockError, MissingExtraError, OutputError
from perceptok.files import json_number, parse_json

__all__ = [
    "MOST_PIXELS_A_SIDE",
    "RECORD_SUFFIXES",
    "DepthRecord",
    "MapFailure",
    "read_code_records",
    "whole_records",
    "write_code_records",
]


# What np.load says of damaged archives.
_DAMAGED = (ValueError, KeyError, OSError, EOFError, NotImplementedError, BadZipFile, zlib.error)

RECORD_SUFFIXES = (".jsonl", ".npz", ".parquet")

MOST_PIXELS_A_SIDE = 2**20
"""Of a map in a record; how many pixels a map may have in all is for who decodes it to say."""


class MapFailure(NamedTuple):
    """A map or a record that could not be processed, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class DepthRecord:
    """The codes of one map, and what leads back to the map's own size and units.

    Attributes:
        name: The map's relative file name.
        codes: 100 integers in 0..127, row-major.
        kind: "metric", "inverse" or "relative".
        near: What nearness 1 stands for, in metres or the map's own values.
        far: What nearness 0 stands for.
        width: Of the map, in pixels.
        height: Of the map, in pixels; the networks see it squashed to a square.
        codec: Fingerprint of the codec: codes mean nothing to another one.
        range: How near and far were chosen, as `str(NearnessRange)` spells it.
        warning: What is odd about the map's range (see `Nearness.few_pixels`); empty where nothing is.
        clip: Of a frame, the folder that its clip's frames lie in; empty where the record is no frame.
        frame: Its number in the clip, from 0; None where the record is no frame.
        changed: Of a frame, the cells (0..99, row-major, rising) that changed since the frame before, and `codes` are
            theirs alone; all 100 in the first frame. None: `codes` are all 100. See `whole_records`.
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
    def of(cls, name: str, codes: np.ndarray, nearness: Nearness, codec: str) -> DepthRecord:
        """The record of a map's nearness and its codes (10, 10)."""
        height, width = nearness.values.shape
        flat = tuple(int(code) for code in codes.ravel())
        near, far = float(nearness.near), float(nearness.far)
        warning = str(nearness.few_pixels() or "")
        return cls(name, flat, nearness.kind, near, far, width, height, codec, str(nearness.range), warning)

    @property
    def grid(self) -> np.ndarray:
        """The codes as (10, 10) int64; raises MalformedBlockError if they are none, or a frame's changes only."""
        if self.changed is not None and len(self.changed) != 100:
            raise MalformedBlockError(
                f"{self.name}: frame {self.frame} of a clip, with the {len(self.changed)} codes that changed; "
                "whole_records restores the others from the frames before it"
            )
        if len(self.codes) != 100:
            raise MalformedBlockError(f"{self.name}: a block has 100 codes; this record has {len(self.codes)}")
        return checked_codes(np.array(self.codes).reshape(10, 10))

    def to_json(self, *, text: bool = False) -> str:
        """One line of JSON; with `text`, the block of tokens beside the codes."""
        # Not `asdict`, which copies every code: the line would take eight times as long.
        values: dict[str, Any] = {name: getattr(self, name) for name in _stored_names(self.frame is not None)}
        if text:
            values["text"] = block_to_text(self.grid)
        return json.dumps(values)

    @classmethod
    def from_json(cls, line: str | bytes) -> DepthRecord:
        """The inverse of `to_json`; a `text` may stand instead of `codes`. Raises MalformedBlockError."""
        return cls.from_dict(parse_json(line, f"not a record (expected JSON with {_EXPECTED})", MalformedBlockError))

    @classmethod
    def from_dict(cls, values: object) -> DepthRecord:
        """A record of plain values, every type and range checked; keys that are no fields are passed over.

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
            if missing := [one.name for one in fields(cls) if one.name not in given and one.default is MISSING]:
                raise ValueError(f"{', '.join(missing)} is missing")
            checked = {one.name: given[one.name] for one in fields(cls) if one.name in given}
            checks = _CHECKS if given.get("changed") is None else _CHECKS | {"codes": _changed_codes}
            return _as_frame(cls(**{name: checks[name](value) for name, value in checked.items()}))
        except MalformedBlockError:
            raise
        except (ValueError, TypeError) as error:
            raise MalformedBlockError(f"not a record ({error}); expected {_EXPECTED}") from error


def _name(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"name: expected the relative name of a file; got {value!r:.80}")
    value.encode()  # half of a surrogate pair is no name
    return value


def _codes(value: object) -> tuple[int, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) != 100:
        raise ValueError(f"codes: a block has 100 integers in 0..127; this record has {_counted(value)}")
    if wrong := [one for one in value if type(one) is not int or not 0 <= one <= 127]:
        raise ValueError(f"codes: expected 100 integers in 0..127; got {wrong[0]!r:.80} among them")
    return tuple(value)


def _changed_codes(value: object) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or any(type(one) is not int or not 0 <= one <= 127 for one in value):
        raise ValueError(f"codes: expected a list of integers in 0..127; got {value!r:.80}")
    return tuple(value)


def _cells(value: object) -> tuple[int, ...] | None:
    if value is None:
        return None
    right = isinstance(value, list | tuple) and all(type(one) is int and 0 <= one <= 99 for one in value)
    if not right or sorted(set(cast("Sequence[int]", value))) != list(cast("Sequence[int]", value)):
        raise ValueError(f"changed: expected the numbers of cells, 0..99, each once and rising; got {value!r:.80}")
    return tuple(cast("Sequence[int]", value))


def _frame(value: object) -> int | None:
    if value is None or (type(value) is int and 0 <= value < 2**53):
        return value
    raise ValueError(f"frame: expected the number of a frame, 0 or more; got {value!r:.80}")


def _clip(value: object) -> str:
    return _name(value) if value else ""


def _as_frame(record: DepthRecord) -> DepthRecord:
    """The record, if what it says of its clip fits together."""
    if (record.frame is None) != (record.changed is None) or (record.frame is None) != (record.clip == ""):
        raise ValueError("clip, frame and changed belong together; a record has all of them or none")
    if record.changed is not None and len(record.changed) != len(record.codes):
        raise ValueError(f"changed has {len(record.changed)} cells, codes {len(record.codes)}; expected as many")
    if record.frame == 0 and len(record.codes) != 100:
        raise ValueError(f"the first frame of a clip has 100 codes; this one has {len(record.codes)}")
    return record


def _counted(value: object) -> str:
    return f"{len(value)}" if isinstance(value, list | tuple) else f"{value!r:.80}"


def _kind(value: object) -> Kind:
    if value not in get_args(Kind):
        raise ValueError(f"kind: expected {' or '.join(get_args(Kind))}; got {value!r:.80}")
    return cast("Kind", value)


def _number(value: object) -> float:
    try:
        return json_number(value)
    except ValueError as error:
        raise ValueError(f"near and far: {error}") from error


def _pixels(value: object) -> int:
    if type(value) is not int or not 1 <= value <= MOST_PIXELS_A_SIDE:
        raise ValueError(f"width and height: expected pixels in 1..{MOST_PIXELS_A_SIDE}; got {value!r:.80}")
    return value


def _fingerprint(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"codec: expected the fingerprint of a codec; got {value!r:.80}")
    return value


def _range(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"range: expected the name of a range; got {value!r:.80}")
    return str(NearnessRange.parse(value))


def _warning(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"warning: expected text; got {value!r:.80}")
    return value


_CHECKS: dict[str, Callable[[object], Any]] = {
    "name": _name,
    "codes": _codes,
    "kind": _kind,
    "near": _number,
    "far": _number,
    "width": _pixels,
    "height": _pixels,
    "codec": _fingerprint,
    "range": _range,
    "warning": _warning,
    "clip": _clip,
    "frame": _frame,
    "changed": _cells,
}
_OF_FRAMES = ("clip", "frame", "changed")
_EXPECTED = ", ".join(one.name for one in fields(DepthRecord) if one.name not in _OF_FRAMES)


def _stored_names(frames: bool) -> list[str]:
    """The fields that are written; those of frames only of such."""
    return [one.name for one in fields(DepthRecord) if frames or one.name not in _OF_FRAMES]


def read_code_records(path: Path, failures: list[MapFailure] | None = None) -> Iterator[DepthRecord]:
    """Records of a file that `write_code_records` wrote, by its suffix.

    Args:
        path: `.jsonl`, `.npz` or `.parquet`.
        failures: Takes the records that are damaged, which are then left out; without it the first one raises.

    Raises:
        MalformedBlockError: The file cannot be read or is damaged, or a record in it is, without `failures`; the
            message says which.
        MissingExtraError: Parquet without the extra `parquet`.
    """
    if path.suffix not in RECORD_SUFFIXES:
        raise MalformedBlockError(f"{path}: records are in {', '.join(RECORD_SUFFIXES)} files")
    try:
        if path.suffix == ".jsonl":
            with path.open("rb") as file:
                yield from read_record_lines(file, str(path), failures)
            return
        rows = _from_npz(path) if path.suffix == ".npz" else _from_parquet(path)
    except OSError as error:
        raise MalformedBlockError(f"{path}: cannot be read ({error.strerror or error})") from error
    yield from _good_ones(((f"{path}, record {number}", row) for number, row in enumerate(rows, 1)), failures)


def read_record_lines(
    lines: Iterable[str | bytes], where: str, failures: list[MapFailure] | None = None
) -> Iterator[DepthRecord]:
    """Records of JSON lines, blank ones passed over; errors and failures (see `read_code_records`) name the line."""
    numbered = ((f"{where}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip())
    return _good_ones(numbered, failures)


def _good_ones(
    numbered: Iterable[tuple[str, str | bytes | dict[str, Any]]], failures: list[MapFailure] | None
) -> Iterator[DepthRecord]:
    for place, one in numbered:
        try:
            yield DepthRecord.from_dict(one) if isinstance(one, dict) else DepthRecord.from_json(one)
        except MalformedBlockError as error:
            if failures is None:
                raise MalformedBlockError(f"{place}: {error}") from error
            failures.append(MapFailure(place, str(error)))


def write_code_records(file: BinaryIO, suffix: str, records: Sequence[DepthRecord], *, text: bool = False) -> None:
    """Write records to an open file in the format of a suffix; the same records give the same bytes."""
    if suffix == ".jsonl":
        for record in records:
            file.write((record.to_json(text=text) + "\n").encode())
    elif suffix == ".npz":
        columns = _columns(records)
        arrays: dict[str, Any] = {
            key: np.array(value) for key, value in columns.items() if key not in ("codes", "changed")
        }
        if "changed" in columns:  # the mask, and the codes of its cells one after another
            arrays["changed"] = np.array([_mask(cells) for cells in columns["changed"]]).reshape(-1, 10, 10)
            grids = np.array([code for codes in columns["codes"] for code in codes], dtype=np.uint8)
        else:
            grids = np.array(columns["codes"], dtype=np.uint8).reshape(-1, 10, 10)
        np.savez_compressed(file, codes=grids, **arrays)
    elif suffix == ".parquet":
        buffer = io.BytesIO()
        parquet = _parquet()
        import pyarrow

        parquet.write_table(pyarrow.table(_columns(records)), buffer)
        file.write(buffer.getvalue())
    else:
        raise OutputError(f"records are written to {', '.join(RECORD_SUFFIXES)}; got {suffix!r}")


def _columns(records: Sequence[DepthRecord]) -> dict[str, list[Any]]:
    frames = any(record.frame is not None for record in records)
    if frames and any(record.frame is None for record in records):
        raise OutputError("frames of clips and other maps are records of two kinds; write them to two files")
    return {name: [getattr(record, name) for record in records] for name in _stored_names(frames)}


def _mask(cells: Sequence[int]) -> np.ndarray:
    mask = np.zeros(100, np.bool_)
    mask[list(cells)] = True
    return mask


def _stored_fields(names: Sequence[str]) -> list[Field[Any]]:
    """The fields to read; one with a default may be missing: an older version wrote the file."""
    return [one for one in fields(DepthRecord) if one.name in names or one.default is MISSING]


def _from_npz(path: Path) -> Iterator[dict[str, Any]]:
    try:
        # Opened here: np.load leaves a file open that is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            columns = {one.name: saved[one.name] for one in _stored_fields(saved.files)}
        if "changed" in columns:
            _split_changes(columns)
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1:
            raise ValueError(f"its columns have {sorted(lengths)} rows")
    except FileNotFoundError:
        raise
    except (*_DAMAGED, TypeError, MemoryError) as error:
        raise MalformedBlockError(f"{path}: not a file of depth records ({error})") from error
    grids = columns.pop("codes")
    return (
        {"codes": grid.ravel().tolist(), **{key: column[index].tolist() for key, column in columns.items()}}
        for index, grid in enumerate(grids)
    )


def _split_changes(columns: dict[str, Any]) -> None:
    """Mask and joined codes of frames, as `write_code_records` stores them, as cells and codes of each."""
    masks, codes = columns["changed"], columns["codes"]
    if masks.dtype != np.bool_ or masks.shape[1:] != (10, 10) or codes.shape != (np.count_nonzero(masks),):
        raise ValueError(f"a mask {masks.dtype} {masks.shape} of changed cells does not fit codes {codes.shape}")
    columns["changed"] = [np.flatnonzero(mask) for mask in masks]
    columns["codes"] = np.split(codes, np.cumsum(masks.sum((1, 2)))[:-1])


def _from_parquet(path: Path) -> list[dict[str, Any]]:
    try:
        parquet = _parquet()
        names = [one.name for one in _stored_fields(parquet.read_schema(path).names)]
        rows = parquet.read_table(path, columns=names).to_pylist()
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, TypeError, OSError, NotImplementedError) as error:
        raise MalformedBlockError(f"{path}: not a file of depth records ({error})") from error
    return list(rows)


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", "a .parquet file") from error
    return pyarrow.parquet


def whole_records(records: Iterable[DepthRecord], failures: list[MapFailure] | None = None) -> Iterator[DepthRecord]:
    """Records with all 100 codes, from frames that carry changes only; other records pass as they are.

    Args:
        records: As `read_records` gives them; frames of several clips may alternate.
        failures: Takes the frames that cannot be restored, as one before them is missing or damaged, and frames that
            stand twice; without it the first one raises. A frame in which all cells changed begins anew.

    Raises:
        MalformedBlockError: A frame cannot be restored, without `failures`.
    """
    last: dict[str, _State] = {}
    for record in records:
        if record.frame is None or record.changed is None:
            yield record
            continue
        state = last.get(record.clip, _State(-1, None))
        problem = None
        if record.frame <= state.frame:
            problem = (
                f"frame {record.frame} of clip {record.clip!r} stands after frame {state.frame}: a second time, or "
                "out of order"
            )
        elif len(record.changed) == 100:
            last[record.clip] = _State(record.frame, np.array(record.codes, np.int64))
        elif record.frame > state.frame + 1 or state.codes is None:
            missing = state.missing if state.codes is None and state.frame >= 0 else state.frame + 1
            last[record.clip] = _State(record.frame, None, missing)
            problem = (
                f"frame {record.frame} of clip {record.clip!r} cannot be restored: frame {missing} is missing or "
                "damaged, and what changed there is not known; take the records as they were written, or encode the "
                "clip again"
            )
        else:
            codes = state.codes.copy()
            codes[list(record.changed)] = record.codes
            last[record.clip] = _State(record.frame, codes)
        if problem is None:
            whole = last[record.clip].codes
            assert whole is not None
            yield replace(record, codes=tuple(whole.tolist()), changed=tuple(range(100)))
        elif failures is None:
            raise MalformedBlockError(f"{record.name}: {problem}")
        else:
            failures.append(MapFailure(record.name, problem))


class _State(NamedTuple):
    """A clip's last frame, its codes where they are known, and the first frame that is missing where they are not."""

    frame: int
    codes: np.ndarray | None
    missing: int = 0
