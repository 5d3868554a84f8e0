"""Training steps to a target loss for each init of new tokens, in a small pretrained language model.

A Llama of 0.5 M parameters is pretrained on an artificial language: words that follow each other, and counting in
digits. It is then extended with each init, and trained completely on sequences of new tokens: coordinates in arithmetic
progression, and depth codes along a smooth path through a codebook. The defaults take seconds and show little; the
table in `perceptok/vocabulary/MEASUREMENTS.md` is from
`python examples/compare_inits.py --pretrain 400 --steps 300 --seeds 2`.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Digits, Sequence, WhitespaceSplit
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import perceptok as pt
from perceptok.vocabulary import extend_vocabulary

LENGTH, BATCH = 24, 16
TARGETS = {"coordinates": 3.5, "depth": 3.2}  # nats per token; uniform guessing is 5.8 and 4.9
INITS: dict[str, Any] = {
    "transformers' resize": None,
    "mean": "mean",
    "normal": "normal",
    "text": "text",
    "ordinal": "ordinal",
    "codebook": "codebook",
    "ordinal + codebook": {pt.tokens.DEPTH: "codebook", pt.tokens.PIXEL: "ordinal"},
}


class Language:
    """Words with Zipf's frequencies, each with eight possible successors; every other sequence counts."""

    def __init__(self, words: int = 500) -> None:
        names = ["<unk>", *"0123456789", ",", "pixel", "depth", "start", "end", *(f"w{n}" for n in range(words))]
        self.ids = {name: index for index, name in enumerate(names)}
        self.first = self.ids["w0"]
        seeded = torch.Generator().manual_seed(0)
        self.frequency = 1 / torch.arange(2, words + 2).float()
        self.next = torch.multinomial(self.frequency.expand(words, -1), 8, generator=seeded)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A tokenizer of its words and digits."""
        bare = Tokenizer(WordLevel(self.ids, unk_token="<unk>"))
        bare.pre_tokenizer = Sequence([WhitespaceSplit(), Digits(individual_digits=True)])
        return PreTrainedTokenizerFast(tokenizer_object=bare, unk_token="<unk>")

    def batch(self, generator: torch.Generator) -> Tensor:
        """Sequences of token ids, (BATCH, LENGTH)."""
        words = torch.multinomial(self.frequency, BATCH, replacement=True, generator=generator)[:, None]
        while words.shape[1] < LENGTH:
            choice = torch.randint(8, (BATCH, 1), generator=generator)
            words = torch.cat([words, self.next[words[:, -1:]].gather(2, choice[:, None]).squeeze(1)], 1)
        words = words + self.first
        for row in range(0, BATCH, 2):
            start, step = torch.randint(300, (2,), generator=generator).tolist()
            text = ",".join(str(start + number * (step % 9 + 1)) for number in range(LENGTH))[:LENGTH]
            words[row] = torch.tensor([self.ids[character] for character in text])
        return words


def sample_coordinates(vocab: pt.PerceptionVocabulary, generator: torch.Generator) -> Tensor:
    """Progressions of 12 values with steps -15..15, with noise of -1..1, so that the next value is uncertain."""
    step = torch.randint(-15, 16, (BATCH, 1), generator=generator)
    low, high = (-11 * step).clamp(min=0), 335 - (11 * step).clamp(min=0)
    start = low + ((high - low + 1) * torch.rand(BATCH, 1, generator=generator)).long()
    jitter = torch.randint(-1, 2, (BATCH, 12), generator=generator)
    return vocab.ids(pt.tokens.PIXEL)[(start + step * torch.arange(12) + jitter).clamp(0, 335)]


def sample_depth(vocab: pt.PerceptionVocabulary, codebook: Tensor, generator: torch.Generator) -> Tensor:
    """The codes nearest to a random walk in the space of the codebook."""
    point = torch.randn(BATCH, codebook.shape[1], generator=generator)
    codes = []
    for _ in range(LENGTH):
        codes.append(torch.cdist(point, codebook).argmin(1))
        point = 0.95 * point + 0.31 * torch.randn(point.shape, generator=generator)
    return vocab.ids(pt.tokens.DEPTH)[torch.stack(codes, 1)]


def compute_loss(model: LlamaForCausalLM, ids: Tensor) -> Tensor:
    """Cross entropy in nats per token."""
    return model(input_ids=ids, labels=ids).loss


@torch.no_grad()
def evaluate(model: LlamaForCausalLM, batch: Callable[[torch.Generator], Tensor]) -> float:
    """Mean loss on four fixed batches."""
    held_out = torch.Generator().manual_seed(1_000_000)
    return sum(compute_loss(model, batch(held_out)).item() for _ in range(4)) / 4


def pretrain(language: Language, steps: int) -> LlamaForCausalLM:
    """Train a model on the language."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(language.ids),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=None,
        eos_token_id=None,
    )
    model, generator = LlamaForCausalLM(config), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        compute_loss(model, language.batch(generator)).backward()
        optimizer.step()
    return model


