"""Adapters that are trained, saved, loaded onto another copy of the base model, and merged, give equal logits."""

from __future__ import annotations

import copy
import functools
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import perceptok as pt
from perceptok.errors import VocabularyError
from perceptok.vocabulary import extend_vocabulary, peft_settings, verify_adapter
from perceptok.vocabulary.matrices import find_matrices

Tiny = Callable[..., PreTrainedModel]
Prepared = Callable[..., tuple[peft.PeftModel, pt.PerceptionVocabulary]]

NEW_ROWS = [
    ("llama", False),
    ("llama", True),
    ("llava", False),
    ("llava", True),
    ("mllama", False),
    ("qwen2", True),
    ("qwen2_vl", True),
    ("gemma3", True),
    ("gpt2", True),
    ("t5", True),
]
FULL = [("llama", False), ("llama", True), ("llava", False), ("llava", True), ("qwen2_vl", True), ("gptj", False)]


def logits(model: torch.nn.Module, ids: Tensor) -> Tensor:
    more = {"decoder_input_ids": ids} if getattr(model, "config").is_encoder_decoder else {}  # noqa: B009
    with torch.no_grad():
        return model.eval()(input_ids=ids, **more).logits  # type: ignore[no-any-return]


def some_ids(vocab: pt.PerceptionVocabulary) -> Tensor:
    return torch.cat([torch.tensor([3, 4, 5, 6]), vocab.all_ids[::16]])[None]


@pytest.fixture
def prepared(tiny: Tiny, bare: PreTrainedTokenizerFast) -> Prepared:
    """An extended model in an adapter, three steps of training later."""

    def build(
        name: str, tied: bool, settings: Callable[..., dict[str, Any]], targets: str = r".*(q_proj|c_attn|\.q)"
    ) -> tuple[peft.PeftModel, pt.PerceptionVocabulary]:
        model = tiny(name, tied=tied)
        vocab = extend_vocabulary(copy.deepcopy(bare), model, init="normal")
        config = peft.LoraConfig(r=2, target_modules=targets, fan_in_fan_out=name == "gpt2", **settings(model, vocab))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for a name that is to go
            wrapped = peft.get_peft_model(model, config)
        train(wrapped, vocab)
        return wrapped, vocab

    return build


