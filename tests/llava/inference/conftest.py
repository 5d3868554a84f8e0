"""Answers without a model: texts as a model writes them, taken apart as the pipeline does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import PreTrainedTokenizerFast

import perceptok as pt
from perceptok.boxes import ImageFrame
from perceptok.llava import PerceptionAnswer
from perceptok.llava.inference.answer import parse_answer
from tests.llava.answering import make_image
from tests.llava.tiny import tiny_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    found = tiny_tokenizer()
    pt.extend_vocabulary(found)
    return found


@pytest.fixture(scope="session")
def vocab(tokenizer: PreTrainedTokenizerFast) -> pt.PerceptionVocabulary:
    return pt.PerceptionVocabulary.from_tokenizer(tokenizer)


@pytest.fixture(scope="session")
def block(codec: pt.DepthCodec) -> str:
    """A slope: the left is far, the right is near."""
    slope = np.linspace(0, 1, 64, dtype=np.float32)[None].repeat(48, axis=0)
    return codec.to_text(codec.encode(slope)[0])


@pytest.fixture(scope="session")
def answered(
    tokenizer: PreTrainedTokenizerFast, vocab: pt.PerceptionVocabulary, codec: pt.DepthCodec
) -> Callable[..., PerceptionAnswer]:
    """A text -> the answer that the pipeline would make of it."""

    def read(
        text: str, image: Image.Image | None = None, frame: ImageFrame | None = None, **given: Any
    ) -> PerceptionAnswer:
        image = image or make_image(120, 80)
        return parse_answer(
            tokenizer.encode(text, add_special_tokens=False),
            image=image,
            frame=frame or ImageFrame.squash(image.size),
            **{"ended": True, "question": "What is there?", "constrained": True, **given},
            vocab=vocab,
            tokenizer=tokenizer,
            codec=codec,
            box_codec=pt.BoxCodec(decode="center"),
        )

    return read
