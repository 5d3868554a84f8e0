"""The tiny LLaVA, its adapter and the shipped codec, as tests/llava has them."""

from tests.llava.conftest import codec, tiny_adapter, tiny_llava

__all__ = ["codec", "tiny_adapter", "tiny_llava"]
