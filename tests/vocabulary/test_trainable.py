"""After three steps of an optimizer with weight decay the new rows have changed, and the old rows not by a bit."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import perceptok as pt
from perceptok.errors import VocabularyError
from perceptok.vocabulary import extend_vocabulary, peft_settings, trainable_parameters
from perceptok.vocabulary.matrices import find_matrices

Tiny = Callable[..., PreTrainedModel]

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.1),
    "momentum": lambda groups: torch.optim.SGD(groups, lr=1e-2, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adagrad": lambda groups: torch.optim.Adagrad(groups, lr=1e-2, weight_decay=0.1),
}


def batch(vocab: pt.PerceptionVocabulary) -> Tensor:
    return torch.cat([torch.tensor([3, 4, 5, 6]), vocab.all_ids[::16]])[None]


def train(model: torch.nn.Module, vocab: pt.PerceptionVocabulary, optimizer: torch.optim.Optimizer) -> None:
    ids = batch(vocab)
    more = {"decoder_input_ids": ids} if getattr(model, "config").is_encoder_decoder else {}  # noqa: B009
    for _ in range(3):
        optimizer.zero_grad()
        logits = model(input_ids=ids, **more).logits
        # Every token is written, so that every row of the head has a gradient.
        (torch.logsumexp(logits, -1).square().mean() + torch.nn.functional.cross_entropy(logits[0], ids[0])).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def moved(before: Tensor, after: Tensor) -> Tensor:
    return (before != after).reshape(len(before), -1).any(dim=1)


MODELS = [
    ("llama", False),
    ("llama", True),
    ("llava", False),
    ("llava", True),
    ("qwen2_vl", True),
    ("idefics3", False),
    ("paligemma", True),
    ("gemma", True),
    ("gpt2", True),
    ("gpt2", False),
    ("t5", True),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("name", "tied"), [*MODELS, ("gptj", False)])
def test_plain_pytorch(tiny: Tiny, bare: PreTrainedTokenizerFast, name: str, tied: bool, optimizer: str) -> None:
    model = tiny(name, tied=tied)
    vocab = extend_vocabulary(bare, model, init="normal", pad_to_multiple_of=64)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    matrices = find_matrices(model)
    train(model, vocab, OPTIMIZERS[optimizer](trainable_parameters(model, vocab)))
    ours = vocab.is_perception(torch.arange(matrices.rows))
    read = torch.zeros_like(ours)
    read[batch(vocab)[0]] = True
    for key, parameter in model.named_parameters():
        changed = moved(before[key], parameter)
        if any(parameter is other for other in matrices.parameters):
            # In an untied input matrix only tokens that were read can move; in the head, all.
            expected = ours & read if parameter is matrices.inputs and not tied else ours
            assert torch.equal(changed, expected), key
        else:
            assert not changed.any(), key


@pytest.mark.parametrize(("name", "tied"), MODELS)
def test_peft(tiny: Tiny, bare: PreTrainedTokenizerFast, name: str, tied: bool) -> None:
    model = tiny(name, tied=tied)
    vocab = extend_vocabulary(bare, model, init="normal")
    before = [matrix.detach().clone() for matrix in find_matrices(model).distinct]
    settings = peft_settings(model, vocab)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for a name that is to go
        lora = {"r": 2, "target_modules": r".*(q_proj|c_attn|\.q)", "fan_in_fan_out": name == "gpt2"}
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**lora, **settings))
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=1e-2, weight_decay=0.1)
    train(wrapped, vocab, optimizer)
    ids = batch(vocab)
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        adapted = wrapped.eval()(input_ids=ids, **more).logits
    merged = wrapped.merge_and_unload()
    with torch.no_grad():
        assert torch.allclose(merged(input_ids=ids, **more).logits, adapted, atol=1e-4)
    matrices = find_matrices(merged)
    assert matrices.tied == tied
    ours = vocab.is_perception(torch.arange(matrices.rows))
    for was, matrix in zip(before, matrices.distinct, strict=True):
        assert torch.equal(moved(was, matrix), ours)


def test_the_whole_matrices(tiny: Tiny, bare: PreTrainedTokenizerFast) -> None:
    model = tiny("llama")
    vocab = extend_vocabulary(bare, model, init="normal")
    trainable_parameters(model, vocab)
    groups = trainable_parameters(model, vocab, mode="full")
    before = [matrix.detach().clone() for matrix in find_matrices(model).distinct]
    train(model, vocab, OPTIMIZERS["adamw"](groups))
    # Row 0 is that of padding: zeros without a gradient among the inputs.
    assert all(moved(a, b)[1:].all() for a, b in zip(before, find_matrices(model).distinct, strict=True))
    assert not model.model.layers[0].self_attn.q_proj.weight.requires_grad


def test_two_processes_train_the_same_new_rows(in_two_processes: Callable[[Path], list[Any]]) -> None:
    """DistributedDataParallel averages gradients after they were masked; a step without it accumulates them."""
    ranks = in_two_processes(Path(__file__).with_name("train_in_two.py"))
    for result in ranks:
        assert result == {tied: {"old": 0, "new": 130, "equal": True} for tied in ("False", "True")}


def test_other_parameters_may_stay_trainable(tiny: Tiny, bare: PreTrainedTokenizerFast) -> None:
    model = tiny("llama")
    vocab = extend_vocabulary(bare, model)
    groups = trainable_parameters(model, vocab, freeze_others=False)
    assert model.model.layers[0].self_attn.q_proj.weight.requires_grad
    assert [id(value) for value in groups[0]["params"]] == [id(value) for value in find_matrices(model).parameters]
    assert groups[0]["weight_decay"] == 0


def test_a_masked_model_can_be_copied_and_pickled(tiny: Tiny, bare: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = tiny("llama")
    vocab = extend_vocabulary(bare, model)
    trainable_parameters(model, vocab)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    for other in (loaded, copy.deepcopy(model)):
        trainable_parameters(other, vocab)
        matrices = find_matrices(other)
        sum(matrix.sum() for matrix in matrices.distinct).backward()  # type: ignore[union-attr]
        for matrix in matrices.distinct:
            assert matrix.grad is not None
            assert torch.equal(matrix.grad.any(dim=1), vocab.is_perception(torch.arange(766)))


def test_nan_gradients_of_old_rows_are_cleared(tiny: Tiny, bare: PreTrainedTokenizerFast) -> None:
    model = tiny("llama")
    vocab = extend_vocabulary(bare, model)
    trainable_parameters(model, vocab)
    head = find_matrices(model).outputs
    (head[:300].sum() * torch.nan + head[300:].sum()).backward()
    assert head.grad is not None
    assert not head.grad[:300].any()
    assert head.grad[300:].eq(1).all()


def test_bad_input_is_refused(tiny: Tiny, bare: PreTrainedTokenizerFast) -> None:
    vocab = extend_vocabulary(bare)
    with pytest.raises(
        VocabularyError, match="LlamaForCausalLM has 300 rows, the vocabulary has ids up to 765; extend the model"
    ):
        trainable_parameters(tiny("llama"), vocab)
    with pytest.raises(VocabularyError, match="has 300 rows"):
        peft_settings(tiny("llama"), vocab)
    with pytest.raises(VocabularyError, match="mode must be 'new_rows' or 'full'; got 'half'"):
        trainable_parameters(tiny("llama", rows=800), vocab, mode="half")  # type: ignore[arg-type]
    with pytest.raises(VocabularyError, match="head of GPTJForCausalLM has a bias"):
        peft_settings(tiny("gptj", rows=800), vocab)
