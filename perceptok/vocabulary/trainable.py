"""Training the rows of perception tokens and nothing else of the token matrices: plain PyTorch, and peft."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from perceptok.errors import VocabularyError
from perceptok.vocabulary.lookup import PerceptionVocabulary
from perceptok.vocabulary.matrices import TokenMatrices, find_matrices, modules_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["peft_settings", "trainable_parameters"]

_HOOK = "_perceptok_row_mask"


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
    Trainer of transformers as `optimizers=`). Gradients and moments are as large as the matrices; where memory is
    short, `peft_settings` keep those of the new rows only.

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
        _unmask(parameter)
        if mode == "new_rows":
            _mask(parameter, vocab)
    group: dict[str, Any] = {"params": list(matrices.parameters)}
    return [group if mode == "full" else {**group, "weight_decay": 0.0}]


def peft_settings(model: PreTrainedModel, vocab: PerceptionVocabulary) -> dict[str, Any]:
    """Arguments of `peft.LoraConfig` (or any other with `trainable_token_indices`) that train the new rows only.

    Both matrices are named by their full paths: a bare list of ids would train the inputs only, and an untied model
    could then never write the new tokens. In a tied model the one matrix is named, and peft ties the head to it.
    Old rows are not parameters of the adapter at all, so that no optimiser can move them.

    Raises:
        VocabularyError: The head has a bias, which peft's layer for trained tokens leaves out of the logits; the model
            has no rows for the vocabulary, or `find_matrices` refuses it.
    """
    matrices = _matrices(model, vocab)
    if matrices.bias is not None:
        raise VocabularyError(
            f"the head of {type(model).__name__} has a bias, which peft's layer for trained tokens would leave out of "
            "the logits; use trainable_parameters, or modules_to_save with the whole head"
        )
    ids = sorted(vocab.tokens.values())
    names = {id(module): name for name, module in model.named_modules()}
    inputs, outputs = modules_of(model)
    named = (inputs,) if matrices.tied else (inputs, outputs)
    return {"trainable_token_indices": {names[id(module)]: ids for module in named}}


def _matrices(model: PreTrainedModel, vocab: PerceptionVocabulary) -> TokenMatrices:
    matrices = find_matrices(model)
    last = int(vocab.all_ids.max())
    if last >= matrices.rows:
        raise VocabularyError(
            f"{type(model).__name__} has {matrices.rows} rows, the vocabulary ids up to {last}; extend it first: "
            "extend_vocabulary(tokenizer, model)"
        )
    return matrices


def _mask(parameter: nn.Parameter, vocab: PerceptionVocabulary) -> None:
    """Zero the gradient of old rows in place whenever it has been accumulated; NaN there goes too."""
    old = torch.ones(len(parameter), dtype=torch.bool)
    old[vocab.all_ids] = False

    def clear(accumulated: Tensor) -> None:
        assert accumulated.grad is not None
        accumulated.grad[old.to(accumulated.device)] = 0

    handle = parameter.register_post_accumulate_grad_hook(clear)  # type: ignore[no-untyped-call]
    setattr(parameter, _HOOK, handle)


def _unmask(parameter: nn.Parameter) -> None:
    handle = getattr(parameter, _HOOK, None)
    if handle is not None:
        handle.remove()
        delattr(parameter, _HOOK)
