"""LLaVA's original training format -> an adapter of perceptok: other names, other ids, and pickle that runs nothing.

LLaVA's trainer, and with it AURORA's, leaves `adapter_model.bin` (peft's LoRA) and `non_lora_trainables.bin` (whole
token matrices and the projector, under the names of `LlavaLlamaForCausalLM`: as `named_parameters` of the wrapped
model gives them, `base_model.model.model.embed_tokens.weight`). Its token ids count from 32,000 on, where
the checkpoints of transformers have their image token.
"""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from perceptok.errors import CheckpointError, MissingExtraError
from perceptok.files import parse_json
from perceptok.llava.loading import load_llava
from perceptok.llava.saving import save_adapter
from perceptok.llava.training.objective import projector_name
from perceptok.tokens import DEPTH, PIXEL, TokenSet
from perceptok.vocabulary import (
    AURORA_FIRST_ID,
    PerceptionVocabulary,
    consecutive_vocabulary,
    peft_settings,
    remap_rows,
)

if TYPE_CHECKING:
    from perceptok.depth import DepthCodec

__all__ = ["import_original"]

_LORA = re.compile(r"^(?:base_model\.model\.)?(?:model\.)?(layers\.\d+\.[\w.]+)\.(lora_[AB])(?:\.default)?\.weight$")
_PADDED = 64
"""Matrices whose rows are a multiple of this were padded; the tokens' number is not theirs."""

_PROJECTOR = {"mm_projector.0.": "linear_1.", "mm_projector.2.": "linear_2."}


def import_original(
    folder: str | os.PathLike[str],
    base: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    codec: DepthCodec | None = None,
    first_id: int = AURORA_FIRST_ID,
    token_sets: tuple[TokenSet, ...] = (DEPTH, PIXEL),
    force: bool = False,
) -> Path:
    """Bring an adapter of LLaVA's original format over to a base of transformers.

    LoRA goes to the same layers under transformers' names, rows of perception tokens to their ids in the base's
    tokenizer, the projector to its place. Rows of the base's own tokens that were trained with them ("full" matrices)
    come over as whole matrices.

    Args:
        folder: `adapter_config.json`, `adapter_model.bin` and, where token matrices or the projector were trained,
            `non_lora_trainables.bin`.
        base: The same LLaVA in transformers' format, such as llava-hf/llava-1.5-13b-hf.
        output: Where the adapter goes; see `save_adapter`.
        codec: Whose codes the DEPTH tokens mean: AURORA's, by `load_aurora_checkpoint`.
        first_id: The id of the first perception token in the original.
        token_sets: In the original's order.
        force: Replace an adapter that is there.

    Returns:
        The folder.

    Raises:
        CheckpointError: Files are missing, damaged or unsafe, or something in them has no place in the base; nothing
            is left out silently.
        VocabularyError: The base cannot be extended; see `load_llava`.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError("peft", "llava", "an adapter of LLaVA's original format") from error

    source = Path(folder)
    settings = _settings(source / "adapter_config.json")
    lora = _read(source / "adapter_model.bin")
    others_path = source / "non_lora_trainables.bin"
    others = {_short(name): one for name, one in _read(others_path).items()} if others_path.is_file() else {}
    model, processor, vocab = load_llava(base, token_sets, codec=codec)
    original = consecutive_vocabulary(first_id, token_sets)
    placed, layers = _placed_lora(lora, model)
    wants_projector = any(name.startswith("mm_projector.") for name in others)
    projector = projector_name(model) if wants_projector else None
    rows = peft_settings(model, vocab, "full" if others else "new_rows")
    whole = [*rows.pop("modules_to_save", []), *([projector] if projector else [])]
    config = peft.LoraConfig(
        r=settings["r"],
        lora_alpha=settings["lora_alpha"],
        lora_dropout=settings.get("lora_dropout", 0.0),
        target_modules=layers,
        modules_to_save=whole or None,
        **rows,
    )
    wrapped: Any = peft.get_peft_model(model, config)
    _fill_lora(wrapped, placed)
    _fill_others(wrapped, others, original, vocab, projector)
    record = {"imported_from": "LLaVA's original format", "first_id": first_id}
    return save_adapter(output, wrapped, processor, vocab, codec, config=record, base=base, force=force)


def _settings(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"no adapter of LLaVA's original format: {path} cannot be read ({error})") from error
    values = parse_json(text, str(path), CheckpointError)
    if not isinstance(values, dict) or not all(isinstance(values.get(key), int) for key in ("r", "lora_alpha")):
        raise CheckpointError(
            f"{path} is no configuration of a LoRA: it lacks r or lora_alpha; {json.dumps(values)[:80]}"
        )
    return values


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a .bin file; whatever else pickle might do is refused."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: no tensors that can be read safely ({str(error).splitlines()[0] if str(error) else error!r})"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(one, Tensor) for one in found.values()):
        raise CheckpointError(f"{path}: expected names and tensors; got {type(found).__name__}")
    return found


def _short(name: str) -> str:
    """A name without what peft and the original's model class put before it."""
    for prefix in ("base_model.model.", "model."):
        name = name.removeprefix(prefix)
    return name


