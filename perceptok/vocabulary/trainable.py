"""Training the rows of perception tokens and nothing else of the token matrices: plain PyTorch, and peft."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from perceptok.errors import VocabularyError
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
    """Make the token matrices trainable, and give the parameter groups for an optimiser.

    `torch.optim.AdamW(trainable_parameters(model, vocab), lr=1e-4, weight_decay=0.1)` moves the perception tokens'
    rows of the input and output matrices, and leaves every other row as it was, bit for bit: gradients of other rows
    are set to zero as they arrive, and the group's own `weight_decay` of 0 takes precedence over the optimiser's.
    An optimiser that makes its own groups from `model.parameters()` would decay old rows; hand it these (to the
    Trainer of transformers as `optimizers=`). A copy of the model, or one loaded anew, needs a call of its own.
    Gradients and moments are as large as the matrices; where memory is short, `peft_settings` keep those of the new
    rows only. DistributedDataParallel may wrap the model afterwards; where FSDP or ZeRO-3 is to cut the matrices into
    shards, which no row mask fits, take `peft_settings`, and extend the model before it is wrapped.

    Args:
        model: One extended with `extend_vocabulary`.
        vocab: Its vocabulary.
        mode: "new_rows", or "full" for whole matrices (as in AURORA's own recipe), with the optimiser's weight decay.
        freeze_others: Freeze all other parameters; False leaves them as they are, and they are not in the groups.

    Returns:
        Groups of parameters: input matrix, output matrix where it is another, bias of the head where there is one.

    Raises:
        VocabularyError: The model has no rows for the vocabulary, or `find_matrices` refuses it.
    """
    if mode not in ("new_rows", "full"):
        raise VocabularyError(f"mode is 'new_rows' or 'full'; got {mode!r}")
    matrices = _matrices(model, vocab)
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
    """Arguments of `peft.LoraConfig` (or any other that has them) that train the token matrices beside the adapter.

    Both matrices are named by their full paths: a bare list of ids would train the inputs only, and an untied model
    could then never write the new tokens. In a tied model the one matrix is named, and peft ties the head to it.
    Old rows are not parameters of the adapter at all, so that no optimiser can move them.

    What is trained this way is saved with the adapter. Matrices that are merely unfrozen are not, for LLaVA and
    everywhere else where `config.vocab_size` is not at the top, unless saved with `save_embedding_layers=True`:
    `verify_adapter` tells.

    TRL's trainers compute their loss from `head.weight` and `head.bias`, and stop at peft's wrapper of trained tokens,
    which has no `bias`. Where peft is installed, this call lends that class one (the wrapped layer's), for the process:
    call it in a script that goes on training a loaded adapter, too.

    Args:
        model: One extended with `extend_vocabulary`, not wrapped yet.
        vocab: Its vocabulary.
        mode: "new_rows" (`trainable_token_indices`), or "full" for whole matrices (`modules_to_save`, as in AURORA's
            own recipe); with a tied model "full" needs peft 0.18.

    Raises:
        VocabularyError: "new_rows" where the head has a bias, which peft's layer for trained tokens leaves out of the
            logits; "full" for a tied model whose embeddings peft does not know as tied (GPT-2, T5); the model has no
            rows for the vocabulary, or `find_matrices` refuses it.
    """
    if mode not in ("new_rows", "full"):
        raise VocabularyError(f"mode is 'new_rows' or 'full'; got {mode!r}")
    matrices = _matrices(model, vocab)
    names = {id(module): name for name, module in model.named_modules()}
    inputs, outputs = (names[id(module)] for module in list_modules(model))
    named = [inputs] if matrices.tied else [inputs, outputs]
    if mode == "new_rows":
        if matrices.bias is not None:
            raise VocabularyError(
                f"the head of {type(model).__name__} has a bias, which peft's layer for trained tokens would leave out "
                "of the logits; use mode='full', or trainable_parameters"
            )
        _show_bias()
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
    """Hold a saved adapter to the model it was saved from: whatever was trained is in the file, bit for bit.

    And so are all rows of perception tokens, to read and to write. The adapter then gives the same logits on every
    copy of the base model that was extended for the same tokenizer, whatever init its rows started from.

    Args:
        model: As wrapped by peft and trained.
        vocab: The vocabulary of its base model.
        folder: Where `model.save_pretrained` wrote the adapter.
        adapter_name: Which of the model's adapters it is, active or not. peft saves all but "default" in a folder of
            their name below; either folder may be given.

    Raises:
        VocabularyError: No such adapter in the model or the folder, something trained that is missing or different
            there, rows of perception tokens that are not in it, or a model in shards.
    """
    if adapter_name not in model.peft_config:
        raise VocabularyError(f"the model has no adapter {adapter_name!r}, only {', '.join(model.peft_config)}")
    path = _adapter_file(folder, adapter_name)
    parameters = _parameters_of(model, adapter_name)
    shards = [name for name, one in parameters.items() if hasattr(one, "full_tensor") or not one.numel()]
    if shards:
        raise VocabularyError(f"{shards[0]} is a shard here (FSDP, ZeRO-3); gather the model first")
    keys = _saved_names(model, adapter_name)
    try:
        with safe_open(path, "pt") as file:
            saved = set(file.keys())
            for name, parameter in parameters.items():
                key = keys.get(parameter.data_ptr(), name)
                if key not in saved:
                    raise VocabularyError(
                        f"{key} was trained, but is not in {path}: save with save_embedding_layers=True (peft's "
                        "'auto' leaves the embeddings of LLaVA and others out), or train it through peft_settings"
                    )
                if not torch.equal(file.get_tensor(key).to(parameter), parameter):
                    raise VocabularyError(f"{key} in {path} is not as the model has it: trained on since, save anew")
    except (OSError, SafetensorError) as error:
        raise VocabularyError(f"no adapter to be read at {path} ({error}); save it with save_pretrained") from error
    names = {id(module): name for name, module in model.named_modules()}
    inputs, outputs = list_modules(cast("PreTrainedModel", model.get_base_model()))
    tied = _original(inputs) is _original(outputs)
    for module in (inputs,) if tied else (inputs, outputs):
        name = names[id(module)]
        adapter = getattr(module, "token_adapter", module)
        ids = getattr(adapter, "token_indices", {}).get(adapter_name, ())
        if f"{name}.weight" not in saved and not set(vocab.tokens.values()) <= set(ids):
            raise VocabularyError(
                f"{path} holds no rows of perception tokens for {name}: they were not trained, and would be whatever "
                "the base model's init gives; train them through peft_settings, or save the base model beside it"
            )


def _adapter_file(folder: str | os.PathLike[str], adapter_name: str) -> Path:
    """Peft puts every adapter but "default" into a folder of its name; that folder itself may be given, too."""
    for place in (Path(folder) / adapter_name, Path(folder)):
        if (place / _ADAPTER).is_file() and (adapter_name != "default" or place == Path(folder)):
            return place / _ADAPTER
    return Path(folder) / _ADAPTER


def _parameters_of(model: PeftModel, adapter_name: str) -> dict[str, nn.Parameter]:
    """What an adapter changes, active or not: its own parameters, and what is trained and not part of another adapter.

    By their names as far as they can be read off; `_saved_names` knows better where an adapter is called like a module.
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
    keepers = (nn.ModuleDict, nn.ParameterDict)
    return any(isinstance(_resolve(model, parts[:number]), keepers) for number in places)


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
    """A parameter's name in an adapter's file: without the adapter's name, and as if nothing wrapped the module."""
    return ".".join(part for part in name.split(".") if part not in (adapter_name, "modules_to_save"))


def _original(module: nn.Module) -> Tensor:
    """The matrix of a module below whatever peft put around it."""
    weight = getattr(getattr(module, "original_module", getattr(module, "base_layer", module)), "weight")  # noqa: B009
    assert isinstance(weight, Tensor)
    return weight


def _matrices(model: PreTrainedModel, vocab: PerceptionVocabulary) -> TokenMatrices:
    matrices = find_matrices(model)
    last = int(vocab.all_ids.max())
    if last >= matrices.rows:
        raise VocabularyError(
            f"{type(model).__name__} has {matrices.rows} rows, the vocabulary ids up to {last}; extend it first: "
            "extend_vocabulary(tokenizer, model)"
        )
    return matrices


def _show_bias() -> None:
    """Let peft's wrapper of trained tokens answer for the bias of the layer inside, as it does for the weight."""
    try:
        from peft.utils.other import TrainableTokensWrapper
    except ImportError:  # not installed, or another release: then nobody can ask the wrapper either
        return
    if not hasattr(TrainableTokensWrapper, "bias"):
        setattr(TrainableTokensWrapper, "bias", property(_bias_within))  # noqa: B010 - a class that declares none


def _bias_within(wrapper: Any) -> Tensor | None:
    return getattr(wrapper.original_module, "bias", None)


def _mask_gradients(parameter: nn.Parameter, vocab: PerceptionVocabulary) -> None:
    """Zero the gradient of old rows in place whenever it has been accumulated; NaN there goes too."""
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
