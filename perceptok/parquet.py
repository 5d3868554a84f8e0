"""Parquet files, read row by row within limits of memory, whatever their encodings expand to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from perceptok.errors import MissingExtraError, PerceptokError, translate_errors
from perceptok.files import open_input

__all__ = ["import_parquet", "iterate_rows"]

_BATCH_ROWS = 256
_MAX_BATCH_BYTES = 2**28
"""Of the values that become Python objects at once: 268 MB."""

_MAX_FILE_BYTES, _MAX_EXPANSION = 2**30, 200
"""A file whose values take more bytes than the first, and more than this multiple of its own size, is refused."""

_MAX_ROWS, _MAX_ROWS_PER_BYTE = 2**20, 64
"""A file of more rows than the first, and of more for each of its bytes than the second, is refused."""

_MAX_VALUES_PER_ROW = 100_000
"""On average in a row group; a list of values that are all alike takes no space in a file."""


def import_parquet(purpose: str) -> Any:
    """Import `pyarrow.parquet`; raises MissingExtraError, which names what needs it, where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", purpose) from error
    return pyarrow.parquet


def iterate_rows(
    path: str | os.PathLike[str],
    error: type[PerceptokError],
    *,
    choose_columns: Callable[[Sequence[str]], list[str]] | None = None,
) -> Iterator[dict[str, Any]]:
    """Read the rows of a Parquet file as Python values.

    Text and bytes stay in their dictionaries until their size is known: a file of a megabyte can name the same value of
    ten megabytes in each row.

    Args:
        path: The file.
        error: The error to raise.
        choose_columns: Names of the file's columns -> those to read; all where None.

    Raises:
        PerceptokError: Of the type `error`: the file cannot be read, is not a regular file, is damaged, or expands
            beyond the limits.
        MissingExtraError: pyarrow is not installed.
    """
    parquet = import_parquet(f"reading {os.fspath(path)}")
    try:
        file = open_input(path)
    except OSError as reason:
        raise error(f"{path}: cannot be read ({reason.strerror or reason})") from reason
    batches = _iterate_batches(parquet, file, choose_columns)
    with file:
        while True:
            # Around reading alone: what a caller raises for a row is not an error of the file.
            with translate_errors(error, f"{path}: not a readable Parquet file"):
                rows = next(batches, None)
            if rows is None:
                return
            yield from rows


def _iterate_batches(
    parquet: Any, file: Any, choose_columns: Callable[[Sequence[str]], list[str]] | None
) -> Iterator[list[dict[str, Any]]]:
    size = os.fstat(file.fileno()).st_size
    with parquet.ParquetFile(file) as opened:
        schema, metadata, names = opened.schema, opened.metadata, opened.schema_arrow.names
    leaves = [schema.column(index) for index in range(len(schema.names))]
    if metadata.num_rows > max(_MAX_ROWS, _MAX_ROWS_PER_BYTE * size):
        raise ValueError(f"it declares {metadata.num_rows} rows in {size} bytes")
    rows = _check_row_groups(metadata, [index for index, leaf in enumerate(leaves) if "." in leaf.path])
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and "." not in leaf.path]
    columns = None if choose_columns is None else choose_columns(names)
    with parquet.ParquetFile(file, read_dictionary=texts) as source:
        expanded = 0
        for batch in source.iter_batches(rows, columns=columns):
            expanded += sum(map(_count_bytes, batch.columns))
            if expanded > max(_MAX_FILE_BYTES, _MAX_EXPANSION * size):
                raise ValueError(f"its values take more than {expanded} bytes, the file {size}")
            yield from _convert(batch)


def _check_row_groups(metadata: Any, nested: Sequence[int]) -> int:
    """Refuse too many values for the rows of a group; returns how many rows may be read at once.

    Nested columns cannot stay in their dictionaries. A value is at most as long as its column in the row group.
    """
    rows = _BATCH_ROWS
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for index in range(group.num_columns):
            column = group.column(index)
            if column.num_values > _MAX_VALUES_PER_ROW * max(1, group.num_rows):
                raise ValueError(f"a column has {column.num_values} values in {group.num_rows} rows")
            if column.total_uncompressed_size > max(_MAX_FILE_BYTES, _MAX_EXPANSION * column.total_compressed_size):
                raise ValueError(f"a column of {column.total_uncompressed_size} bytes")
            if index in nested:
                rows = max(1, min(rows, _MAX_BATCH_BYTES // max(1, column.total_uncompressed_size)))
    return rows


def _count_bytes(array: Any) -> int:
    """The bytes of an array's values, where each value from a dictionary is a copy."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(array.type):
        return int(array.nbytes)
    lengths = pc.binary_length(array.dictionary)
    return int(pc.sum(pc.take(lengths, array.indices)).as_py() or 0) + 8 * len(array)


def _convert(batch: Any) -> Iterator[list[dict[str, Any]]]:
    """The rows of a batch; halved until each part is small enough, so that the parts do not exceed the limit."""
    size = sum(map(_expanded_bytes, batch.columns))
    if size <= _MAX_BATCH_BYTES:
        yield batch.to_pylist()
    elif batch.num_rows > 1:
        middle = batch.num_rows // 2
        yield from _convert(batch.slice(0, middle))
        yield from _convert(batch.slice(middle))
    else:
        raise ValueError(f"a row of about {size} bytes; at most {_MAX_BATCH_BYTES} are read")


def _expanded_bytes(array: Any) -> int:
    """An upper bound of the bytes of an array's values, where each value from a dictionary is a copy."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(array.type):
        lengths = pc.binary_length(array.dictionary)
        return int(pc.max(lengths).as_py() or 0) * len(array)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return _expanded_bytes(array.flatten()) + 8 * len(array)
    if pa.types.is_struct(array.type):
        return sum(map(_expanded_bytes, array.flatten()))
    return int(array.nbytes)
