"""Plain checkpoints: stock transformers and peft read them, and they say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors import safe_open
from typer.testing import CliRunner

from perceptok.errors import OutputError
from perceptok.llava import export_adapter, load_adapter, merge_adapter
from perceptok.llava.saving import probe_logits
from perceptok_cli.main import app

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")


def test_merged(tiny_adapter: Path, tmp_path: Path) -> None:
    command = ["llava", "merge", str(tiny_adapter), "-o", str(tmp_path / "m")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    loaded = load_adapter(tiny_adapter)
    expected = probe_logits(loaded.model, loaded.processor, loaded.vocab, loaded.frame)
    stock = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "m")
    processor: Any = transformers.AutoProcessor.from_pretrained(tmp_path / "m")  # type: ignore[no-untyped-call]
    assert type(stock) is transformers.LlavaForConditionalGeneration
    assert torch.allclose(probe_logits(stock, processor, loaded.vocab, loaded.frame), expected, atol=1e-4)
    assert processor.image_processor.size == {"height": 56, "width": 56}  # an engine squashes as the training did
    assert isinstance(CliRunner().invoke(app, command).exception, OutputError)  # never replaced without --force


def test_exported(tiny_adapter: Path, tmp_path: Path) -> None:
    export_adapter(tiny_adapter, tmp_path / "e")
    loaded = load_adapter(tiny_adapter)
    expected = probe_logits(loaded.model, loaded.processor, loaded.vocab, loaded.frame)
    with safe_open(tmp_path / "e" / "lora" / "adapter_model.safetensors", "pt") as file:
        assert all("lora_" in name for name in file.keys())  # noqa: SIM118
    stock = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "e" / "base")
    bare = probe_logits(stock, loaded.processor, loaded.vocab, loaded.frame)
    assert not torch.allclose(bare, expected, atol=1e-2)
    both = peft.PeftModel.from_pretrained(stock, tmp_path / "e" / "lora")
    assert torch.allclose(probe_logits(both, loaded.processor, loaded.vocab, loaded.frame), expected, atol=1e-4)


def test_a_merged_model_is_a_base_again(tiny_adapter: Path, tmp_path: Path) -> None:
    from perceptok.llava import load_llava

    merge_adapter(tiny_adapter, tmp_path / "m")
    loaded = load_adapter(tiny_adapter)
    model, processor, vocab = load_llava(tmp_path / "m", codec=loaded.codec)
    assert vocab.tokens == loaded.vocab.tokens
    expected = probe_logits(loaded.model, loaded.processor, loaded.vocab, loaded.frame)
    assert torch.allclose(probe_logits(model, processor, vocab, loaded.frame), expected, atol=1e-4)