def extend(
    model: LlamaForCausalLM, language: Language, init: Any, codebook: Tensor, seed: int
) -> tuple[LlamaForCausalLM, pt.PerceptionVocabulary]:
    """A copy of the model with the new tokens, and their vocabulary."""
    model, tokenizer = copy.deepcopy(model), language.tokenizer()
    if init is None:
        vocab = extend_vocabulary(tokenizer)
        torch.manual_seed(seed)
        model.resize_token_embeddings(len(tokenizer))
        return model, vocab
    takes_codebook = init == "codebook" or isinstance(init, dict)
    return model, extend_vocabulary(
        tokenizer, model, init=init, codebook=codebook if takes_codebook else None, seed=seed
    )


def train(
    model: LlamaForCausalLM, vocab: pt.PerceptionVocabulary, codebook: Tensor, seed: int, max_steps: int
) -> dict[str, int]:
    """Train on both tasks; returns the step at which each reached its target, `max_steps` + 1 where it did not."""
    tasks = {
        "coordinates": lambda generator: sample_coordinates(vocab, generator),
        "depth": lambda generator: sample_depth(vocab, codebook, generator),
    }
    generator = torch.Generator().manual_seed(3 + seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    reached: dict[str, int] = {}
    for step in range(1, max_steps + 1):
        optimizer.zero_grad()
        for batch in tasks.values():
            compute_loss(model, batch(generator)).backward()
        optimizer.step()
        if step % 10 == 0:
            for task in tasks.keys() - reached.keys():
                if evaluate(model, tasks[task]) < TARGETS[task]:
                    reached[task] = step
            if len(reached) == len(tasks):
                break
    return {task: reached.get(task, max_steps + 1) for task in tasks}


def main() -> None:
    """Pretrain once, then extend and train with each init."""
    parser = argparse.ArgumentParser(description="Steps to reach a loss, by init of the new tokens.")
    parser.add_argument("--pretrain", type=int, default=10, help="steps on the artificial language")
    parser.add_argument("--steps", type=int, default=10, help="maximum number of steps on new tokens")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds, averaged")
    options = parser.parse_args()
    language = Language()
    base = pretrain(language, options.pretrain)
    before = evaluate(base, language.batch)
    codebook = torch.randn(128, 4, generator=torch.Generator().manual_seed(2))
    print(f"old text before extension: {before:.3f} nats per token")
    goals = [f"{name} < {target}" for name, target in TARGETS.items()]
    print(f"{'init':<22}{'old text':>9}" + "".join(f"{goal:>20}" for goal in goals))
    for name, init in INITS.items():
        models = [extend(base, language, init, codebook, seed) for seed in range(options.seeds)]
        drift = sum(evaluate(model, language.batch) for model, _ in models) / len(models) - before
        reached = [train(*model, codebook, seed, options.steps) for seed, model in enumerate(models)]
        print(f"{name:<22}{drift:>+9.4f}", end="")
        for task in TARGETS:
            steps = [counts[task] for counts in reached]
            print(f"{f'> {options.steps}' if max(steps) > options.steps else sum(steps) // len(steps):>20}", end="")
        print(flush=True)


if __name__ == "__main__":
    main()
