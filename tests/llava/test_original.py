"""Adapters of LLaVA's original format, made here in its layout: the same logits under transformers' names and ids."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import perceptok as pt
from perceptok.errors import CheckpointError
from perceptok.llava import import_original
from perceptok.llava.saving import probe_logits
from perceptok.vocabulary import consecutive_vocabulary

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

FIRST = 404
"""The original adds its tokens behind the base's, other ids than ours: the tiny tokenizer has 400 of its own."""


def original_files(folder: Path) -> dict[str, Tensor]:
    """A folder as LLaVA's trainer leaves it, and its tensors by their names there."""
    torch.manual_seed(7)
    folder.mkdir()
    lora = {}
    for layer in range(2):
        for name in ("self_attn.q_proj", "mlp.down_proj"):
            wide = 64 if name == "mlp.down_proj" else 32
            stem = f"base_model.model.model.layers.{layer}.{name}"
            lora[f"{stem}.lora_A.weight"] = torch.randn(4, wide) * 0.2
            lora[f"{stem}.lora_B.weight"] = torch.randn(32, 4) * 0.2
    rows = FIRST + 466
    others = {
        "base_model.model.model.embed_tokens.weight": torch.randn(rows, 32) * 0.1,
        "base_model.model.lm_head.weight": torch.randn(rows, 32) * 0.1,
        "base_model.model.model.mm_projector.0.weight": torch.randn(32, 16) * 0.1,
        "base_model.model.model.mm_projector.0.bias": torch.randn(32) * 0.1,
        "base_model.model.model.mm_projector.2.weight": torch.randn(32, 32) * 0.1,
        "base_model.model.model.mm_projector.2.bias": torch.randn(32) * 0.1,
    }
    torch.save(lora, folder / "adapter_model.bin")
    torch.save(others, folder / "non_lora_trainables.bin")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    return {**lora, **others}


def by_hand(base: Path, codec: pt.DepthCodec, tensors: dict[str, Tensor]) -> tuple[Any, Any, pt.PerceptionVocabulary]:
    """The base with everything added to its own weights, tensor by tensor."""
    model, processor, vocab = pt.load_llava(base, codec=codec)
    weights: Any = model
    inner = weights.model.language_model
    with torch.no_grad():
        for layer in range(2):
            for name in ("self_attn.q_proj", "mlp.down_proj"):
                stem = f"base_model.model.model.layers.{layer}.{name}"
                update = tensors[f"{stem}.lora_B.weight"] @ tensors[f"{stem}.lora_A.weight"]
                inner.layers[layer].get_submodule(name).weight += 2.0 * update
        old = consecutive_vocabulary(FIRST)
        for matrix, name in ((inner.embed_tokens.weight, "model.embed_tokens"), (weights.lm_head.weight, "lm_head")):
            source = tensors[f"base_model.model.{name}.weight"]
            matrix[:400] = source[:400]
            for token, index in vocab.tokens.items():
                matrix[index] = source[old.tokens[token]]
        for number, mine in ((0, "linear_1"), (2, "linear_2")):
            for part in ("weight", "bias"):
                target = weights.model.multi_modal_projector.get_parameter(f"{mine}.{part}")
                target.copy_(tensors[f"base_model.model.model.mm_projector.{number}.{part}"])
    return model, processor, vocab


def test_the_same_logits(tiny_llava: Path, codec: pt.DepthCodec, tmp_path: Path) -> None:
    tensors = original_files(tmp_path / "original")
    folder = import_original(tmp_path / "original", tiny_llava, tmp_path / "ours", codec=codec, first_id=FIRST)
    loaded = pt.llava.load_adapter(folder)
    found = probe_logits(loaded.model, loaded.processor, loaded.vocab, loaded.frame)
    wanted = probe_logits(*by_hand(tiny_llava, codec, tensors), loaded.frame)
    assert torch.allclose(found, wanted, atol=1e-4)
    assert not list(folder.rglob("*.bin"))
    with pytest.raises(CheckpointError, match=r"LLaVA's original format; convert it with import_original"):
        pt.load_llava(tmp_path / "original")


def test_names_as_other_releases_write_them(tiny_llava: Path, codec: pt.DepthCodec, tmp_path: Path) -> None:
    """LLaVA's loader takes names with and without what peft puts before them, its trainer writes `.default.` too."""
    folder = tmp_path / "original"
    tensors = original_files(folder)
    first = import_original(folder, tiny_llava, tmp_path / "first", codec=codec, first_id=FIRST)
    lora = {name.replace(".weight", ".default.weight"): tensor for name, tensor in tensors.items() if ".lora_" in name}
    others = {
        name.removeprefix("base_model.model."): tensor for name, tensor in tensors.items() if ".lora_" not in name
    }
    torch.save(lora, folder / "adapter_model.bin")
    torch.save(others, folder / "non_lora_trainables.bin")
    second = import_original(folder, tiny_llava, tmp_path / "second", codec=codec, first_id=FIRST)
    files = [load_file(folder / "adapter_model.safetensors") for folder in (first, second)]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(tensor, files[1][name]) for name, tensor in files[0].items())


def test_a_token_before_the_first_shifts_nothing_silently(tiny_llava: Path, tmp_path: Path) -> None:
    """A <pad> that was added before the perception tokens: its row is no row of theirs."""
    original_files(tmp_path / "original")
    with pytest.raises(CheckpointError, match=rf"rows for {FIRST + 466} tokens, .* first_id={FIRST} "):
        import_original(tmp_path / "original", tiny_llava, tmp_path / "ours", first_id=FIRST - 1)


class Bomb:
    """Pickle that would run a command."""

    def __reduce__(self) -> Any:
        return os.system, ("touch exploded",)


def test_nothing_unsafe_and_nothing_left_out(tiny_llava: Path, tmp_path: Path) -> None:
    folder = tmp_path / "original"
    tensors = original_files(folder)
    others = {name: tensor for name, tensor in tensors.items() if ".lora_" not in name}
    lora = {name: tensor for name, tensor in tensors.items() if ".lora_" in name}

    def refused(message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            import_original(folder, tiny_llava, tmp_path / "ours", first_id=FIRST)
        assert not (tmp_path / "ours").exists()

    torch.save({"x": Bomb()}, folder / "non_lora_trainables.bin")
    refused("non_lora_trainables.bin: tensors cannot be read safely")
    assert not Path("exploded").exists()
    torch.save({**others, "base_model.model.model.norm.weight": torch.ones(32)}, folder / "non_lora_trainables.bin")
    refused(r"norm.weight of non_lora_trainables.bin has no counterpart in Llava")
    torch.save(others, folder / "non_lora_trainables.bin")
    stranger = "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"
    torch.save({**lora, stranger: torch.ones(4, 32)}, folder / "adapter_model.bin")
    refused(r"layers.9.self_attn.q_proj.lora_A.weight has no counterpart in Llava")
    torch.save({name: tensor[:, :8] for name, tensor in lora.items()}, folder / "adapter_model.bin")
    refused(r"the LoRA of .*q_proj is .*, the layer \(32, 32\); is this the same size")
    (folder / "adapter_model.bin").write_bytes(b"cut")
    refused("tensors cannot be read safely")
    (folder / "adapter_config.json").write_text("{}")
    refused("lacks r or lora_alpha")