def train(wrapped: peft.PeftModel, vocab: pt.PerceptionVocabulary) -> None:
    ids = some_ids(vocab)
    more = {"decoder_input_ids": ids} if wrapped.config.is_encoder_decoder else {}
    optimizer = torch.optim.AdamW([parameter for parameter in wrapped.parameters() if parameter.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        scores = wrapped(input_ids=ids, **more).logits
        (torch.logsumexp(scores, -1).square().mean() + torch.nn.functional.cross_entropy(scores[0], ids[0])).backward()
        optimizer.step()


def there_and_back(
    wrapped: peft.PeftModel, vocab: pt.PerceptionVocabulary, other: PreTrainedModel, folder: Path, tied: bool
) -> None:
    """Saved, verified, loaded onto `other`, merged, saved and loaded: the same logits throughout."""
    ids = some_ids(vocab)
    trained, before = logits(wrapped, ids), logits(other, ids)
    assert not torch.allclose(trained, before, atol=1e-2)
    wrapped.save_pretrained(folder / "adapter")
    verify_adapter(wrapped, vocab, folder / "adapter")
    loaded = peft.PeftModel.from_pretrained(other, folder / "adapter")
    assert torch.equal(logits(loaded, ids), trained)
    merged = loaded.merge_and_unload()
    assert torch.allclose(logits(merged, ids), trained, atol=1e-5)
    merged.save_pretrained(folder / "merged")
    again = type(merged).from_pretrained(folder / "merged")
    assert torch.equal(logits(again, ids), logits(merged, ids))
    assert find_matrices(again).tied == tied


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize(("name", "tied"), NEW_ROWS)
def test_new_rows(
    tiny: Tiny, bare: PreTrainedTokenizerFast, prepared: Prepared, name: str, tied: bool, tmp_path: Path
) -> None:
    wrapped, vocab = prepared(name, tied, peft_settings)
    other = tiny(name, tied=tied)
    extend_vocabulary(bare, other, init="mean")  # any init: the adapter brings the rows
    there_and_back(wrapped, vocab, other, tmp_path, tied)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize(("name", "tied"), FULL)
def test_whole_matrices(
    tiny: Tiny, bare: PreTrainedTokenizerFast, prepared: Prepared, name: str, tied: bool, tmp_path: Path
) -> None:
    wrapped, vocab = prepared(name, tied, lambda *where: peft_settings(*where, mode="full"))
    other = tiny(name, tied=tied)
    extend_vocabulary(bare, other, init="mean")
    there_and_back(wrapped, vocab, other, tmp_path, tied)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_the_readme_example(tiny: Tiny, bare: PreTrainedTokenizerFast, prepared: Prepared, tmp_path: Path) -> None:
    wrapped, vocab = prepared("llava", False, peft_settings, targets="all-linear")
    other = tiny("llava")
    extend_vocabulary(bare, other)
    there_and_back(wrapped, vocab, other, tmp_path, False)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize(
    ("settings", "tied"),
    [(peft_settings, False), (peft_settings, True), (functools.partial(peft_settings, mode="full"), False)],
)
@pytest.mark.parametrize("other", ["second", "model"])  # peft itself refuses the names of what it wraps
def test_adapters_by_name(
    prepared: Prepared, settings: Callable[..., dict[str, Any]], tied: bool, other: str, tmp_path: Path
) -> None:
    """Each is held to its own file, whichever is active, and whatever it is called."""
    wrapped, vocab = prepared("llama", tied, settings)
    wrapped.add_adapter(other, copy.deepcopy(wrapped.peft_config["default"]))
    wrapped.set_adapter(other)
    train(wrapped, vocab)
    wrapped.save_pretrained(tmp_path)
    for active in ("default", other):
        wrapped.set_adapter(active)
        verify_adapter(wrapped, vocab, tmp_path)
        verify_adapter(wrapped, vocab, tmp_path, adapter_name=other)
        verify_adapter(wrapped, vocab, tmp_path / other, adapter_name=other)
        (tmp_path / "swapped").mkdir(exist_ok=True)
        shutil.copy(tmp_path / "adapter_model.safetensors", tmp_path / "swapped")
        with pytest.raises(VocabularyError, match="differs from the model"):
            verify_adapter(wrapped, vocab, tmp_path / "swapped", adapter_name=other)
    train(wrapped, vocab)
    with pytest.raises(VocabularyError, match="differs from the model"):
        verify_adapter(wrapped, vocab, tmp_path, adapter_name=other)
    verify_adapter(wrapped, vocab, tmp_path)
    with pytest.raises(VocabularyError, match="no adapter 'third', only default, "):
        verify_adapter(wrapped, vocab, tmp_path, adapter_name="third")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize("tied", [False, True])
def test_auto_peft_model(tiny: Tiny, bare: PreTrainedTokenizerFast, tied: bool, tmp_path: Path) -> None:
    """peft loads the plain base and grows it to the tokenizer's length: padding is no matter without embeddings."""
    tiny("llama", tied=tied).save_pretrained(tmp_path / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    vocab = extend_vocabulary(bare, model, init="normal", pad_to_multiple_of=64)
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", **peft_settings(model, vocab))
    )
    train(wrapped, vocab)
    sizes = {}
    for embeddings in ("auto", False):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if embeddings else "error", UserWarning)  # peft says what "auto" does
            wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=embeddings)
        verify_adapter(wrapped, vocab, tmp_path / "adapter")
        sizes[embeddings] = (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
    assert sizes[False] < 0.8 * sizes["auto"]
    bare.save_pretrained(tmp_path / "adapter")
    loaded = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    ids = some_ids(vocab)
    assert torch.allclose(logits(loaded, ids)[..., :766], logits(wrapped, ids)[..., :766], atol=1e-5)


# ---------------------------------------------------------------------------------------------- what is refused

NOTHING: Callable[..., dict[str, Any]] = lambda model, vocab: {}  # noqa: E731


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize("tied", [False, True])
def test_unfrozen_matrices_that_peft_does_not_save(prepared: Prepared, tied: bool, tmp_path: Path) -> None:
    """The trap of LLaVA: nothing says that the trained embeddings are lost."""
    wrapped, vocab = prepared("llava", tied, NOTHING)
    for matrix in find_matrices(wrapped.get_base_model()).parameters:
        matrix.requires_grad_(True)
    train(wrapped, vocab)
    wrapped.save_pretrained(tmp_path)
    with pytest.raises(VocabularyError, match=r"embed_tokens\.weight was trained, but is not in .* peft_settings"):
        verify_adapter(wrapped, vocab, tmp_path)
    wrapped.save_pretrained(tmp_path, save_embedding_layers=True)
    verify_adapter(wrapped, vocab, tmp_path)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_untrained_rows_are_refused(prepared: Prepared, tmp_path: Path) -> None:
    wrapped, vocab = prepared("llava", False, NOTHING)
    wrapped.save_pretrained(tmp_path)
    with pytest.raises(VocabularyError, match=r"no rows of perception tokens for base_model.*embed_tokens"):
        verify_adapter(wrapped, vocab, tmp_path)
    inputs_only, vocab = prepared("llava", False, lambda *_: {"trainable_token_indices": list(range(300, 766))})
    inputs_only.save_pretrained(tmp_path)
    with pytest.raises(VocabularyError, match=r"no rows of perception tokens for base_model\.model\.lm_head"):
        verify_adapter(inputs_only, vocab, tmp_path)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_an_adapter_older_than_the_model_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    wrapped, vocab = prepared("llama", False, peft_settings)
    wrapped.save_pretrained(tmp_path)
    train(wrapped, vocab)
    with pytest.raises(VocabularyError, match="differs from the model, which was trained since; save it again"):
        verify_adapter(wrapped, vocab, tmp_path)
    with pytest.raises(VocabularyError, match=r"cannot read an adapter at .*; save it with save_pretrained"):
        verify_adapter(wrapped, vocab, tmp_path / "nowhere")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(VocabularyError, match="cannot read an adapter"):
        verify_adapter(wrapped, vocab, tmp_path)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_a_sharded_parameter_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    wrapped, vocab = prepared("llama", False, peft_settings)
    wrapped.save_pretrained(tmp_path)
    next(parameter for parameter in wrapped.parameters() if parameter.requires_grad).data = torch.empty(0)
    with pytest.raises(VocabularyError, match=r"delta is a shard here \(FSDP, ZeRO-3\); gather the model first"):
        verify_adapter(wrapped, vocab, tmp_path)


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_ties_unknown_to_peft_are_refused(tiny: Tiny, bare: PreTrainedTokenizerFast, name: str) -> None:
    model = tiny(name, tied=True)
    vocab = extend_vocabulary(bare, model)
    with pytest.raises(VocabularyError, match=r"is tied, and peft would train .*(wte|shared) without its head"):
        peft_settings(model, vocab, mode="full")
