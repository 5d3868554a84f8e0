"""Small tokenizers with the perception tokens."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

import perceptok as pt


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Ten words, then every perception token in AURORA's order."""
    words = {word: index for index, word in enumerate(["<unk>", "<s>", "</s>", "a", "map", "box", "(", ",", ")", "."])}
    bare = Tokenizer(WordLevel(words, unk_token="<unk>"))
    bare.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=bare, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    tokens = [token for one in (pt.DEPTH, pt.PIXEL) for token in one.tokens]
    fast.add_tokens([AddedToken(token, special=False, normalized=False) for token in tokens])
    return fast
