"""TRL's SFTTrainer with `peft_settings`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import perceptok as pt
from perceptok.vocabulary import extend_vocabulary, peft_settings, verify_adapter
from perceptok.vocabulary.matrices import find_matrices

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

Tiny = Callable[..., PreTrainedModel]

TEMPLATE = (
    "{% for turn in messages %}{% if turn['role'] == 'assistant' %}{% generation %}{{ turn['content'] }} "
    "{{ eos_token }}{% endgeneration %}{% else %}{{ turn['content'] }} {% endif %}{% endfor %}"
)
ANSWER = "".join([pt.tokens.DEPTH.start, *(pt.tokens.DEPTH.token(code) for code in range(20)), pt.tokens.DEPTH.end])
TURNS = [{"role": "user", "content": "a map depth"}, {"role": "assistant", "content": ANSWER}]


@pytest.mark.filterwarnings("ignore")  # three libraries' own
@pytest.mark.parametrize("loss", ["chunked_nll", "nll"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("mode", ["new_rows", "full"])
def test_sft_trainer_trains_the_new_rows(
    tiny: Tiny, bare: PreTrainedTokenizerFast, tied: bool, loss: str, mode: str, tmp_path: Path
) -> None:
    model = tiny("llama", tied=tied)
    bare.chat_template, bare.pad_token = TEMPLATE, bare.unk_token
    vocab = extend_vocabulary(bare, model, init="normal")
    before = [matrix.detach().clone() for matrix in find_matrices(model).distinct]
    settings = peft_settings(model, vocab, mode=mode)  # type: ignore[arg-type]
    trainer = trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(
            output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=2, learning_rate=1e-2, loss_type=loss,
            assistant_only_loss=True, max_length=64, report_to=[], save_strategy="no", logging_steps=1, use_cpu=True,
            bf16=False, gradient_checkpointing=False, weight_decay=0.5,
        ),
        train_dataset=datasets.Dataset.from_list([{"messages": TURNS}] * 4),
        processing_class=bare,
        peft_config=peft.LoraConfig(r=2, target_modules="all-linear", **settings),
    )  # fmt: skip
    trainer.train()
    first, second = (entry["loss"] for entry in trainer.state.log_history[:2])
    assert second < first
    trainer.save_model(str(tmp_path))
    verify_adapter(trainer.model, vocab, tmp_path)
    merged = trainer.model.merge_and_unload()
    old = torch.arange(300)
    for was, now in zip(before, find_matrices(merged).distinct, strict=True):
        assert not torch.equal(was[vocab.all_ids], now[vocab.all_ids])
        assert mode == "full" or torch.equal(was[old], now[old])
