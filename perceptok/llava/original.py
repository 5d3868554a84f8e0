"""Adapters of LLaVA's original training format, converted to perceptok's: other names, other ids, nothing unpickled.

LLaVA's trainer, and AURORA's with it, writes `adapter_model.bin` (peft's LoRA) and `non_lora_trainables.bin` (whole
token matrices and the projector, under the parameter names of the wrapped `LlavaLlamaForCausalLM`, such as
`base_model.model.model.embed_tokens.weight`). Its token ids start at 32,000, where checkpoints of transformers have
their image token.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from perceptok.data import LLAVA_SYSTEM
from perceptok.errors import CheckpointError, ConfigError, MissingExtraError, VocabularyError, quote_error
from perceptok.files import parse_json, read_input
from perceptok.llava.framing import FrameRule
from perceptok.llava.loading import load_llava
from perceptok.llava.saving import save_adapter
from perceptok.llava.training.objective import find_projector
from perceptok.tokens import DEPTH, PIXEL
from perceptok.vocabulary import (
    AURORA_FIRST_ID,
    PerceptionVocabulary,
    consecutive_vocabulary,
    peft_settings,
    remap_rows,
)
from perceptok.weights import load_pickled_tensors

if TYPE_CHECKING:
    from perceptok.depth import DepthCodec

__all__ = ["OriginalTokens", "import_original"]

OriginalTokens = Literal["depth", "boxes", "both"]
"""The perception tokens of an original: AURORA's depth and counting models have one set each."""

_TOKEN_SETS = {"depth": (DEPTH,), "boxes": (PIXEL,), "both": (DEPTH, PIXEL)}

_LORA = re.compile(r"^(?:base_model\.model\.)?(?:model\.)?(layers\.\d+\.[\w.]+)\.(lora_[AB])(?:\.default)?\.weight$")

_PADDING_MULTIPLES = (1, 8, 16, 32, 64, 128)
"""To a multiple of these a token matrix may be padded."""

_MATRICES = ("embed_tokens.weight", "lm_head.weight")
_PROJECTOR = {"mm_projector.0.": "linear_1.", "mm_projector.2.": "linear_2."}


