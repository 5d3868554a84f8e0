"""Results of a long run, kept as they come, so that the same command goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from perceptok.errors import OutputError, PerceptokError
from perceptok.files.locks import open_locked
from perceptok.files.parsing import parse_json

__all__ = ["Journal", "Stamp", "stamp_of"]

Stamp = tuple[int, int] | None
"""Size in bytes and time of modification in nanoseconds of an input; None where it cannot be told."""


class Journal:
    """Results, JSON objects by the index of their input, in `OUTPUT.partial`, which belongs to one process at a time.

    The first line says which run it is. Each other line holds an index, the stamp of the input, and the result; a
    result whose input has another stamp by now is forgotten, and done again.

    Attributes:
        path: The file of the journal.
        results: By index; results of inputs that changed since are not among them.

    Args:
        output: The file that the run will write.
        run: What makes it this run: inputs, options, weights, as JSON types.
        stamps: Of each input, as it is now.
        start_over: Forget another run's results instead of refusing them.

    Raises:
        OutputError: Another process holds the file, it belongs to another run, is damaged, or cannot be written.
    """

    def __init__(
        self, output: Path, run: Mapping[str, Any], stamps: Sequence[Stamp], *, start_over: bool = False
    ) -> None:
        self.path = output.with_name(output.name + ".partial")
        self._stamps = list(stamps)
        self.results: dict[int, dict[str, Any]] = {}
        header = json.dumps(run).encode()
        try:
            self._file = open(open_locked(self.path, output), "r+b", buffering=0)  # noqa: SIM115, PTH123
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            whole = self._begun(header, start_over=start_over)
            for number, line in enumerate(whole[1:], 2):
                self._restore(line, f"{self.path}, line {number}")
            self._write(b"".join(whole) or header + b"\n", from_start=True)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    @property
    def todo(self) -> list[int]:
        """Indices of the inputs without a result."""
        return [index for index in range(len(self._stamps)) if index not in self.results]

    def add(self, index: int, result: dict[str, Any]) -> None:
        """Keep a result; it is in the file when this returns."""
        line = {"index": index, "stamp": self._stamps[index], "result": result}
        self._write(json.dumps(line).encode() + b"\n")
        self.results[index] = result

    def in_order(self) -> list[dict[str, Any]]:
        """The result of every input, in the order of the inputs."""
        return [self.results[index] for index in range(len(self._stamps))]

    def remove(self) -> None:
        """The run is done."""
        self.path.unlink()

    def _begun(self, header: bytes, *, start_over: bool) -> list[bytes]:
        """The lines of the run so far, the header first; none at its start."""
        found = self._file.readall()
        # A killed run can leave half a line.
        whole = found[: found.rfind(b"\n") + 1].splitlines(keepends=True)
        if not whole or whole[0].rstrip() == header:
            return whole
        if start_over:
            return []
        raise OutputError(
            f"{self.path} is the unfinished output of another run (other inputs, options or weights); remove it, or "
            "finish that run first"
        )

    def _restore(self, line: bytes, name: str) -> None:
        """Take up a result, unless its input has changed since."""
        try:
            values = parse_json(line, name, OutputError)
            index, stamp, result = values["index"], values["stamp"], values["result"]
            now = self._stamps[index]
            if not isinstance(result, dict):
                raise TypeError("its result is no object")
        except (ValueError, TypeError, KeyError, IndexError, PerceptokError) as error:
            raise OutputError(f"{name}: damaged ({error}); remove the file and start again") from error
        self.results.pop(index, None)
        if now is not None and stamp == list(now):
            self.results[index] = result

    def _write(self, data: bytes, *, from_start: bool = False) -> None:
        try:
            if from_start:
                self._file.seek(0)
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
            if from_start:
                self._file.truncate()
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> OutputError:
        if isinstance(error, OutputError):
            return error
        if isinstance(error, FileNotFoundError):
            folder = self.path.parent
            return OutputError(f"cannot write {self.path}: the folder {folder} does not exist; create it first")
        return OutputError(
            f"cannot write {self.path}: {error.strerror or error}; what was done so far is in it: make room and run "
            "the command again"
        )


def stamp_of(path: str | os.PathLike[str]) -> Stamp:
    """What tells an input from what stood under its name before; a file that is not there has none."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns
