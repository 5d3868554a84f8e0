"""One step of constrained decoding on the CPU: our processor beside xgrammar's and llguidance's masks, same grammar.

The engines are given less to do than in a server: their matchers stand where the answer stands, and a step is the mask
of every row and its application to the scores in place; taking the token written is not counted. Ours finds the state
from the ids anew, and masks in place or into a new tensor.

Run by hand: python -m pytest tests/benchmarks/test_decoding_engines.py --benchmark-enable -o addopts="" \
    --benchmark-timer=time.process_time --benchmark-columns=min,median
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

import perceptok as pt

llguidance = pytest.importorskip("llguidance", reason="needs perceptok[engines]")
llguidance_hf = pytest.importorskip("llguidance.hf", reason="needs perceptok[engines]")
llguidance_torch = pytest.importorskip("llguidance.torch", reason="needs perceptok[engines]")
xgrammar = pytest.importorskip("xgrammar", reason="needs perceptok[engines]")

WIDTHS = (32_000, 128_000, 256_000)
BATCHES = (1, 16, 256)
PLACES = ("block", "text")
Step = Callable[[torch.Tensor], object]


@cache
def tokenizer(width: int) -> PreTrainedTokenizerFast:
    """Bytes, numbered words, and the perception tokens: `width` ids."""
    tokens = [token for token_set in (pt.tokens.DEPTH, pt.tokens.PIXEL) for token in token_set.tokens]
    pieces = ["<s>", "</s>", *sorted(ByteLevel.alphabet())]
    pieces += [f"word{number}" for number in range(width - len(pieces) - len(tokens))]
    bare = Tokenizer(BPE({piece: number for number, piece in enumerate(pieces)}, []))
    bare.pre_tokenizer = ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=bare, bos_token="<s>", eos_token="</s>")
    fast.add_tokens([AddedToken(token, special=False, normalized=False) for token in tokens])
    return fast


@cache
def vocabulary(width: int) -> pt.PerceptionVocabulary:
    return pt.PerceptionVocabulary.from_tokenizer(tokenizer(width))


def written(vocab: pt.PerceptionVocabulary, place: str) -> list[int]:
    """An answer: five words, and for "block" half a block."""
    block = [vocab.start_id(pt.tokens.DEPTH), *[vocab.token_id(pt.tokens.DEPTH, 5)] * 50]
    return [300, 301, 302, 303, 304, *(block if place == "block" else [])]


@cache
def processor(width: int, in_place: bool) -> pt.PerceptionLogitsProcessor:
    return pt.PerceptionLogitsProcessor(vocabulary(width), tokenizer=tokenizer(width), in_place=in_place)


def ours(width: int, place: str, batch: int, in_place: bool = False) -> Step:
    held = processor(width, in_place)
    ids = torch.tensor([written(held.vocab, place)] * batch)
    return lambda scores: held(ids, scores)


def ours_in_place(width: int, place: str, batch: int) -> Step:
    return ours(width, place, batch, in_place=True)


@cache
def compiled(width: int) -> Any:
    vocab = vocabulary(width)
    tag = pt.decoding.build_structural_tag(vocab, tokenizer=tokenizer(width), ordered_axes="xy")
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer(width), vocab_size=width)
    return xgrammar.GrammarCompiler(info).compile_structural_tag(json.dumps(tag))


def xgrammars(width: int, place: str, batch: int) -> Step:
    vocab = vocabulary(width)
    matchers = [xgrammar.GrammarMatcher(compiled(width)) for _ in range(batch)]
    assert all(matcher.accept_token(number) for matcher in matchers for number in written(vocab, place))
    bits = xgrammar.allocate_token_bitmask(batch, width)

    def step(scores: torch.Tensor) -> torch.Tensor:
        for row, matcher in enumerate(matchers):
            matcher.fill_next_token_bitmask(bits, row)
        xgrammar.apply_token_bitmask_inplace(scores, bits)
        return scores

    return step


@cache
def template(width: int) -> Any:
    vocab = vocabulary(width)
    text = pt.decoding.build_lark_grammar(vocab, tokenizer=tokenizer(width))
    reader = llguidance_hf.from_tokenizer(tokenizer(width), n_vocab=width)
    return llguidance.LLMatcher(reader, llguidance.LLMatcher.grammar_from_lark(text), log_level=0)


def llguidances(width: int, place: str, batch: int) -> Step:
    vocab = vocabulary(width)
    matchers = [template(width).deep_copy() for _ in range(batch)]
    assert all(matcher.consume_token(number) for matcher in matchers for number in written(vocab, place))
    bits = llguidance_torch.allocate_token_bitmask(batch, width)

    def step(scores: torch.Tensor) -> torch.Tensor:
        for row, matcher in enumerate(matchers):
            llguidance_torch.fill_next_token_bitmask(matcher, bits, row)
        llguidance_torch.apply_token_bitmask_inplace(scores, bits)
        return scores

    return step


def copy(width: int, place: str, batch: int) -> Step:
    return lambda scores: scores.clone()


@pytest.mark.parametrize(
    "engine", [copy, ours, ours_in_place, xgrammars, llguidances], ids=lambda engine: engine.__name__
)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("width", WIDTHS)
def test_step(benchmark: Any, width: int, place: str, batch: int, engine: Callable[[int, str, int], Step]) -> None:
    benchmark.group = f"{width}, {place}, batch {batch}"
    torch.set_num_threads(1)
    step, scores = engine(width, place, batch), torch.randn(batch, width)
    if engine is not copy:
        assert torch.equal(torch.as_tensor(step(scores.clone())), ours(width, place, batch)(scores))  # the same grammar
    rounds = 40 if batch < 256 else 8
    benchmark.pedantic(step, setup=lambda: ((scores.clone(),), {}), rounds=rounds, warmup_rounds=1)
