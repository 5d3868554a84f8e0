"""Settings of inference, and the arguments of `generate` that they stand for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from perceptok.config import read_config
from perceptok.decoding import GrammarConfig
from perceptok.errors import ConfigError

__all__ = [
    "Consistency",
    "InferenceConfig",
    "build_generation_settings",
    "seed_sampling",
]


Consistency = Literal["count", "list", "marker"]


@dataclass(frozen=True)
class InferenceConfig:
    """Settings of `PerceptionPipeline`; by default decoding is greedy and constrained to the grammar.

    Attributes:
        constraints: Constrain answers to the grammar: no malformed block or box, no perception token outside them.
        grammar: What an answer may contain; None allows depth blocks and boxes where the model has the tokens, and at
            most one block, since a question is about one image.
        force_block: The answer begins with a depth block ("first") or contains one ("somewhere").
        consistency: Constrain the conclusion, as AURORA words it, to the answer's own evidence: the "count" of boxes,
            the numbers of a "list" of boxes, the nearest "marker" of those given with the question.
        max_new_tokens: Maximum number of tokens of an answer; a depth block takes 102. A block or box that would not
            fit is not begun.
        batch_size: Questions per batch.
        temperature: Sampling temperature; 0 is greedy decoding.
        top_p: Nucleus sampling: the smallest set of most likely tokens with this total probability, in (0, 1].
        seed: Seed of sampling; the same seed gives the same answers for the same batches.
        skip_forced: Skip the model's forward pass for tokens that the grammar determines.

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
                raise ConfigError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not self.temperature >= 0:
            raise ConfigError(f"temperature must be 0 (greedy decoding) or above; got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be a probability above 0 and up to 1; got {self.top_p}")
        unknown = set(self.consistency) - set(get_args(Consistency))
        if unknown:
            raise ConfigError(
                f"consistency must be among {', '.join(get_args(Consistency))}; got {', '.join(sorted(unknown))}"
            )
        if self.force_block is not None and not self.constraints:
            raise ConfigError("force_block is a constraint; it needs constraints: true")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> InferenceConfig:
        """Read settings from YAML or JSON.

        Raises:
            ConfigError: The file cannot be read, or holds unknown keys or values out of range.
        """
        return read_config(cls, path)

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON types."""
        return {**asdict(self), "consistency": list(self.consistency)}

    def resolve_grammar(self, depth: bool, boxes: Literal["aurora", "compact"] | None) -> GrammarConfig:
        """The grammar for a model with or without depth tokens, and with boxes in this notation or none."""
        grammar = self.grammar or GrammarConfig(depth=depth, boxes=boxes, max_blocks=1 if depth else None)
        return replace(grammar, force_block=self.force_block) if self.force_block else grammar


def build_generation_settings(
    config: InferenceConfig, budget: int, ends: tuple[int, ...], padding: int
) -> dict[str, Any]:
    """All decoding arguments of `generate`, which overrule the checkpoint's generation_config.

    A repetition penalty of the checkpoint, for example, would push a depth map away from its own codes.

    Args:
        config: The settings.
        budget: Maximum number of new tokens.
        ends: Ids that end a sequence; empty for none.
        padding: Id of the padding token.
    """
    settings: dict[str, Any] = {
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
        settings |= {"top_k": 50, "top_p": 1.0}  # transformers warns of sampling settings other than its defaults
    return settings


@contextmanager
def seed_sampling(config: InferenceConfig) -> Iterator[None]:
    """Seed sampling, and restore the state of the caller's random generator afterwards."""
    if not config.temperature:
        yield
        return
    import torch  # so that reading a configuration does not import it

    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        yield
