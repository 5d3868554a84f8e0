"""What is shown of a training: progress, generated answers, and images for TensorBoard and W&B."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import TrainerCallback

from perceptok.decoding import parse_generation
from perceptok.errors import MissingExtraError
from perceptok.images import colorize_nearness, open_image
from perceptok.llava.framing import FrameRule
from perceptok.llava.loading import encode_inputs
from perceptok.llava.training.samples import TrainingSample
from perceptok.tokens import DEPTH, PIXEL
from perceptok.vocabulary import PerceptionVocabulary

if TYPE_CHECKING:
    from perceptok.depth import DepthCodec

__all__ = ["GenerationMonitor", "ProgressLines", "check_report_to", "has_perception_tokens", "log_images"]

_SECONDS_BETWEEN_LINES = 60


class ProgressLines(TrainerCallback):
    """A line on standard error at most once a minute, for logs that are not a terminal."""

    def __init__(self) -> None:
        self._begun = self._written = time.monotonic()
        self._first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Remember where the training begins."""
        self._begun, self._written, self._first_step = time.monotonic(), -math.inf, state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Write the step, the loss and the time that is left."""
        now = time.monotonic()
        if not logs or "loss" not in logs or now - self._written < _SECONDS_BETWEEN_LINES:
            return
        self._written = now
        steps = max(1, state.global_step - self._first_step)
        left = timedelta(seconds=round((now - self._begun) / steps * (state.max_steps - state.global_step)))
        sys.stderr.write(f"step {state.global_step} of {state.max_steps}, loss {logs['loss']:.4f}, {left} left\n")
        sys.stderr.flush()


def check_report_to(names: str | Sequence[str] | None) -> None:
    """Raise MissingExtraError where TensorBoard or Weights & Biases is asked for and not installed."""
    for name in [names] if isinstance(names, str) else names or ():
        if name in ("tensorboard", "wandb") and find_spec(name) is None:
            raise MissingExtraError(name, name, f"report_to: {name}")


def log_images(callbacks: Sequence[Any], images: Mapping[str, np.ndarray], step: int) -> None:
    """Log images (H, W, 3) uint8 to TensorBoard and Weights & Biases, where the Trainer has callbacks for them."""
    for callback in callbacks:
        writer = getattr(callback, "tb_writer", None)
        wandb = getattr(callback, "_wandb", None)
        for name, image in images.items():
            if writer is not None:
                writer.add_image(name, image, step, dataformats="HWC")
            if wandb is not None:
                wandb.log({name: wandb.Image(image)})


class GenerationMonitor:
    """Answers some samples without constraints while a model trains, to see what it has learned by itself."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        vocab: PerceptionVocabulary,
        codec: DepthCodec,
        frame: FrameRule,
        samples: Sequence[TrainingSample],
        *,
        num_images: int,
        autocast: torch.dtype | None,
    ) -> None:
        self._model, self._processor, self._vocab, self._codec = model, processor, vocab, codec
        self._frame, self._samples = frame, list(samples)
        self._num_images, self._autocast = num_images, autocast

    @torch.no_grad()
    def generate(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Answer every sample greedily, one at a time.

        Returns:
            Figures: valid/blocks and valid/boxes, the share of samples whose answer has blocks or boxes and nothing
            malformed, among those whose correct answer has some; missing where no sample has any. Images: (H, 2W, 3)
            uint8, a decoded depth map beside the correct one.
        """
        training = self._model.training
        self._model.eval()
        valid: dict[str, list[bool]] = {"blocks": [], "boxes": []}
        images: dict[str, np.ndarray] = {}
        try:
            for sample in self._samples:
                answer = parse_generation(self._answer(sample), self._vocab)
                correct = parse_generation(self._correct_answer(sample), self._vocab)
                if correct.blocks:
                    valid["blocks"].append(not answer.problems and bool(answer.blocks))
                if len(correct.boxes):
                    valid["boxes"].append(not answer.problems and bool(len(answer.boxes)))
                if correct.blocks and answer.blocks and len(images) < self._num_images:
                    pair = self._codec.decode([answer.blocks[0], correct.blocks[0]])
                    images[f"depth/{len(images)}"] = colorize_nearness(np.concatenate(list(pair), axis=1))
        finally:
            self._model.train(training)
        return {f"valid/{name}": sum(flags) / len(flags) for name, flags in valid.items() if flags}, images

    def _answer(self, sample: TrainingSample) -> str:
        """What the model generates after the prompt."""
        tokenizer = self._processor.tokenizer
        images = [self._frame.apply(open_image(path)) for path in sample.images]
        inputs = encode_inputs(self._processor, [sample.text], [images], [sample.suffix_ids], padding_side="left")
        device = self._model.device
        length = inputs["input_ids"].shape[1]
        answer = length - len(sample.suffix_ids) + int(sample.supervised.argmax())
        prompt = {
            name: (value[:, :answer] if value.shape[:2] == (1, length) else value).to(device)
            for name, value in inputs.items()
            if isinstance(value, torch.Tensor)
        }
        with torch.autocast(self._model.device.type, self._autocast, enabled=self._autocast is not None):
            ids = self._model.generate(
                **prompt, max_new_tokens=int(sample.supervised.sum()) + 16, do_sample=False, use_cache=True,
                pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            )  # fmt: skip
        return str(tokenizer.decode(ids[0, answer:], skip_special_tokens=True))

    def _correct_answer(self, sample: TrainingSample) -> str:
        return str(self._processor.tokenizer.decode(sample.answer_ids, skip_special_tokens=True))


def has_perception_tokens(sample: TrainingSample, vocab: PerceptionVocabulary) -> bool:
    """Whether the correct answer of a sample has perception tokens."""
    return any(
        vocab.has(tokens) and bool((vocab.codes(sample.answer_ids, tokens) >= 0).any()) for tokens in (DEPTH, PIXEL)
    )
