"""Constrained against free generation, and the start of the command, each in one run.

Run by hand: python -m pytest tests/benchmarks/test_inference.py -s -o addopts="" (two minutes on an idle machine). The
model has random weights in the shape of SmolLM2-135M but for its depth (10 of 30 layers of 576; 49,152 + 466 tokens),
behind a tower of 16 image tokens. Free and constrained answers have the same number of tokens and take turns; what is
compared is processor time per token, the least of the rounds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

import perceptok as pt
from perceptok.llava import InferenceConfig, PerceptionPipeline
from tests.llava.answering import make_image
from tests.llava.conftest import codec, tiny_adapter, tiny_llava

__all__ = ["codec", "tiny_adapter", "tiny_llava"]

_IMPORTS = "import torch; from transformers import LlavaForConditionalGeneration, LlavaProcessor"

TOKENS = 104
ROUNDS = int(os.environ.get("PERCEPTOK_ROUNDS", "3"))


@pytest.fixture(scope="module")
def pipe() -> PerceptionPipeline:
    pieces = ["<s>", "</s>", "<pad>", "<image>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces += [f"word{number}" for number in range(49_152 - len(pieces))]
    inner = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )
    text = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=10,
        num_attention_heads=9,
        num_key_value_heads=3,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        tie_word_embeddings=True,
    )
    tower = transformers.CLIPVisionConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
    )
    config = transformers.LlavaConfig(
        text_config=text, vision_config=tower, image_token_index=3, image_seq_length=16, tie_word_embeddings=True
    )
    torch.manual_seed(0)
    model: Any = transformers.LlavaForConditionalGeneration(config)
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"height": 56, "width": 56}, do_center_crop=False),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    vocab = pt.extend_vocabulary(tokenizer, model)
    model.generation_config.eos_token_id = None  # no answer ends early
    tokenizer.eos_token = None
    return PerceptionPipeline(model, processor, vocab)


KINDS: dict[str, dict[str, Any]] = {
    "free": {"constraints": False},
    "constrained": {"grammar": pt.decoding.GrammarConfig(first="block", max_blocks=1), "skip_forced": False},
    "constrained, forced tokens skipped": {"grammar": pt.decoding.GrammarConfig(first="block", max_blocks=1)},
}


@pytest.mark.parametrize("batch", [1, 16])
def test_ratio_of_constrained_to_free(pipe: PerceptionPipeline, batch: int) -> None:
    images = [make_image(60, 40, number) for number in range(batch)]
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(ROUNDS):
        for kind, options in KINDS.items():
            pipe.config = InferenceConfig(max_new_tokens=TOKENS, batch_size=batch, **options)
            start = time.process_time()
            answers = pipe(images, "What is the depth map?")
            seconds[kind].append((time.process_time() - start) / sum(answer.tokens for answer in answers))
            assert {answer.tokens for answer in answers} == {TOKENS}
            assert kind == "free" or all(len(answer.blocks) == 1 for answer in answers)
    free = min(seconds["free"])
    for kind, found in seconds.items():
        print(f"batch {batch:2}, {kind}: {1 / min(found):.1f} tokens/s, {min(found) / free:.3f} of free's time")
    assert min(seconds["constrained"]) < 1.15 * free


def test_time_to_start_the_command(tiny_adapter: Path, tmp_path: Path) -> None:
    """What `perceptok llava infer` costs beside its model: against importing torch and transformers' LLaVA alone."""
    make_image(60, 40).save(tmp_path / "a.png")
    ask = ["perceptok_cli.main", "llava", "infer", str(tiny_adapter), str(tmp_path / "a.png"), "-q", "Why?"]
    commands = {
        "help": ["-m", "perceptok_cli.main", "llava", "infer", "--help"],
        "torch and transformers' LLaVA": [
            "-c",
            "import torch; from transformers import LlavaForConditionalGeneration, LlavaProcessor",
        ],
        "a tiny model, one answer of one token": ["-m", *ask, "--max-new-tokens", "1"],
    }
    found = {name: min(_seconds(words) for _ in range(ROUNDS)) for name, words in commands.items()}
    for name, value in found.items():
        print(f"{name}: {value:.2f} s of processor time")
    assert found["help"] < 0.5 * found["torch and transformers' LLaVA"]


def _seconds(words: list[str]) -> float:
    before = os.times()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system
