"""Small tokenizers with the perception tokens, and tiny models for them."""

from __future__ import annotations

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import perceptok as pt

WORDS = ["<unk>", "<s>", "</s>", "<pad>", "a", "map", "box", "(", ",", ")", ").", "),(", ":(", ".", "1", "2", "A", "B"]


def with_perception_tokens(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokens = [token for token_set in (pt.tokens.DEPTH, pt.tokens.PIXEL) for token in token_set.tokens]
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in tokens])
    return tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Eighteen words, then every perception token in AURORA's order."""
    bare = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return with_perception_tokens(
        PreTrainedTokenizerFast(
            tokenizer_object=bare, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
        )
    )


@pytest.fixture(scope="session")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE as GPT-2's, trained on a few sentences."""
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    bare.train_from_iterator(["the box (see above), the box (and more). f(x),(y) (a)."] * 20, trainer)
    return with_perception_tokens(PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="<|end|>"))


@pytest.fixture(scope="session")
def vocab(tokenizer: PreTrainedTokenizerFast) -> pt.PerceptionVocabulary:
    return pt.PerceptionVocabulary.from_tokenizer(tokenizer)


@pytest.fixture(scope="session")
def model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A random Llama whose logits are wider than the tokenizer and spread enough that samples vary."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 12,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    return LlamaForCausalLM(config).eval()
