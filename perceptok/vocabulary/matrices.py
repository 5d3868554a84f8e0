"""The matrices of a language model that have one row per token: finding and growing them, and all vocabulary sizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from perceptok.errors import VocabularyError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = ["TokenMatrices", "find_matrices", "grow_matrices", "list_configs", "list_modules"]

_SHARDED = (
    "the token matrices of {name} are sharded by FSDP or tensor parallelism (fully_shard makes them DTensors); extend "
    "the vocabulary and call peft_settings first, then shard the model"
)


@dataclass(frozen=True)
class TokenMatrices:
    """The parameters of a model with one row per token.

    Attributes:
        inputs: (V, D), the embeddings; some families (Mllama) have a few more rows here, for input-only tokens.
        outputs: (V, D), the head; the same object as `inputs` in a tied model.
        bias: (V,) of the head, where it has one.
    """

    inputs: nn.Parameter
    outputs: nn.Parameter
    bias: nn.Parameter | None

    @property
    def tied(self) -> bool:
        """Whether embeddings and head share a matrix."""
        return self.inputs is self.outputs

    @property
    def distinct(self) -> tuple[nn.Parameter, ...]:
        """The matrices, a shared one once."""
        return (self.inputs,) if self.tied else (self.inputs, self.outputs)

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """The matrices, a shared one once, and the bias."""
        return self.distinct if self.bias is None else (*self.distinct, self.bias)

    @property
    def rows(self) -> int:
        """Number of tokens that have rows in both matrices."""
        return len(self.outputs)


def find_matrices(model: PreTrainedModel) -> TokenMatrices:
    """The token matrices of a causal, multimodal or sequence-to-sequence model.

    Raises:
        VocabularyError: It is not a transformers model, has no output head, is tied by its configuration but not in
            fact, has several embedding matrices, its matrices differ in length by more than its configuration says, or
            they are quantised, sharded, or not loaded.
    """
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise VocabularyError(
            f"expected a transformers model, got {type(model).__name__}; extend the vocabulary before anything wraps "
            "the model (peft, DDP, FSDP, compile)"
        )
    name = type(model).__name__
    head: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    outputs = getattr(head, "weight", None)
    if not isinstance(outputs, nn.Parameter):
        raise VocabularyError(
            f"{name} has no output head, so that new tokens could never be generated; load the model with its "
            "language-model head (AutoModelForCausalLM, AutoModelForImageTextToText, ...)"
        )
    inputs = model.get_input_embeddings().weight
    assert isinstance(inputs, nn.Parameter)
    if any(getattr(module, "_is_fsdp_managed_module", False) for module in list_modules(model)):
        raise VocabularyError(_SHARDED.format(name=name))
    found = TokenMatrices(inputs, outputs, getattr(head, "bias", None))
    for parameter in found.parameters:
        _check_parameter(parameter, name)
    # Where the class itself adds rows to the embeddings, the configured size is that of the head.
    longer = len(inputs) > len(outputs) == model.config.get_text_config().vocab_size
    if len(inputs) != len(outputs) and not longer:
        raise VocabularyError(
            f"{name} has {len(found.inputs)} rows of embeddings and {len(found.outputs)} of the head; resize both to "
            "the same length first"
        )
    _check_ties(model, found)
    _check_copies(model, found)
    return found


def list_modules(model: PreTrainedModel) -> tuple[nn.Module, nn.Module]:
    """The modules that hold the input and the output matrix of a model that `find_matrices` accepts."""
    return model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[no-untyped-call]


def grow_matrices(model: PreTrainedModel, rows: int) -> TokenMatrices:
    """Give a model's token matrices `rows` rows; old rows keep their values, new ones are uninitialized.

    Each matrix is copied once, one at a time. transformers' own resize then finds matrices of the requested length and
    does the rest: ties, module attributes, and whatever else the model's class grows with its vocabulary. Embeddings
    that are longer than the head remain so: transformers would cut them, and the saved model would not load.

    Raises:
        VocabularyError: `find_matrices` refuses the model.
    """
    old = find_matrices(model)
    before, tied, reserved = old.rows, old.tied, len(old.inputs) - old.rows
    if rows <= before:
        return old
    lengths = {name: len(parameter) for name, parameter in model.named_parameters() if parameter.ndim}
    for parameter in old.parameters:
        length = len(parameter)
        grown = torch.empty(
            length + rows - before, *parameter.shape[1:], dtype=parameter.dtype, device=parameter.device
        )
        grown[:length] = parameter.data
        parameter.data = grown
        parameter.grad = None
        del grown
    if not reserved:
        # An encoder joined to a decoder refuses, before it changes anything; it has nothing else to grow.
        with suppress(NotImplementedError):
            model.resize_token_embeddings(rows, mean_resizing=False)
    _update_sizes(model, old, before, rows)
    new = find_matrices(model)
    assert new.tied == tied
    assert all(len(parameter) >= rows for parameter in new.parameters)
    _fill_other_tables(model, new, lengths)
    return new


def list_configs(model: PreTrainedModel) -> Iterator[PreTrainedConfig]:
    """Every configuration object of a model: its own, the nested ones, and copies that sub-models hold."""
    from transformers import PreTrainedConfig

    configs = (getattr(module, "config", None) for module in model.modules())
    waiting = [config for config in configs if isinstance(config, PreTrainedConfig)]
    seen: set[int] = set()
    while waiting:
        config = waiting.pop()
        if id(config) not in seen:
            seen.add(id(config))
            yield config
            waiting.extend(value for value in vars(config).values() if isinstance(value, PreTrainedConfig))


def _update_sizes(model: PreTrainedModel, matrices: TokenMatrices, before: int, rows: int) -> None:
    """Replace the old vocabulary size by the new one wherever it is stored.

    transformers' resize sets those of the text config and of the outermost model only: T5's encoder keeps a copy of
    the config, PaliGemma a size of its own, and its inner model recognizes image tokens by a stale number.
    """
    grown = {id(parameter) for parameter in matrices.parameters}
    for module in model.modules():
        if id(getattr(module, "weight", None)) in grown:
            for attribute in ("num_embeddings", "out_features"):
                if hasattr(module, attribute):
                    setattr(module, attribute, len(module.weight))  # type: ignore[arg-type]
        if vars(module).get("vocab_size") == before:
            setattr(module, "vocab_size", rows)  # noqa: B010 - nn.Module declares its attributes as tensors
    for config in list_configs(model):
        if vars(config).get("vocab_size") == before:
            config.vocab_size = rows
    if "vocab_size" in vars(model.config):
        model.config.vocab_size = rows


@torch.no_grad()
def _fill_other_tables(model: PreTrainedModel, matrices: TokenMatrices, lengths: dict[str, int]) -> None:
    """Fill other tables that transformers grew at random with the vocabulary: Gemma 3n's embeddings of each layer.

    Such a model uses row 0 for ids beyond its table. The new rows are copies of it, so that nothing changes.
    """
    for name, parameter in model.named_parameters():
        if not any(parameter is other for other in matrices.parameters) and len(parameter) > lengths[name]:
            parameter[lengths[name] :] = parameter[0]


def _check_parameter(parameter: Tensor, name: str) -> None:
    if hasattr(parameter, "full_tensor"):
        raise VocabularyError(_SHARDED.format(name=name))
    if parameter.is_meta:
        raise VocabularyError(f"the token matrices of {name} are on the meta device; load the weights first")
    if parameter.numel() == 0:
        raise VocabularyError(
            f"the token matrices of {name} are empty here (sharded by ZeRO-3?); extend before sharding"
        )
    if not parameter.is_floating_point():
        raise VocabularyError(
            f"the token matrices of {name} are quantized ({parameter.dtype}); extend the model before quantizing it"
        )


def _check_ties(model: PreTrainedModel, found: TokenMatrices) -> None:
    for target, source in model.get_expanded_tied_weights_keys(all_submodels=True).items():
        pair = model.get_parameter(target), model.get_parameter(source)
        if pair[0] is not pair[1] and any(side is matrix for side in pair for matrix in found.distinct):
            raise VocabularyError(
                f"the configuration of {type(model).__name__} ties {target} to {source}, but they are two matrices: "
                "resizing would tie them again and lose one. Set model.config.tie_word_embeddings = False to keep "
                "both, or call model.tie_weights() to share one"
            )


def _check_copies(model: PreTrainedModel, found: TokenMatrices) -> None:
    """Refuse encoders and decoders with embeddings of their own: resizing would make both share those of the model."""
    if not model.config.is_encoder_decoder:
        return
    for name, module in model.named_modules():
        if (
            isinstance(module, nn.Embedding)
            and module.weight.shape == found.inputs.shape
            and not any(module.weight is matrix for matrix in found.distinct)
        ):
            raise VocabularyError(
                f"{type(model).__name__} has several embedding matrices, {name} among them: resizing would share one "
                "and lose the others. Load the model with tied embeddings"
            )