def import_original(
    folder: str | os.PathLike[str],
    base: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    codec: DepthCodec | None = None,
    tokens: OriginalTokens = "both",
    first_id: int = AURORA_FIRST_ID,
    system: str | None = LLAVA_SYSTEM,
    frame: str | FrameRule = FrameRule(interpolation="nearest"),  # noqa: B008 - immutable
    force: bool = False,
) -> Path:
    """Convert an adapter of LLaVA's original format, for a base in transformers' format.

    LoRA is assigned to the same layers under transformers' names, rows of perception tokens to their ids in the base's
    tokenizer. Token matrices that were trained whole, with the rows of the base's own tokens, stay whole.

    Args:
        folder: Folder with `adapter_config.json`, `adapter_model.bin` and, where token matrices or the projector were
            trained, `non_lora_trainables.bin`.
        base: The same LLaVA in transformers' format, such as llava-hf/llava-1.5-13b-hf.
        output: Folder to write, for `load_adapter`.
        codec: The depth codec of the DEPTH tokens, required where there are any: AURORA's, by `load_aurora_checkpoint`.
        tokens: The original's perception tokens: "depth" (130, AURORA's depth model), "boxes" (336, its counting model)
            or "both", depth first.
        first_id: Id of the first perception token in the original.
        system: The system text that the original was trained with; LLaVA's by default.
        frame: How its images were framed; AURORA's by default.
        force: Replace an existing adapter.

    Returns:
        The folder.

    Raises:
        CheckpointError: Files are missing, damaged or unsafe; the original has other tokens, or in another order; or a
            tensor has no counterpart in the base: none is left out silently.
        ConfigError: An unknown value of `tokens`.
        VocabularyError: The base cannot be extended, or DEPTH tokens have no codec.
        MissingExtraError: peft is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError("peft", "llava", "an adapter of LLaVA's original format") from error

    if tokens not in get_args(OriginalTokens):
        raise ConfigError(f"tokens must be one of {', '.join(get_args(OriginalTokens))}; got {tokens!r}")
    source = Path(folder)
    original = consecutive_vocabulary(first_id, _TOKEN_SETS[tokens])
    _check_tokenizer(source, original)
    settings = _read_lora_config(source / "adapter_config.json")
    lora_tensors = load_pickled_tensors(source / "adapter_model.bin", CheckpointError)
    path = source / "non_lora_trainables.bin"
    trained = load_pickled_tensors(path, CheckpointError) if path.is_file() else {}
    others = {_strip_prefix(name): tensor for name, tensor in trained.items()}
    for name in others.keys() & _MATRICES:
        _check_rows(name, len(others[name]), first_id, tokens)
    if DEPTH in original.token_sets and codec is None:
        raise VocabularyError(
            f"{source}: its DEPTH tokens stand for codes of a codec, without which no depth map can be decoded; pass "
            "the one that it was trained with as codec= (--codec vae-final.pt)"
        )
    model, processor, vocab = load_llava(base, _TOKEN_SETS[tokens], codec=codec, frame=frame)
    lora = _assign_lora(lora_tensors, model)
    projector = find_projector(model) if any(name.startswith("mm_projector.") for name in others) else None
    rows = peft_settings(model, vocab, "full" if others else "new_rows")
    modules_to_save = [*rows.pop("modules_to_save", []), *([projector] if projector else [])]
    config = peft.LoraConfig(
        r=settings["r"],
        lora_alpha=settings["lora_alpha"],
        lora_dropout=settings.get("lora_dropout", 0.0),
        target_modules=list(lora),
        modules_to_save=modules_to_save or None,
        **rows,
    )
    wrapped: Any = peft.get_peft_model(model, config)
    _copy_lora(wrapped, lora)
    _copy_others(wrapped, others, original, vocab, projector)
    record = {"imported_from": "LLaVA's original format", "first_id": first_id, "tokens": tokens}
    return save_adapter(output, wrapped, processor, vocab, codec, config=record, system=system, base=base, force=force)


def _check_tokenizer(folder: Path, original: PerceptionVocabulary) -> None:
    """Refuse an original whose tokenizer, where it lies beside the weights, gives the perception tokens other ids."""
    ids = _read_added_tokens(folder)
    for token, token_id in ids.items():
        if any(token_set.pattern.fullmatch(token) for token_set in (DEPTH, PIXEL)) and token not in original.tokens:
            raise CheckpointError(
                f"{folder}: its tokenizer has {token}, which is not among the tokens to import; pass tokens='both' "
                "(--tokens both)"
            )
        if original.tokens.get(token, token_id) != token_id:
            raise CheckpointError(
                f"{folder}: its tokenizer gives {token} the id {token_id}, expected {original.tokens[token]}: its "
                "token sets lie in another order than AURORA's (depth before boxes), or begin at another id "
                "(--first-id)"
            )


def _read_added_tokens(folder: Path) -> dict[str, int]:
    """Token -> id of the tokens that were added to the original's tokenizer; empty where it has no tokenizer."""
    path = folder / "added_tokens.json"
    try:
        if path.is_file():
            values = parse_json(read_input(path), str(path), CheckpointError)
            return {str(token): int(token_id) for token, token_id in values.items()}
        path = folder / "tokenizer_config.json"
        if path.is_file():
            values = parse_json(read_input(path), str(path), CheckpointError)
            return {str(token["content"]): int(key) for key, token in values.get("added_tokens_decoder", {}).items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} does not list added tokens as a tokenizer does ({error!r})") from error
    return {}


def _check_rows(name: str, count: int, first_id: int, tokens: OriginalTokens) -> None:
    """Refuse a token matrix with a number of rows that the tokens, or padding behind them, do not explain."""
    sizes = {option: sum(len(token_set.tokens) for token_set in sets) for option, sets in _TOKEN_SETS.items()}
    fitting = [option for option, size in sizes.items() if _can_have_rows(first_id + size, count)]
    if tokens in fitting:
        return
    size = sizes[tokens]
    wrong = f"{name} has rows for {count} tokens, expected {first_id} and {size} perception tokens"
    if fitting:
        option = fitting[0]
        raise CheckpointError(
            f"{wrong}. It has {sizes[option]} perception tokens: pass tokens={option!r} (--tokens {option})"
        )
    raise CheckpointError(
        f"{wrong}. Were others, such as <pad>, added before or after them? If before, pass first_id={count - size} "
        "(--first-id)"
    )


