"""From an adapter to plain checkpoints that know nothing of perceptok: merged, or extended base and pure LoRA."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file

from perceptok.files import atomic_folder
from perceptok.llava.loading import load_base
from perceptok.llava.probing import probe_logits, require_equal_logits
from perceptok.llava.saving import Loaded, load_adapter

__all__ = ["export_adapter", "merge_adapter"]


def merge_adapter(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    force: bool = False,
) -> Path:
    """Write base and adapter as one plain checkpoint, and check that it says the same.

    Stock transformers and serving engines load it without perceptok; processor, manifest and codec lie beside it.

    Args:
        folder: What `save_adapter` wrote.
        output: Where to.
        base: See `load_adapter`; as `dtype` and `device`.
        dtype: Of the merged weights.
        device: Where it is merged.
        force: Replace a folder that is there.

    Raises:
        CheckpointError: The merged model says something else.
        OutputError: The folder exists, or cannot be written.
    """
    loaded = load_adapter(folder, base=base, dtype=dtype, device=device)
    said = probe_logits(loaded.model, loaded.processor, loaded.vocab, loaded.frame)
    merged: Any = cast(Any, loaded.model).merge_and_unload()
    target = Path(output)
    with atomic_folder(target, force=force) as place:
        _save_base(merged, loaded, place)
        again = load_base(place, device=device)
        # Merging rounds once more than the adapter does, by an amount that grows with the precision's step.
        tolerance = 1e-3 if again.dtype == torch.float32 else 5e-2
        read = probe_logits(again, loaded.processor, loaded.vocab, loaded.frame)
        require_equal_logits(read, said, str(target), tolerance=tolerance)
    return target


def export_adapter(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    force: bool = False,
) -> Path:
    """Write two folders: `base`, extended with all that is no LoRA, and `lora`, a pure LoRA adapter for it.

    Engines that serve adapters refuse those with token rows or whole modules; here these are part of the base.
    Arguments and errors are those of `merge_adapter`.
    """
    from peft import PeftModel

    loaded = load_adapter(folder, base=base, dtype=dtype, device=device)
    said = probe_logits(loaded.model, loaded.processor, loaded.vocab, loaded.frame)
    target = Path(output)
    with atomic_folder(target, force=force) as place:
        lora = place / "lora"
        loaded.model.save_pretrained(str(lora), save_embedding_layers=False)
        (lora / "README.md").unlink(missing_ok=True)
        weights = {name: one for name, one in load_file(lora / "adapter_model.safetensors").items() if ".lora_" in name}
        save_file(weights, lora / "adapter_model.safetensors", metadata={"format": "pt"})
        path = lora / "adapter_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config |= {
            "base_model_name_or_path": str(target / "base"),
            "modules_to_save": None,
            "trainable_token_indices": None,
            "ensure_weight_tying": False,
        }
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        plain: Any = _without_lora(loaded)
        _save_base(plain, loaded, place / "base")
        again = PeftModel.from_pretrained(load_base(place / "base", device=device), str(lora))
        require_equal_logits(probe_logits(again, loaded.processor, loaded.vocab, loaded.frame), said, str(target))
    return target


@torch.no_grad()
def _without_lora(loaded: Loaded) -> Any:
    """The base with the adapter's rows and modules in their places, and every LoRA taken out."""
    model: Any = loaded.model
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.zero_()  # merging then adds nothing
    return model.merge_and_unload()


def _save_base(model: Any, loaded: Loaded, place: Path) -> None:
    model.save_pretrained(place)
    loaded.processor.save_pretrained(place)
    loaded.vocab.save_pretrained(place)
    if loaded.codec is not None:
        loaded.codec.save_pretrained(place / "codec")