def _placed_lora(lora: Mapping[str, Tensor], model: Any) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """Layer of the base -> its lora_A and lora_B."""
    prefix = next(
        name.removesuffix("embed_tokens") for name, one in model.named_modules() if one is model.get_input_embeddings()
    )
    known = dict(model.named_modules())
    placed: dict[str, dict[str, Tensor]] = {}
    for name, tensor in lora.items():
        match = _LORA.match(name)
        layer = f"{prefix}{match[1] if match else name}"
        if match is None or layer not in known:
            raise CheckpointError(f"{name} has no place in {type(model).__name__}; is this the same LLaVA as the base?")
        placed.setdefault(layer, {})[match[2]] = tensor
    for layer, pair in placed.items():
        wide = known[layer].weight.shape
        if pair.keys() != {"lora_A", "lora_B"} or (len(pair["lora_B"]), pair["lora_A"].shape[1]) != tuple(wide):
            shapes = {key: tuple(one.shape) for key, one in pair.items()}
            raise CheckpointError(f"the LoRA of {layer} is {shapes}, the layer {tuple(wide)}; is this the same size?")
    if not placed:
        raise CheckpointError("the adapter holds no LoRA")
    return placed, list(placed)


@torch.no_grad()
def _fill_lora(wrapped: Any, placed: Mapping[str, Mapping[str, Tensor]]) -> None:
    modules = dict(wrapped.get_base_model().named_modules())
    for layer, pair in placed.items():
        for key, tensor in pair.items():
            weight = getattr(modules[layer], key)["default"].weight
            if weight.shape != tensor.shape:
                raise CheckpointError(
                    f"{key} of {layer} is {tuple(tensor.shape)}, adapter_config.json asks for {tuple(weight.shape)}"
                )
            weight.copy_(tensor)


@torch.no_grad()
def _fill_others(
    wrapped: Any,
    others: Mapping[str, Tensor],
    original: PerceptionVocabulary,
    vocab: PerceptionVocabulary,
    projector: str | None,
) -> None:
    """Token matrices by id and projector by name; anything else is refused."""
    model = wrapped.get_base_model()
    heads = {"embed_tokens.weight": model.get_input_embeddings(), "lm_head.weight": model.get_output_embeddings()}
    modules = dict(model.named_modules())
    for name, tensor in others.items():
        if name in heads:
            into = _trained(heads[name]).weight
            if tensor.shape[1:] != into.shape[1:]:
                raise CheckpointError(f"{name} is {tuple(tensor.shape)}, the base's {tuple(into.shape)}: another size")
            end = int(original.all_ids.max()) + 1
            if len(tensor) != end and len(tensor) % _PADDED:
                raise CheckpointError(
                    f"{name} has rows for {len(tensor)} tokens, but the perception tokens end at {end} when they begin "
                    f"at {int(original.all_ids.min())}: were others, such as <pad>, added before or behind them? Say "
                    f"first_id={int(original.all_ids.min()) + len(tensor) - end} (--first-id) where they stand before"
                )
            first = min(int(original.all_ids.min()), int(vocab.all_ids.min()))  # the base's own tokens lie below
            into[:first] = tensor[:first].to(into)
            remap_rows(tensor, into, original, vocab)
            continue
        place = next((key for key in _PROJECTOR if name.startswith(key)), None)
        if place is None or projector is None:
            raise CheckpointError(f"{name} of non_lora_trainables.bin has no place in {type(model).__name__}")
        target = _trained(modules[projector]).get_parameter(name.replace(place, _PROJECTOR[place]))
        if target.shape != tensor.shape:
            raise CheckpointError(f"{name} is {tuple(tensor.shape)}, the base's {tuple(target.shape)}: another size")
        target.copy_(tensor)


def _trained(module: Any) -> Any:
    """The copy of a module that an adapter trains."""
    return module.modules_to_save["default"] if hasattr(module, "modules_to_save") else module
