"""Answers of a model in training, now and then: how many of its blocks and boxes are whole, and what they look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from perceptok.decoding.reading.parsing import parse_generation
from perceptok.llava.framing import FrameRule
from perceptok.llava.processors import model_inputs
from perceptok.llava.training.reporting import RunLog
from perceptok.llava.training.samples import Sample, open_picture
from perceptok.tokens import DEPTH, PIXEL
from perceptok.vocabulary.lookup import PerceptionVocabulary

if TYPE_CHECKING:
    from perceptok.depth.codec import DepthCodec

__all__ = ["Watch"]


class Watch:
    """Some samples that are answered without constraints at a step; see `__call__`."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        vocab: PerceptionVocabulary,
        codec: DepthCodec,
        frame: FrameRule,
        samples: Sequence[Sample],
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

    def _answer(self, sample: Sample) -> str:
        """What the model writes after the prompt."""
        tokenizer = self._processor.tokenizer
        pictures = [self._frame.apply(open_picture(path)) for path in sample.images]
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

    def _taught(self, sample: Sample) -> str:
        return str(self._processor.tokenizer.decode(sample.tail[sample.taught], skip_special_tokens=True))


def wants_tokens(sample: Sample, vocab: PerceptionVocabulary) -> bool:
    """Whether the right answer of a sample holds perception tokens."""
    taught = torch.from_numpy(sample.tail[sample.taught]).long()
    return any(vocab.has(one) and bool((vocab.codes(taught, one) >= 0).any()) for one in (DEPTH, PIXEL))
