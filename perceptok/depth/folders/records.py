"""Codes of many maps in a file: JSON lines, NPZ or Parquet."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile

import numpy as np

from perceptok.depth.blocks import block_from_text, block_to_text, checked_codes
from perceptok.depth.maps.depth_map import Kind, Nearness
from perceptok.errors import MalformedBlockError, MissingExtraError, OutputError

__all__ = ["RECORD_SUFFIXES", "DepthRecord", "read_records", "write_records"]

# What np.load says of damaged archives.
_DAMAGED = (ValueError, KeyError, OSError, EOFError, NotImplementedError, BadZipFile, zlib.error)

RECORD_SUFFIXES = (".jsonl", ".npz", ".parquet")


@dataclass(frozen=True)
class DepthRecord:
    """The codes of one map, and what leads back to the map's own size and units.

    Attributes:
        name: The map's relative file name.
        codes: 100 integers in 0..127, row-major.
        kind: "metric" or "inverse".
        near: What nearness 1 stands for, in metres or relative inverse depth.
        far: What nearness 0 stands for.
        width: Of the map, in pixels.
        height: Of the map, in pixels; the networks see it squashed to a square.
        codec: Fingerprint of the codec: codes mean nothing to another one.
    """

    name: str
    codes: tuple[int, ...]
    kind: Kind
    near: float
    far: float
    width: int
    height: int
    codec: str

    @classmethod
    def of(cls, name: str, codes: np.ndarray, nearness: Nearness, codec: str) -> DepthRecord:
        """The record of a map's nearness and its codes (10, 10)."""
        height, width = nearness.values.shape
        flat = tuple(int(code) for code in codes.ravel())
        return cls(name, flat, nearness.kind, float(nearness.near), float(nearness.far), width, height, codec)

    @property
    def grid(self) -> np.ndarray:
        """The codes as (10, 10) int64; raises MalformedBlockError if they are none."""
        if len(self.codes) != 100:
            raise MalformedBlockError(f"{self.name}: a block has 100 codes; this record has {len(self.codes)}")
        return checked_codes(np.array(self.codes).reshape(10, 10))

    def to_json(self, *, text: bool = False) -> str:
        """One line of JSON; with `text`, the block of tokens beside the codes."""
        # Not `asdict`, which copies every code: the line would take eight times as long.
        values: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        if text:
            values["text"] = block_to_text(self.grid)
        return json.dumps(values)

    @classmethod
    def from_json(cls, line: str | bytes) -> DepthRecord:
        """The inverse of `to_json`; a `text` may stand instead of `codes`. Raises MalformedBlockError."""
        try:
            values = json.loads(line)
            text = values.pop("text", None)
            if text is not None and "codes" not in values:
                values["codes"] = block_from_text(text).ravel().tolist()
            return cls(**{**values, "codes": tuple(values["codes"])})
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError, AttributeError) as error:
            expected = ", ".join(one.name for one in fields(cls))
            raise MalformedBlockError(f"not a record ({error}); expected JSON with {expected}") from error


def read_records(path: Path) -> Iterator[DepthRecord]:
    """Records of a file that `write_records` wrote, by its suffix.

    Raises:
        MalformedBlockError: The file or a record in it is damaged; the message says which.
        MissingExtraError: Parquet without the extra `parquet`.
    """
    if path.suffix == ".npz":
        yield from _from_npz(path)
    elif path.suffix == ".parquet":
        yield from _from_parquet(path)
    elif path.suffix == ".jsonl":
        with path.open("rb") as file:
            yield from read_lines(file, str(path))
    else:
        raise MalformedBlockError(f"{path}: records are in {', '.join(RECORD_SUFFIXES)} files")


def read_lines(lines: Iterable[str | bytes], where: str) -> Iterator[DepthRecord]:
    """Records of JSON lines; errors name the line."""
    for number, line in enumerate(lines, 1):
        try:
            yield DepthRecord.from_json(line)
        except MalformedBlockError as error:
            raise MalformedBlockError(f"{where}, line {number}: {error}") from error


def write_records(file: BinaryIO, suffix: str, records: Sequence[DepthRecord], *, text: bool = False) -> None:
    """Write records to an open file in the format of a suffix; the same records give the same bytes."""
    if suffix == ".jsonl":
        for record in records:
            file.write((record.to_json(text=text) + "\n").encode())
    elif suffix == ".npz":
        columns = _columns(records)
        grids = np.array(columns.pop("codes"), dtype=np.uint8).reshape(-1, 10, 10)
        arrays: dict[str, Any] = {key: np.array(value) for key, value in columns.items()}
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
    return {one.name: [getattr(record, one.name) for record in records] for one in fields(DepthRecord)}


def _from_npz(path: Path) -> Iterator[DepthRecord]:
    try:
        # Opened here: np.load leaves a file open that is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            columns = {one.name: saved[one.name] for one in fields(DepthRecord)}
    except _DAMAGED as error:
        raise MalformedBlockError(f"{path}: not a file of depth records ({error})") from error
    for index, grid in enumerate(columns.pop("codes")):
        values = {key: column[index].item() for key, column in columns.items()}
        yield DepthRecord(codes=tuple(int(code) for code in grid.ravel()), **values)


def _from_parquet(path: Path) -> Iterator[DepthRecord]:
    try:
        rows = _parquet().read_table(path, columns=[one.name for one in fields(DepthRecord)]).to_pylist()
        records = [DepthRecord(**{**row, "codes": tuple(row["codes"])}) for row in rows]
    except (ValueError, KeyError, TypeError, OSError, NotImplementedError) as error:
        raise MalformedBlockError(f"{path}: not a file of depth records ({error})") from error
    yield from records


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", "a .parquet file") from error
    return pyarrow.parquet
