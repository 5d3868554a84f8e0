"""How a pipeline asks: every switch of inference as a document, and what `generate` is told for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from perceptok.config import read_config
from perceptok.decoding import GrammarConfig
from perceptok.errors import ConfigError

__all__ = ["Consistency", "InferenceConfig", "generation_settings", "seeded"]


Consistency = Literal["count", "list", "marker"]


@dataclass(frozen=True)
class InferenceConfig:
    """The switches of `PerceptionPipeline`; deterministic and held to the grammar unless it says otherwise.

    Attributes:
        constraints: Hold the answer to the grammar: no block of 99 codes, no broken box, no stray perception token.
        grammar: What an answer may hold; None is depth and boxes where the model knows them, and one block at most,
            since there is one image.
        force_block: The answer begins with a depth block ("first") or holds one ("somewhere").
        consistency: Hold the conclusion to the answer's own evidence, in AURORA's words: the "count" of boxes, the
            numbers of a "list" of boxes, the nearest "marker" of those that come with the question.
        max_new_tokens: The budget of an answer; a block takes 102 of it. No block or box is begun that it would cut.
        batch_size: Questions that go through the model at once.
        temperature: 0 takes the likeliest token always; above, tokens are drawn.
        top_p: Of draws: the likeliest tokens that have this share together.
        seed: Of draws; the same seed gives the same answers for the same batches.
        skip_forced: Tokens that the grammar leaves no choice about cost no pass through the model.

    Raises:
        ConfigError: A value out of range, or `force_block` without constraints.
    """

    constraints: bool = True
    grammar: GrammarConfig | None = None
    force_block: Literal["first", "somewhere"] | None = None
    consistency: tuple[Consistency, ...] = ()
    max_new_tokens: int = 512
    batch_size: int = 8
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    skip_forced: bool = True

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is at least 1; got {getattr(self, name)}")
        if not self.temperature >= 0:
            raise ConfigError(f"temperature is 0 (no draws) or above; got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is a share, above 0 and up to 1; got {self.top_p}")
        unknown = set(self.consistency) - set(get_args(Consistency))
        if unknown:
            raise ConfigError(f"consistency is of {', '.join(get_args(Consistency))}; got {', '.join(sorted(unknown))}")
        if self.force_block is not None and not self.constraints:
            raise ConfigError("force_block is a constraint; it needs constraints: true")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> InferenceConfig:
        """From YAML or JSON; raises ConfigError as `read_config`."""
        return read_config(cls, path)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {**asdict(self), "consistency": list(self.consistency)}

    def held_to(self, depth: bool, boxes: Literal["aurora", "compact"] | None) -> GrammarConfig:
        """The grammar of a model that knows depth blocks and boxes or not."""
        grammar = self.grammar or GrammarConfig(depth=depth, boxes=boxes, max_blocks=1 if depth else None)
        return replace(grammar, force_block=self.force_block) if self.force_block else grammar


def generation_settings(config: InferenceConfig, budget: int, ends: tuple[int, ...], padding: int) -> dict[str, Any]:
    """Settings of `generate`, all of them said: what a checkpoint's generation_config asks for does not count.

    A repetition penalty, say, would push a depth map away from its own codes.
    """
    how: dict[str, Any] = {
        "max_new_tokens": budget,
        "min_length": 0,
        "num_beams": 1,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "do_sample": config.temperature > 0,
        "top_k": 0,
        "top_p": config.top_p,
        "temperature": config.temperature or 1.0,
        "eos_token_id": list(ends) or None,
        "pad_token_id": padding,
    }
    if not config.temperature:
        how |= {"top_k": 50, "top_p": 1.0}  # transformers warns of draws' settings other than its defaults
    return how


@contextmanager
def seeded(config: InferenceConfig) -> Iterator[None]:
    """Draws from a generator of their own: the caller's stays where it was."""
    if not config.temperature:
        yield
        return
    import torch  # a configuration is read without it

    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        yield
