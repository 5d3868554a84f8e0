"""What a run over many maps has done so far: the journal of the room of files, with records and failures in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from perceptok.depth.folders.collection import MapFile
from perceptok.depth.folders.records import DepthRecord, Failure
from perceptok.errors import OutputError, PerceptokError
from perceptok.files import journal

__all__ = ["RecordJournal"]


class RecordJournal:
    """Results by the index of their map; see `perceptok.files.journal.Journal`, which keeps them.

    Args:
        output: The file that the run will write.
        codec: Fingerprint of the codec.
        maps: The inputs, in order.
        settings: Further settings of the run, as JSON types.
        start_over: Forget another run's results instead of refusing them.

    Raises:
        OutputError: As the journal, or a result in it is no record of its map.
    """

    def __init__(
        self,
        output: Path,
        codec: str,
        maps: Sequence[MapFile],
        settings: Mapping[str, Any] | None = None,
        *,
        start_over: bool,
    ) -> None:
        self.maps = maps
        inputs = hashlib.sha256("\n".join(f"{file.name}\t{file!r}" for file in maps).encode("utf-8", "surrogatepass"))
        run = {"codec": codec, "inputs": inputs.hexdigest(), "maps": len(maps), **(settings or {})}
        self._kept = journal.Journal(output, run, [journal.stamp_of(file.path) for file in maps], start_over=start_over)
        try:
            self.results = {index: self._restored(index, result) for index, result in self._kept.results.items()}
        except BaseException:
            self._kept.__exit__(None, None, None)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._kept.__exit__(kind, error, at)

    @property
    def todo(self) -> list[int]:
        """Indices of the maps without a result."""
        return self._kept.todo

    def add(self, index: int, result: DepthRecord | Failure) -> None:
        """Keep a result, on disk when this returns."""
        shown = json.loads(result.to_json()) if isinstance(result, DepthRecord) else {"failure": list(result)}
        self._kept.add(index, shown)
        self.results[index] = result

    def forget(self, index: int) -> None:
        """Do a map again, whether it was done or not."""
        self._kept.results.pop(index, None)
        self.results.pop(index, None)

    def in_order(self) -> list[DepthRecord | Failure]:
        """The result of every map, in the order of the maps."""
        ordered = [self.results[index] for index in range(len(self.maps))]
        assert [one.name for one in ordered] == [file.name for file in self.maps], "results of other inputs"
        return ordered

    def remove(self) -> None:
        """The run is done."""
        self._kept.remove()

    def _restored(self, index: int, result: Mapping[str, Any]) -> DepthRecord | Failure:
        name = self.maps[index].name
        try:
            restored = Failure(*result["failure"]) if "failure" in result else DepthRecord.from_dict(result)
            if restored.name != name:
                raise ValueError(f"the result {index} is of {restored.name}, not of {name}")
        except (ValueError, TypeError, PerceptokError) as error:
            raise OutputError(f"{self._kept.path} is damaged ({error}); remove it and encode again") from error
        return restored
