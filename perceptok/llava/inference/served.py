"""Answers that a serving engine wrote: the same evidence from its text, without a model at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from perceptok.boxes.codec import BoxCodec
from perceptok.depth.codec import DepthCodec
from perceptok.errors import VocabularyError
from perceptok.llava.framing import FrameRule
from perceptok.llava.inference.answers import PerceptionAnswer, read_written
from perceptok.llava.inference.pictures import PictureSource, open_picture
from perceptok.vocabulary.lookup import PerceptionVocabulary

__all__ = ["read_served"]


def read_served(
    text: str,
    image: PictureSource,
    question: str,
    *,
    vocab: PerceptionVocabulary,
    tokenizer: Any,
    codec: DepthCodec,
    frame: str | FrameRule = "squash",
    ended: bool = True,
    constrained: bool = True,
    choices: Sequence[str] = (),
    markers: Mapping[str, tuple[float, float]] | None = None,
) -> PerceptionAnswer:
    """A served text as `PerceptionPipeline` would have read it.

    Args:
        text: What the engine returned.
        image: The one that it was asked about, as it is, not framed.
        question: As asked.
        vocab: Of the served model; `PerceptionVocabulary.from_pretrained(folder)`.
        tokenizer: Of the served model.
        codec: Of the served model.
        frame: How the image reached it; "squash" or "letterbox", or a rule of these.
        ended: Whether the engine says that the model stopped by itself (`finish_reason` "stop").
        constrained: Whether the request was held to the grammar.
        choices: What the answer may be; empty for anything.
        markers: Letter -> x, y in the image's pixels.

    Raises:
        InferenceError: An image that cannot be read.
        VocabularyError: The model's codes are another codec's.
    """
    if vocab.codec_fingerprint not in (None, codec.fingerprint):
        raise VocabularyError(
            f"the model's DEPTH tokens mean codes of the codec {vocab.codec_fingerprint}, this codec is "
            f"{codec.fingerprint}; load the codec that lies beside the model"
        )
    picture = open_picture(image)
    return read_written(
        tokenizer.encode(text, add_special_tokens=False),
        ended=ended,
        question=question,
        image=picture,
        frame=FrameRule.read(frame).frame_of(picture.size),
        vocab=vocab,
        tokenizer=tokenizer,
        codec=codec,
        box_codec=BoxCodec(decode="center"),
        constrained=constrained,
        choices=choices,
        markers=markers,
    )
