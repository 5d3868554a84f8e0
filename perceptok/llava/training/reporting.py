"""What is written while a run trains: a line of JSON for every log; curves and pictures on boards where asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from perceptok.depth.scores.colours import coloured_nearness
from perceptok.errors import MissingExtraError

__all__ = ["RunLog"]


class RunLog:
    """`log.jsonl` in a folder, and TensorBoard or Weights & Biases beside it."""

    def __init__(self, folder: Path, boards: Sequence[str] = ()) -> None:
        """Open a log; lines are appended to one that is there.

        Raises:
            MissingExtraError: A board that is not installed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "log.jsonl"
        self._tensorboard = _tensorboard(folder) if "tensorboard" in boards else None
        self._wandb = _wandb(folder) if "wandb" in boards else None

    def forget_after(self, step: int) -> None:
        """Drop lines younger than the step that a run goes on from."""
        if self.path.exists():
            lines = [line for line in self.path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            self.path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def write(self, step: int, values: Mapping[str, float | int]) -> None:
        """One line, and one point of every curve."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)

    def picture(self, step: int, name: str, written: np.ndarray, wanted: np.ndarray) -> None:
        """A decoded depth map beside the one it should be: nearness (H, W) each."""
        if self._tensorboard is None and self._wandb is None:
            return
        pair = coloured_nearness(np.concatenate([written, wanted], axis=1))
        if self._tensorboard is not None:
            self._tensorboard.add_image(name, pair, step, dataformats="HWC")
        if self._wandb is not None:
            self._wandb.log({name: import_module("wandb").Image(pair)}, step=step)

    def close(self) -> None:
        """Write out what the boards still hold."""
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("tensorboard", "tensorboard", "a TensorBoard log") from error
    return SummaryWriter(str(folder))


def _wandb(folder: Path) -> Any:
    try:
        wandb = import_module("wandb")
    except ImportError as error:
        raise MissingExtraError("wandb", "wandb", "a log in Weights & Biases") from error
    return wandb.init(project="perceptok", dir=str(folder))
