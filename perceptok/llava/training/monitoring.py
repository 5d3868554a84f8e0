"""What is written while a run trains: a line of JSON for every log; curves and pictures on boards where asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from perceptok.decoding import parse_generation
from perceptok.errors import MissingExtraError
from perceptok.images import colorize_nearness, open_image
from perceptok.llava.framing import FrameRule
from perceptok.llava.loading import model_inputs
from perceptok.llava.training.samples import TrainingSample
from perceptok.tokens import DEPTH, PIXEL
from perceptok.vocabulary import PerceptionVocabulary

if TYPE_CHECKING:
    from perceptok.depth import DepthCodec

__all__ = ["RunLog", "Watch"]


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
        pair = colorize_nearness(np.concatenate([written, wanted], axis=1))
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


class Watch:
    """Some samples that are answered without constraints at a step; see `__call__`."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        vocab: PerceptionVocabulary,
        codec: DepthCodec,
        frame: FrameRule,
        samples: Sequence[TrainingSample],
        *,
        log: RunLog | None,
        pictures: int,
        autocast: bool,
    ) -> None:
        self._model, self._processor, self._vocab, self._codec = model, processor, vocab, codec
        self._frame, self._samples = frame, list(samples)
        self._log, self._pictures, self._autocast = log, pictures, autocast

    @torch.no_grad()
    def __call__(self, step: int) -> Mapping[str, float]:
        """Answer every sample greedily, one at a time, with no constraint: what the model has learned by itself.

        Returns:
            valid/blocks and valid/boxes: of the samples whose right answer holds some, the share whose answer holds
            some and nothing malformed. Missing where no sample holds any.
        """
        training = self._model.training
        self._model.eval()
        counts: dict[str, list[bool]] = {"blocks": [], "boxes": []}
        drawn = 0
        try:
            for sample in self._samples:
                found = parse_generation(self._answer(sample), self._vocab)
                right = parse_generation(self._taught(sample), self._vocab)
                fine = not found.problems
                if right.blocks:
                    counts["blocks"].append(fine and bool(found.blocks))
                if len(right.boxes):
                    counts["boxes"].append(fine and bool(len(found.boxes)))
                if right.blocks and found.blocks and drawn < self._pictures:
                    written, wanted = self._codec.decode([found.blocks[0], right.blocks[0]])
                    if self._log is not None:
                        self._log.picture(step, f"depth/{drawn}", written, wanted)
                    drawn += 1
        finally:
            self._model.train(training)
        return {f"valid/{name}": sum(kept) / len(kept) for name, kept in counts.items() if kept}

    def _answer(self, sample: TrainingSample) -> str:
        """What the model writes after the prompt."""
        tokenizer = self._processor.tokenizer
        pictures = [self._frame.apply(open_image(path)) for path in sample.images]
        whole = model_inputs(self._processor, [sample.text], [pictures], [sample.tail], side="left")
        device = self._model.device
        batch = {name: one.to(device) if isinstance(one, torch.Tensor) else one for name, one in whole.items()}
        cut = batch["input_ids"].shape[1] - len(sample.tail) + int(sample.taught.argmax())  # the answer begins here
        length = batch["input_ids"].shape[1]
        given = {
            name: value[:, :cut] if isinstance(value, torch.Tensor) and value.shape[:2] == (1, length) else value
            for name, value in batch.items()
        }
        with torch.autocast(self._model.device.type, torch.bfloat16, enabled=self._autocast):
            ids = self._model.generate(
                **given, max_new_tokens=int(sample.taught.sum()) + 16, do_sample=False, use_cache=True,
                pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            )  # fmt: skip
        return str(tokenizer.decode(ids[0, cut:], skip_special_tokens=True))

    def _taught(self, sample: TrainingSample) -> str:
        return str(self._processor.tokenizer.decode(sample.tail[sample.taught], skip_special_tokens=True))


def wants_tokens(sample: TrainingSample, vocab: PerceptionVocabulary) -> bool:
    """Whether the right answer of a sample holds perception tokens."""
    taught = torch.from_numpy(sample.tail[sample.taught]).long()
    return any(vocab.has(one) and bool((vocab.codes(taught, one) >= 0).any()) for one in (DEPTH, PIXEL))
