"""What the small LLaVA writes about held-out views, and how right it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from perceptok.decoding.engines.hf import PerceptionLogitsProcessor
from perceptok.decoding.grammar.automaton import GrammarConfig
from perceptok.decoding.reading.parsing import parse_generation
from perceptok.depth.codec import DepthCodec
from perceptok.llava.small.samples import prompt_ids
from perceptok.llava.small.views import Views
from perceptok.vocabulary.lookup import PerceptionVocabulary

__all__ = ["DepthAnswer", "answer_depth", "map_error", "point_order"]

_BATCH = 32
_LONGEST = 128
"""Tokens of an answer: the words before the block, 102 tokens, the full stop and the end."""


@dataclass(frozen=True, eq=False)
class DepthAnswer:
    """One answer.

    Attributes:
        text: What was written.
        codes: (100,) int64 of its block; None where there is not exactly one whole block, or anything malformed.
        depth: (160, 160) float32 nearness decoded from it, every second row and column, or None.
    """

    text: str
    codes: NDArray[np.int64] | None
    depth: NDArray[np.float32] | None


@torch.no_grad()
def answer_depth(
    model: Any,
    processor: Any,
    vocab: PerceptionVocabulary,
    codec: DepthCodec,
    views: Views,
    *,
    constrained: bool = True,
    bfloat16: bool = True,
) -> list[DepthAnswer]:
    """Ask for the depth map of every view; greedy, with or without the grammar."""
    tokenizer = processor.tokenizer
    prompt = torch.tensor(prompt_ids(processor))
    grammar = GrammarConfig(boxes=None, max_blocks=1, force_block="somewhere")
    held = PerceptionLogitsProcessor(vocab, grammar, tokenizer=tokenizer)
    found = []
    for start in range(0, len(views), _BATCH):
        features = views.features[start : start + _BATCH].float()
        ids = prompt.expand(len(features), -1)
        processors = [held.answering(ids, max_new_tokens=_LONGEST)] if constrained else []
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=features,
                logits_processor=processors,
                max_new_tokens=_LONGEST,
                do_sample=False,
            )
        for row in out[:, ids.shape[1] :]:
            text = tokenizer.decode(row, skip_special_tokens=True)
            parsed = parse_generation(text, vocab)
            whole = len(parsed.blocks) == 1 and not parsed.problems
            codes = parsed.blocks[0].reshape(-1) if whole else None
            found.append(
                DepthAnswer(text, codes, None if codes is None else codec.decode(codes.reshape(10, 10))[0, ::2, ::2])
            )
    return found


def map_error(maps: NDArray[np.floating[Any]], truth: NDArray[np.floating[Any]]) -> float:
    """Root mean square error of nearness over all pixels of all maps, (N, H, W) each."""
    return float(np.sqrt(np.mean((maps.astype(np.float64) - truth) ** 2)))


def point_order(depth: NDArray[np.floating[Any]], points: NDArray[np.int64], truth: NDArray[np.floating[Any]]) -> bool:
    """Whether the point (x, y) that is nearest on a map is the one that truly is; (n, 2) points in pixels of both."""
    x, y = points[:, 0], points[:, 1]
    return int(np.argmax(depth[y, x])) == int(np.argmax(truth[y, x]))
