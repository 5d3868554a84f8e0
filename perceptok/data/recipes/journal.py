"""What a build has done so far, on disk: a line for each finished piece of work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from perceptok.data.records import PerceptionRecord
from perceptok.errors import OutputError
from perceptok.files import parse_json

__all__ = ["Journal", "Rejection"]


class Rejection(NamedTuple):
    """A sample that no record was made of, and why."""

    name: str
    reason: str


class Journal:
    """Records and rejections of one set, in order, piece by piece; read from disk whenever they are asked for.

    Args:
        path: The file; continued where it exists.
        run: What the pieces belong to.
        start_over: Forget what is there.

    Raises:
        OutputError: The file belongs to another run, is damaged, or cannot be written.
    """

    def __init__(self, path: Path, run: str, *, start_over: bool = False) -> None:
        self.path, self.pieces = path, 0
        header = json.dumps({"run": run}) + "\n"
        try:
            if start_over or not path.exists():
                path.write_text(header, encoding="utf-8")
                return
            with path.open("r+b") as file:
                first = file.readline()
                if first and first.endswith(b"\n") and first != header.encode():
                    raise OutputError(
                        f"{path} belongs to an unfinished build of another recipe; remove it, finish that build, or "
                        "start over with force (--force)"
                    )
                whole = len(first)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # a killed run can leave half a line
                    self.pieces += 1
                    whole += len(line)
                file.truncate(whole if first.endswith(b"\n") else 0)
            if not first.endswith(b"\n"):
                path.write_text(header, encoding="utf-8")
        except OutputError:
            raise
        except OSError as error:
            raise self._unwritable(error) from error

    def add(self, records: list[PerceptionRecord], rejected: list[Rejection]) -> None:
        """One finished piece; raises OutputError where it cannot be written."""
        line = {"records": [one.to_dict() for one in records], "rejected": [list(one) for one in rejected]}
        try:
            with self.path.open("ab") as file:
                file.write((json.dumps(line) + "\n").encode())
        except OSError as error:
            raise self._unwritable(error) from error
        self.pieces += 1

    def records(self) -> Iterator[PerceptionRecord]:
        """Every record so far."""
        for piece in self._read():
            for values in piece["records"]:
                yield PerceptionRecord.from_dict(values, str(self.path))

    def rejections(self) -> Iterator[Rejection]:
        """Every rejected sample so far."""
        for piece in self._read():
            for name, reason in piece["rejected"]:
                yield Rejection(name, reason)

    def remove(self) -> None:
        """Once the output is written."""
        self.path.unlink()

    def _read(self) -> Iterator[dict[str, Any]]:
        with self.path.open("rb") as file:
            next(file)
            for number, line in enumerate(file, 2):
                piece = parse_json(line, f"{self.path}, line {number}", OutputError)
                if not isinstance(piece, dict) or piece.keys() != {"records", "rejected"}:
                    raise OutputError(f"{self.path}, line {number} is damaged; remove the file and build again")
                yield piece

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError(
            f"cannot write {self.path}: {error.strerror}; what was made so far is kept: make room and run the command "
            "again"
        )
