"""One step of constrained decoding: our processor, merely copying the scores, and transformers' prefix function.

Run by hand: python -m pytest tests/benchmarks/test_decoding.py --benchmark-enable --benchmark-only -o addopts=""
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PrefixConstrainedLogitsProcessor

import perceptok as pt
from perceptok.decoding import GrammarConfig, PerceptionLogitsProcessor, generate_perception

BATCHES = (1, 16, 256)
WIDTHS = (32_000, 128_000, 256_000)
LENGTHS = (100, 1_000, 8_000)


class Words(dict[str, int]):
    """A tokenizer of any size: numbered words, brackets, perception tokens."""

    eos_token_id = 2

    def __init__(self, size: int) -> None:
        named = [
            "<unk>",
            "<s>",
            "</s>",
            "(",
            ",",
            ")",
            ").",
            *(token for token_set in (pt.tokens.DEPTH, pt.tokens.PIXEL) for token in token_set.tokens),
        ]
        words = [f"word{number}" for number in range(size - len(named))]
        super().__init__((token, number) for number, token in enumerate(named[:7] + words + named[7:]))

    def get_vocab(self) -> dict[str, int]:
        return self

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [self.get(piece, 0) for piece in re.findall(r"<\w+>|[(,)]|\w+", text)]}


@cache
def setting(width: int) -> tuple[pt.PerceptionVocabulary, PerceptionLogitsProcessor]:
    tokenizer = Words(width)
    vocab = pt.PerceptionVocabulary.from_tokenizer(tokenizer)
    return vocab, PerceptionLogitsProcessor(vocab, tokenizer=tokenizer)


def inputs(where: str, batch: int, width: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids in text, or 50 codes into a block; scores."""
    torch.manual_seed(0)
    vocab, _ = setting(width)
    ids = torch.randint(10, width - 500, (batch, length))
    if where == "block":
        ids[:, -51] = vocab.start_id(pt.tokens.DEPTH)
        ids[:, -50:] = vocab.token_id(pt.tokens.DEPTH, 5)
    return ids, torch.randn(batch, width)


def prefix_function(width: int) -> Callable[[int, torch.Tensor], list[int]]:
    """A prefix function of transformers for depth blocks: a list of ids per state."""
    vocab, _ = setting(width)
    codes, start, end = (
        vocab.ids(pt.tokens.DEPTH).tolist(),
        vocab.start_id(pt.tokens.DEPTH),
        vocab.end_id(pt.tokens.DEPTH),
    )
    text = [number for number in range(width) if number == start or not vocab.is_perception(number)]
    known = set(codes)

    def allowed(_: int, ids: torch.Tensor) -> list[int]:
        written = ids[-102:].tolist()
        for back, number in enumerate(reversed(written)):
            if number == start:
                return codes if back < 100 else [end]
            if number not in known:
                break
        return text

    return allowed


def measured(benchmark: Any, call: Callable[[], object], batch: int, rounds: int | None = None) -> None:
    torch.set_num_threads(1)
    benchmark.pedantic(call, rounds=rounds or (200 if batch == 1 else 60 if batch == 16 else 8), warmup_rounds=1)


GRID = [
    pytest.param(where, batch, width, 1_000, id=f"{where}-b{batch}-v{width}")
    for where in ("text", "block")
    for batch in BATCHES
    for width in WIDTHS
]
LONG = [pytest.param("block", 16, 32_000, length, id=f"block-b16-v32000-t{length}") for length in LENGTHS]


@pytest.mark.parametrize(("where", "batch", "width", "length"), GRID + LONG)
def test_perceptok(benchmark: Any, where: str, batch: int, width: int, length: int) -> None:
    (ids, scores), (_, processor) = inputs(where, batch, width, length), setting(width)
    benchmark.group = f"{where}, batch {batch}, vocabulary {width}, length {length}"
    measured(benchmark, lambda: processor(ids, scores), batch)


@pytest.mark.parametrize(("where", "batch", "width", "length"), GRID + LONG)
def test_copy(benchmark: Any, where: str, batch: int, width: int, length: int) -> None:
    _, scores = inputs(where, batch, width, length)
    benchmark.group = f"{where}, batch {batch}, vocabulary {width}, length {length}"
    measured(benchmark, scores.clone, batch)


@pytest.mark.parametrize(
    ("where", "batch", "width", "length"), [case for case in GRID if case.values[2] == 32_000] + LONG
)
def test_prefix_function(benchmark: Any, where: str, batch: int, width: int, length: int) -> None:
    ids, scores = inputs(where, batch, width, length)
    processor = PrefixConstrainedLogitsProcessor(prefix_function(width), num_beams=1)
    benchmark.group = f"{where}, batch {batch}, vocabulary {width}, length {length}"
    measured(benchmark, lambda: processor(ids, scores), batch, rounds=3 if where == "text" else 10)


@pytest.fixture(scope="module")
def language_model() -> LlamaForCausalLM:
    """A random Llama of 46 million weights."""
    torch.manual_seed(0)
    size = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 8}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    return LlamaForCausalLM(LlamaConfig(**size, **ends, vocab_size=32_000)).eval()


@pytest.mark.parametrize("how", ["a pass per token", "no pass for forced tokens"])
@pytest.mark.parametrize(("first", "tokens"), [("block", 102), ("box", 9)])
def test_generation(benchmark: Any, language_model: LlamaForCausalLM, how: str, first: Any, tokens: int) -> None:
    vocab, _ = setting(32_000)
    config = GrammarConfig(first=first, max_blocks=1, max_boxes=1)
    processor = PerceptionLogitsProcessor(vocab, config, tokenizer=Words(32_000))
    prompt = torch.randint(10, 31_000, (1, 8))
    held = processor.for_prompt(prompt, max_new_tokens=tokens)
    extra = {"custom_generate": generate_perception} if how.startswith("no") else {}
    passes = [0]
    hook = language_model.register_forward_pre_hook(lambda *_: passes.__setitem__(0, passes[0] + 1))

    def run() -> None:
        passes[0] = 0
        language_model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            logits_processor=[held],
            max_new_tokens=tokens,
            do_sample=False,
            **extra,
        )

    benchmark.group = f"generation of one {first}, {tokens} tokens"
    measured(benchmark, run, 1, rounds=5)
    benchmark.extra_info["passes"] = passes[0]
    hook.remove()
