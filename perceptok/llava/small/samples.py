"""Questions and answers about a view as token ids, of one length each, so that batches need no padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from perceptok.llava.small.towers import GRID
from perceptok.tokens import DEPTH
from perceptok.vocabulary.lookup import PerceptionVocabulary

__all__ = ["ANSWER", "QUESTION", "depth_batch", "prompt_ids"]

QUESTION = "What is the depth map for the image?"
ANSWER = "The depth map for the image is "
"""What stands before the block, as in AURORA's answers."""


def prompt_ids(processor: Any, question: str = QUESTION, answer: str = "") -> list[int]:
    """Ids of a question with its picture's 100 places, and the beginning of an answer."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    text = text.replace("<image>", "<image>" * GRID**2) + answer
    ids: list[int] = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def depth_batch(processor: Any, vocab: PerceptionVocabulary, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Atomic generation: codes (B, 100) -> ids (B, T) and labels, -100 over the question."""
    question, before = prompt_ids(processor), prompt_ids(processor, answer=ANSWER)
    after = processor.tokenizer(".<|im_end|>", add_special_tokens=False)["input_ids"]
    rows = len(codes)
    ids = torch.cat(
        [
            torch.tensor([*before, vocab.start_id(DEPTH)]).expand(rows, -1),
            vocab.ids(DEPTH)[codes],
            torch.tensor([vocab.end_id(DEPTH), *after]).expand(rows, -1),
        ],
        dim=1,
    )
    assert before[: len(question)] == question, "a question's ids do not depend on what is answered"
    labels = ids.clone()
    labels[:, : len(question)] = -100
    return ids, labels
