"""A vocabulary whose perception tokens have shuffled ids, so that ids must be looked up."""

from __future__ import annotations

import numpy as np
import pytest

import perceptok as pt
from perceptok.vocabulary import VocabularyAlignment

WORDS = 34


class KnownTokens(dict[str, int]):
    """The two questions that a vocabulary asks of a tokenizer."""

    def get_vocab(self) -> dict[str, int]:
        return self


@pytest.fixture(scope="session")
def vocab() -> pt.PerceptionVocabulary:
    """500 tokens: words and perception tokens, mixed."""
    names = [f"word{index}" for index in range(WORDS)] + [*pt.tokens.DEPTH.tokens, *pt.tokens.PIXEL.tokens]
    order = np.random.default_rng(7).permutation(len(names))
    return pt.PerceptionVocabulary.from_tokenizer(KnownTokens({names[at]: index for index, at in enumerate(order)}))


@pytest.fixture(scope="session")
def shuffled() -> VocabularyAlignment:
    """A map that is not the identity."""
    return VocabularyAlignment(tuple(np.random.default_rng(3).permutation(128).tolist()), 128)