def _can_have_rows(tokens: int, rows: int) -> bool:
    return any(-(-tokens // multiple) * multiple == rows for multiple in _PADDING_MULTIPLES)


def _read_lora_config(path: Path) -> dict[str, Any]:
    try:
        text = read_input(path)
    except OSError as error:
        raise CheckpointError(
            f"not an adapter of LLaVA's original format: {path} cannot be read ({quote_error(error)})"
        ) from error
    values = parse_json(text, str(path), CheckpointError)
    if not isinstance(values, dict) or not all(isinstance(values.get(key), int) for key in ("r", "lora_alpha")):
        raise CheckpointError(
            f"{path} is not the configuration of a LoRA: it lacks r or lora_alpha; {json.dumps(values)[:80]}"
        )
    return values


def _strip_prefix(name: str) -> str:
    """A name without the prefixes of peft and of the original's model class."""
    return name.removeprefix("base_model.model.").removeprefix("model.")


def _assign_lora(tensors: Mapping[str, Tensor], model: Any) -> dict[str, dict[str, Tensor]]:
    """lora_A and lora_B of each layer of the base."""
    modules = dict(model.named_modules())
    embeddings = model.get_input_embeddings()
    prefix = next(name.removesuffix("embed_tokens") for name, module in modules.items() if module is embeddings)
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _LORA.match(name)
        layer = f"{prefix}{match[1] if match else name}"
        if match is None or layer not in modules:
            raise CheckpointError(
                f"{name} has no counterpart in {type(model).__name__}; is this the same LLaVA as the base?"
            )
        layers.setdefault(layer, {})[match[2]] = tensor
    for layer, pair in layers.items():
        shape = tuple(modules[layer].weight.shape)
        if pair.keys() != {"lora_A", "lora_B"} or (len(pair["lora_B"]), pair["lora_A"].shape[1]) != shape:
            shapes = {key: tuple(tensor.shape) for key, tensor in pair.items()}
            raise CheckpointError(f"the LoRA of {layer} is {shapes}, the layer {shape}; is this the same size?")
    if not layers:
        raise CheckpointError("the adapter has no LoRA weights")
    return layers


@torch.no_grad()
def _copy_lora(wrapped: Any, lora: Mapping[str, Mapping[str, Tensor]]) -> None:
    modules = dict(wrapped.get_base_model().named_modules())
    for layer, pair in lora.items():
        for key, tensor in pair.items():
            weight = getattr(modules[layer], key)["default"].weight
            if weight.shape != tensor.shape:
                raise CheckpointError(
                    f"{key} of {layer} is {tuple(tensor.shape)}, adapter_config.json asks for {tuple(weight.shape)}"
                )
            weight.copy_(tensor)


@torch.no_grad()
def _copy_others(
    wrapped: Any,
    tensors: Mapping[str, Tensor],
    original: PerceptionVocabulary,
    vocab: PerceptionVocabulary,
    projector: str | None,
) -> None:
    """Copy token matrices by id and the projector by name; refuse anything else."""
    model = wrapped.get_base_model()
    matrices = dict(zip(_MATRICES, (model.get_input_embeddings(), model.get_output_embeddings()), strict=True))
    modules = dict(model.named_modules())
    for name, tensor in tensors.items():
        if name in matrices:
            _copy_rows(name, tensor, _get_trained(matrices[name]).weight, original, vocab)
            continue
        prefix = next((prefix for prefix in _PROJECTOR if name.startswith(prefix)), None)
        if prefix is None or projector is None:
            raise CheckpointError(f"{name} of non_lora_trainables.bin has no counterpart in {type(model).__name__}")
        target = _get_trained(modules[projector]).get_parameter(name.replace(prefix, _PROJECTOR[prefix]))
        if target.shape != tensor.shape:
            raise CheckpointError(f"{name} is {tuple(tensor.shape)}, the base's {tuple(target.shape)}: another size")
        target.copy_(tensor)


def _copy_rows(
    name: str, tensor: Tensor, target: Tensor, original: PerceptionVocabulary, vocab: PerceptionVocabulary
) -> None:
    if tensor.shape[1:] != target.shape[1:]:
        raise CheckpointError(f"{name} is {tuple(tensor.shape)}, the base's {tuple(target.shape)}: another size")
    num_own = int(min(original.all_ids.min(), vocab.all_ids.min()))  # rows of the base's own tokens
    target[:num_own] = tensor[:num_own].to(target)
    remap_rows(tensor, target, original, vocab)


def _get_trained(module: Any) -> Any:
    """The copy of a module that an adapter trains."""
    return module.modules_to_save["default"] if hasattr(module, "modules_to_save") else module
