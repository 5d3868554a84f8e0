"""What a run over many maps has done so far: one line for each map, held by one process, checked when it is resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from perceptok.depth.folders.collection import MapFile
from perceptok.depth.folders.records import DepthRecord, Failure
from perceptok.errors import OutputError, PerceptokError
from perceptok.files import parse_json
from perceptok.files.journal import Stamp, stamp_of
from perceptok.files.locks import open_locked

__all__ = ["Journal", "Stamp", "stamp_of"]


class Journal:
    """Results by the index of their input, in a file `OUTPUT.partial` that belongs to one process at a time.

    The first line says which run it is: codec, names and options. Each other line holds an index, the stamp of the
    input when it was read, and the result. A result whose input has another stamp by now is forgotten, and done again.

    Raises:
        OutputError: Another process holds the file, it belongs to another run (without `start_over`), is damaged, or
            cannot be written.
    """

    def __init__(self, path: Path, output: Path, codec: str, maps: Sequence[MapFile], *, start_over: bool) -> None:
        self.path, self.maps = path, maps
        self.results: dict[int, DepthRecord | Failure] = {}
        inputs = hashlib.sha256("\n".join(f"{file.name}\t{file!r}" for file in maps).encode("utf-8", "surrogatepass"))
        header = json.dumps({"codec": codec, "inputs": inputs.hexdigest(), "maps": len(maps)}).encode()
        try:
            self._file = open(open_locked(path, output), "r+b", buffering=0)  # noqa: SIM115, PTH123
        except OutputError:
            raise
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            whole = self._begun(header, start_over=start_over)
            for line in whole[1:]:
                self._restore(line)
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
        return [index for index in range(len(self.maps)) if index not in self.results]

    def add(self, index: int, stamp: Stamp, result: DepthRecord | Failure) -> None:
        """Keep a result, on disk when this returns."""
        shown: Any = json.loads(result.to_json()) if isinstance(result, DepthRecord) else {"failure": list(result)}
        self._write(json.dumps({"index": index, "stamp": stamp, "result": shown}).encode() + b"\n")
        self.results[index] = result

    def in_order(self) -> list[DepthRecord | Failure]:
        """The result of every input, in the order of the inputs."""
        ordered = [self.results[index] for index in range(len(self.maps))]
        assert [one.name for one in ordered] == [file.name for file in self.maps], "results of other inputs"
        return ordered

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
            f"{self.path} is the unfinished output of another run (other maps, options or weights); "
            "remove it, or finish that run first"
        )

    def _restore(self, line: bytes) -> None:
        """Take up a result, unless its input has changed since."""
        try:
            values = parse_json(line, str(self.path), OutputError)
            index, stamp, result = values["index"], values["stamp"], values["result"]
            file = self.maps[index]
            restored = Failure(*result["failure"]) if "failure" in result else DepthRecord.from_dict(result)
            if restored.name != file.name:
                raise ValueError(f"the result {index} is of {restored.name}, not of {file.name}")
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, PerceptokError) as error:
            raise OutputError(f"{self.path} is damaged ({error}); remove it and encode again") from error
        if stamp is not None and tuple(stamp) == stamp_of(file.path):
            self.results[index] = restored
        else:
            self.results.pop(index, None)

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
            raise _unwritable(self.path, error) from error


def _unwritable(path: Path, error: OSError) -> OutputError:
    if isinstance(error, FileNotFoundError):
        return OutputError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    return OutputError(
        f"cannot write {path}: {error.strerror or error}; what was encoded so far is in it: make room and run the "
        "command again"
    )
