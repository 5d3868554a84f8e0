"""The tiny LLaVA and the adapter that the tests of this package share."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

import perceptok as pt
from tests.llava.tiny import save_tiny_llava, tiny_trained


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random LLaVA, not extended; read only."""
    return save_tiny_llava(tmp_path_factory.mktemp("tiny") / "llava")


@pytest.fixture(scope="session")
def codec() -> pt.DepthCodec:
    """The shipped depth codec."""
    return pt.DepthCodec.from_pretrained()


@pytest.fixture(scope="session")
def tiny_adapter(tiny_llava: Path, codec: pt.DepthCodec) -> Path:
    """A folder that `save_adapter` wrote, its base beside it; read only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        model, processor, vocab = tiny_trained(tiny_llava, codec)
    return pt.llava.save_adapter(tiny_llava.parent / "adapter", model, processor, vocab, codec, verify="file")
