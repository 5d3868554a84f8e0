"""The folder of a training run: its log, its configuration, and the state to resume from."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from perceptok.errors import OutputError, TrainingError
from perceptok.files import atomic_write, locked, parse_json

__all__ = ["RunFolder"]

_CONFIG = "training.json"
_LOG = "log.csv"
_MAPS = "maps.json"
_STATE = "resume.safetensors"


class RunFolder:
    """Where a run writes: `training.json`, `maps.json`, `log.csv`, and `resume.safetensors` until it is done.

    Args:
        folder: Made where missing.
        config: Of the run, as plain JSON types.
        maps: What identifies the training maps; see `MapBank.identity`.

    Raises:
        TrainingError: The folder holds a run of another configuration or of other maps, or one that is done.
        OutputError: The folder cannot be made.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], maps: Mapping[str, Any]) -> None:
        self.folder = folder
        self.maps = dict(maps)
        self.config = json.loads(json.dumps(config))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder {folder}: {error.strerror or error}") from error
        if (folder / _CONFIG).exists():
            found = parse_json((folder / _CONFIG).read_bytes(), str(folder / _CONFIG), TrainingError)
            if not isinstance(found, dict):
                raise TrainingError(f"{folder / _CONFIG} is no configuration of a run; choose another folder")
            if found != self.config:
                wrong = next(key for key in sorted(found | self.config) if found.get(key) != self.config.get(key))
                raise TrainingError(
                    f"{folder} holds a run of another configuration: {wrong} was {found.get(wrong)!r}, now "
                    f"{self.config.get(wrong)!r}. Choose another folder, or the same configuration to go on"
                )
            if (folder / "model.safetensors").exists() and not self.has_state:
                raise TrainingError(f"{folder} holds a finished run; choose another folder to train again")
        if self.has_state:
            self._refuse_other_maps()

    def held(self) -> AbstractContextManager[None]:
        """Keeps every other process from writing into the folder."""
        return locked(self.folder / ".perceptok.lock", self.folder)

    def _refuse_other_maps(self) -> None:
        path = self.folder / _MAPS
        if not path.exists():  # of an earlier release
            return
        begun = parse_json(path.read_bytes(), str(path), TrainingError)
        if begun != self.maps:
            raise TrainingError(
                f"{self.folder} holds a run that was begun on other maps: {_counted(begun)}, now "
                f"{_counted(self.maps)}. Choose another folder, or give the same maps to go on"
            )

    @property
    def has_state(self) -> bool:
        """Whether there is a state to resume from."""
        return (self.folder / _STATE).exists()

    def read_state(self) -> dict[str, Tensor]:
        """The tensors that `write_state` saved last."""
        try:
            return load_file(self.folder / _STATE)
        except SafetensorError as error:
            raise TrainingError(f"{self.folder / _STATE} is damaged ({error}); remove it to start again") from error

    def begin(self, step: int, state: Mapping[str, Tensor]) -> None:
        """Check that there is room, write the configuration, and forget lines of the log younger than the state."""
        self._refuse_full_disk(sum(value.numel() * value.element_size() for value in state.values()))
        with atomic_write(self.folder / _CONFIG, force=True) as file:
            file.write((json.dumps(self.config, indent=2) + "\n").encode())
        with atomic_write(self.folder / _MAPS, force=True) as file:
            file.write((json.dumps(self.maps, indent=2) + "\n").encode())
        if (self.folder / _LOG).exists():
            with (self.folder / _LOG).open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if _is_whole(row) and int(row["step"]) <= step]
            # Whole or as it was: a kill here must not cost the lines of the log.
            text = io.StringIO(newline="")
            if rows:
                writer = csv.DictWriter(text, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
            with atomic_write(self.folder / _LOG, force=True) as out:
                out.write(text.getvalue().encode())

    def log(self, row: Mapping[str, Any]) -> None:
        """Add a line to the log."""
        path = self.folder / _LOG
        new = not path.exists() or not path.stat().st_size
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)

    def write_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Save the state to resume from; the one before stays whole until the new one is."""
        data = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
        self._refuse_full_disk(len(data))
        with atomic_write(self.folder / _STATE, force=True) as file:
            file.write(data)

    def finish(self) -> None:
        """Remove the state: the run is done, and the codec is saved beside the log."""
        (self.folder / _STATE).unlink(missing_ok=True)

    def _refuse_full_disk(self, needed: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < 2 * needed:
            raise OutputError(
                f"{self.folder}: {free / 2**20:.0f} MB left on the disk, but a checkpoint needs {needed / 2**20:.0f}, "
                "twice while the old one is replaced; make room and give the same command again: a run goes on from "
                "its last checkpoint"
            )


def _counted(maps: object) -> str:
    counts = maps.get("maps") if isinstance(maps, Mapping) else None
    return f"{sum(counts.values())} maps" if isinstance(counts, Mapping) else "unknown ones"


def _is_whole(row: Mapping[str | None, Any]) -> bool:
    """A kill can leave half a line at the end."""
    return None not in row and all(row.values()) and str(row["step"]).isdigit()
