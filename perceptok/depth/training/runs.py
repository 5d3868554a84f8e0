"""The folder of a training run: its log, its configuration, and the state to resume from."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from perceptok.errors import OutputError, TrainingError
from perceptok.files import atomic_write

__all__ = ["RunFolder"]

_CONFIG = "training.json"
_LOG = "log.csv"
_STATE = "resume.safetensors"


class RunFolder:
    """Where a run writes: `training.json`, `log.csv`, and `resume.safetensors` until it is done.

    Raises:
        TrainingError: The folder holds a run of another configuration, or one that is done.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder = folder
        self.config = json.loads(json.dumps(config))
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / _CONFIG).exists():
            found = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
            if found != self.config:
                wrong = next(key for key in sorted(found | self.config) if found.get(key) != self.config.get(key))
                raise TrainingError(
                    f"{folder} holds a run of another configuration: {wrong} was {found.get(wrong)!r}, now "
                    f"{self.config.get(wrong)!r}. Choose another folder, or the same configuration to go on"
                )
            if (folder / "model.safetensors").exists() and not self.has_state:
                raise TrainingError(f"{folder} holds a finished run; choose another folder to train again")

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
        if (self.folder / _LOG).exists():
            with (self.folder / _LOG).open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
            (self.folder / _LOG).unlink()
            for row in rows:
                self.log(row)

    def log(self, row: Mapping[str, Any]) -> None:
        """Add a line to the log."""
        path = self.folder / _LOG
        new = not path.exists()
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
