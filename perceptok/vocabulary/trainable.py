"""Training of the rows of perception tokens only, or of whole token matrices, with plain PyTorch and with peft."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from perceptok.errors import VocabularyError, quote_error
from perceptok.files import open_input
from perceptok.vocabulary.lookup import PerceptionVocabulary
from perceptok.vocabulary.matrices import TokenMatrices, find_matrices, list_modules

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

__all__ = ["peft_settings", "trainable_parameters", "verify_adapter"]

_ADAPTER = "adapter_model.safetensors"

_MASKS = WeakTensorKeyDictionary()
"""Parameter -> handle of the hook that masks its gradient; as an attribute it would keep models from being pickled."""


def trainable_parameters(
    model: PreTrainedModel,
    vocab: PerceptionVocabulary,
    mode: Literal["new_rows", "full"] = "new_rows",
    *,
    freeze_others: bool = True,
) -> list[dict[str, Any]]:
    """Make the token matrices trainable, and return the parameter groups for an optimizer.

    `torch.optim.AdamW(trainable_parameters(model, vocab), lr=1e-4, weight_decay=0.1)` trains the perception tokens'
    rows of the input and output matrices, and leaves all other rows unchanged, bit for bit: their gradients are set to
    zero after accumulation, and the group's own `weight_decay` of 0 takes precedence over the optimizer's. An optimizer
    with its own groups of `model.parameters()` would decay old rows; pass it these groups (to the Trainer of
    transformers as `optimizers=`). A copy of the model, or a reloaded model, needs a call of its own. Gradients and
    moments are as large as the matrices; with `peft_settings` they are as large as the new rows.
    DistributedDataParallel may wrap the model afterwards; for FSDP or ZeRO-3, which shard the matrices, use
    `peft_settings`, and extend the model before it is wrapped.

    Args:
        model: A model extended with `extend_vocabulary`.
        vocab: Its vocabulary.
        mode: "new_rows", or "full" for whole matrices (as in AURORA's own recipe), with the optimizer's weight decay.
        freeze_others: Freeze all other parameters; where False they are unchanged. They are not in the groups.

    Returns:
        Groups of parameters: input matrix, output matrix if untied, bias of the head if it has one.

    Raises:
        VocabularyError: The model has no rows for the vocabulary, or `find_matrices` refuses it.
    """
    if mode not in ("new_rows", "full"):
        raise VocabularyError(f"mode must be 'new_rows' or 'full'; got {mode!r}")
    matrices = _find_extended_matrices(model, vocab)
    if freeze_others:
        model.requires_grad_(False)
    for parameter in matrices.parameters:
        parameter.requires_grad_(True)
        _unmask_gradients(parameter)
        if mode == "new_rows":
            _mask_gradients(parameter, vocab)
    group: dict[str, Any] = {"params": list(matrices.parameters)}
    return [group if mode == "full" else {**group, "weight_decay": 0.0}]


def peft_settings(
    model: PreTrainedModel, vocab: PerceptionVocabulary, mode: Literal["new_rows", "full"] = "new_rows"
) -> dict[str, Any]:
    """Arguments of `peft.LoraConfig` (and similar configs) that train the token matrices beside the adapter.

    Both matrices are named by their full paths: a bare list of ids would train the inputs only, and an untied model
    could never generate the new tokens. In a tied model only the input matrix is named, and peft ties the head to it.
    Old rows are not parameters of the adapter, so that no optimizer can change them.

    Matrices trained this way are saved with the adapter. Matrices that are only unfrozen are not, for LLaVA and all
    other models without a top-level `config.vocab_size`, unless saved with `save_embedding_layers=True`; use
    `verify_adapter` to check.

    TRL's trainers compute their loss from `head.weight` and `head.bias`, and fail at peft's wrapper of trained tokens,
    which has no `bias`. Where peft is installed, this call adds a `bias` to that class (the wrapped layer's) for the
    process: call it also in a script that continues the training of a loaded adapter.

    Args:
        model: A model extended with `extend_vocabulary`, not wrapped yet.
        vocab: Its vocabulary.
        mode: "new_rows" (`trainable_token_indices`), or "full" for whole matrices (`modules_to_save`, as in AURORA's
            own recipe); with a tied model "full" needs peft 0.18.

    Raises:
        VocabularyError: "new_rows" where the head has a bias, which peft's layer for trained tokens leaves out of the
            logits; "full" for a tied model whose embeddings peft does not know as tied (GPT-2, T5); the model has no
            rows for the vocabulary, or `find_matrices` refuses it.
    """
    if mode not in ("new_rows", "full"):
        raise VocabularyError(f"mode must be 'new_rows' or 'full'; got {mode!r}")
    matrices = _find_extended_matrices(model, vocab)
    names = {id(module): name for name, module in model.named_modules()}
    inputs, outputs = (names[id(module)] for module in list_modules(model))
    named = [inputs] if matrices.tied else [inputs, outputs]
    if mode == "new_rows":
        if matrices.bias is not None:
            raise VocabularyError(
                f"the head of {type(model).__name__} has a bias, which peft's layer for trained tokens would leave out "
                "of the logits; use mode='full', or trainable_parameters"
            )
        _add_bias_to_wrapper()
        ids = sorted(vocab.tokens.values())
        return {"trainable_token_indices": dict.fromkeys(named, ids)}
    if not matrices.tied:
        return {"modules_to_save": named}
    if inputs.rpartition(".")[2] != "embed_tokens":
        raise VocabularyError(
            f"{type(model).__name__} is tied, and peft would train {inputs} without its head, because it knows ties by "
            "the name embed_tokens only; use mode='new_rows', or trainable_parameters with mode='full'"
        )
    return {"modules_to_save": named, "ensure_weight_tying": True}


def verify_adapter(
    model: PeftModel, vocab: PerceptionVocabulary, folder: str | os.PathLike[str], *, adapter_name: str = "default"
) -> None:
    """Check a saved adapter against its model: all trained parameters are in the file, bit for bit.

    So are all rows of perception tokens in both matrices. The adapter then gives the same logits on every copy of the
    base model that was extended for the same tokenizer, with any init.

    Args:
        model: As wrapped by peft and trained.
        vocab: The vocabulary of its base model.
        folder: Where `model.save_pretrained` wrote the adapter.
        adapter_name: Name of the model's adapter, active or not. peft saves all but "default" in a subfolder of that
            name; either folder may be given.

    Raises:
        VocabularyError: The model or the folder has no such adapter, a trained parameter or rows of perception tokens
            are missing or different in the file, or the model is sharded.
    """
    if adapter_name not in model.peft_config:
        raise VocabularyError(f"the model has no adapter {adapter_name!r}, only {', '.join(model.peft_config)}")
    path = _adapter_file(folder, adapter_name)
    parameters = _list_parameters(model, adapter_name)
    shards = [name for name, value in parameters.items() if hasattr(value, "full_tensor") or not value.numel()]
    if shards:
        raise VocabularyError(f"{shards[0]} is a shard here (FSDP, ZeRO-3); gather the model first")
    keys = _saved_names(model, adapter_name)
    try:
        with open_input(path), safe_open(path, "pt") as file:  # a regular file: safetensors would wait for a pipe
            saved = set(file.keys())
            for name, parameter in parameters.items():
                key = keys.get(parameter.data_ptr(), name)
                if key not in saved:
                    raise VocabularyError(
                        f"{key} was trained, but is not in {path}: save with save_embedding_layers=True (peft's "
                        "'auto' leaves the embeddings of LLaVA and others out), or train it with peft_settings"
                    )
                if not torch.equal(file.get_tensor(key).to(parameter), parameter):
                    raise VocabularyError(
                        f"{key} in {path} differs from the model, which was trained since; save it again"
                    )
    except (OSError, SafetensorError) as error:
        raise VocabularyError(
            f"cannot read an adapter at {path} ({quote_error(error)}); save it with save_pretrained"
        ) from error
    names = {id(module): name for name, module in model.named_modules()}
    inputs, outputs = list_modules(cast("PreTrainedModel", model.get_base_model()))
    tied = _unwrap_weight(inputs) is _unwrap_weight(outputs)
    for module in (inputs,) if tied else (inputs, outputs):
        name = names[id(module)]
        adapter = getattr(module, "token_adapter", module)
        ids = getattr(adapter, "token_indices", {}).get(adapter_name, ())
        if f"{name}.weight" not in saved and not set(vocab.tokens.values()) <= set(ids):
            raise VocabularyError(
                f"{path} has no rows of perception tokens for {name}: they were not trained, and would be those of the "
                "base model's init; train them with peft_settings, or save the base model beside it"
            )


def _adapter_file(folder: str | os.PathLike[str], adapter_name: str) -> Path:
    """Peft saves every adapter but "default" in a subfolder of its name; that subfolder may be given as well."""
    for place in (Path(folder) / adapter_name, Path(folder)):
        if (place / _ADAPTER).is_file() and (adapter_name != "default" or place == Path(folder)):
            return place / _ADAPTER
    return Path(folder) / _ADAPTER


def _list_parameters(model: PeftModel, adapter_name: str) -> dict[str, nn.Parameter]:
    """The parameters of an adapter, active or not: its own, and trained ones that are not part of another adapter.

    Their names are derived; `_saved_names` is exact where an adapter has the name of a module.
    """
    own: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        owners = {adapter for adapter in model.peft_config if _belongs_to(model, name, adapter)}
        if adapter_name in owners or (parameter.requires_grad and not owners):
            own[_saved_name(name, adapter_name)] = parameter
    return own


def _belongs_to(model: PeftModel, name: str, adapter_name: str) -> bool:
    """Whether a parameter is an adapter's: peft keeps those of several adapters in dictionaries by adapter."""
    parts = name.split(".")
    places = (number for number, part in enumerate(parts) if part == adapter_name and number)
    containers = (nn.ModuleDict, nn.ParameterDict)
    return any(isinstance(_resolve(model, parts[:number]), containers) for number in places)


def _resolve(model: nn.Module, parts: list[str]) -> object:
    found: object = model
    for part in parts:
        found = getattr(found, part, None)
    return found


def _saved_names(model: PeftModel, adapter_name: str) -> dict[int, str]:
    """Address of a tensor -> the key under which peft saves it with the adapter, embeddings included."""
    from peft import get_peft_model_state_dict

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=True)
    return {tensor.data_ptr(): key for key, tensor in reversed(state.items())}


def _saved_name(name: str, adapter_name: str) -> str:
    """A parameter's name in an adapter's file: without the names of the adapter and of wrappers."""
    return ".".join(part for part in name.split(".") if part not in (adapter_name, "modules_to_save"))


def _unwrap_weight(module: nn.Module) -> Tensor:
    """The matrix of a module inside peft's wrappers."""
    weight = getattr(getattr(module, "original_module", getattr(module, "base_layer", module)), "weight")  # noqa: B009
    assert isinstance(weight, Tensor)
    return weight


def _find_extended_matrices(model: PreTrainedModel, vocab: PerceptionVocabulary) -> TokenMatrices:
    matrices = find_matrices(model)
    last = int(vocab.all_ids.max())
    if last >= matrices.rows:
        raise VocabularyError(
            f"{type(model).__name__} has {matrices.rows} rows, the vocabulary has ids up to {last}; extend the model "
            "first: extend_vocabulary(tokenizer, model)"
        )
    return matrices


def _add_bias_to_wrapper() -> None:
    """Give peft's wrapper of trained tokens the bias of the wrapped layer, as it has its weight."""
    try:
        from peft.utils.other import TrainableTokensWrapper
    except ImportError:  # not installed, or another release without the wrapper
        return
    if not hasattr(TrainableTokensWrapper, "bias"):
        setattr(TrainableTokensWrapper, "bias", property(_get_bias))  # noqa: B010 - a class that declares none


def _get_bias(wrapper: Any) -> Tensor | None:
    return getattr(wrapper.original_module, "bias", None)


def _mask_gradients(parameter: nn.Parameter, vocab: PerceptionVocabulary) -> None:
    """Zero the gradient of old rows, including NaN, in place after every accumulation."""
    old = torch.ones(len(parameter), dtype=torch.bool)
    old[vocab.all_ids] = False

    def clear(accumulated: Tensor) -> None:
        assert accumulated.grad is not None
        accumulated.grad[old.to(accumulated.device)] = 0

    _MASKS[parameter] = parameter.register_post_accumulate_grad_hook(clear)  # type: ignore[no-untyped-call]


def _unmask_gradients(parameter: nn.Parameter) -> None:
    handle = _MASKS.pop(parameter, None)  # type: ignore[no-untyped-call]
    if handle is not None:
        handle.remove()
