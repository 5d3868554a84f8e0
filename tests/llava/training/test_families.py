"""Other families of models: extended, trained for a step, saved, loaded, and held to the grammar in one answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import perceptok as pt
from perceptok.llava.loading import load_base
from perceptok.llava.training.finetuning import finetune
from perceptok.llava.training.layers import lora_settings, parameter_groups
from perceptok.llava.training.objective import Objective, positions_to_keep
from tests.llava.families import save_family
from tests.llava.records import write_some_records
from tests.llava.training.test_finetuning import config

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),
    pytest.mark.filterwarnings("ignore:__array__ implementation"),  # PaliGemma's processor makes an array of a tensor
]


def constrained_answer(model: Any, given: dict[str, Any], vocab: pt.PerceptionVocabulary) -> None:
    """A random model, held to the grammar, writes one whole block."""
    grammar = pt.GrammarConfig(boxes=None, force_block="first")
    length = given["input_ids"].shape[1]
    constrained = pt.PerceptionLogitsProcessor(vocab, grammar, eos_token_id=2).answering(length, 102)
    with torch.no_grad():
        ids = model.generate(**given, max_new_tokens=102, do_sample=False, logits_processor=[constrained])
    found = pt.parse_generation(ids[0, length:], vocab)
    assert len(found.blocks) == 1
    assert not found.problems


@pytest.mark.parametrize("name", ["idefics3", "paligemma"])
def test_a_step_and_an_answer(name: str, codec: pt.DepthCodec, tmp_path: Path) -> None:
    base = save_family(name, tmp_path / "base")
    records = write_some_records(tmp_path / "data", codec, 6)
    result = finetune(config(base, records, tmp_path / "run", steps=1, batch_size=3))
    assert result.loss == result.loss  # no NaN
    loaded = pt.load_adapter(result.adapter)
    processor: Any = loaded.processor
    picture = loaded.frame.apply(Image.new("L", (90, 40), 77))
    prompt = "USER: <image>\nDepth? ASSISTANT:"
    if processor.chat_template:
        content = [{"type": "image"}, {"type": "text", "text": "Depth?"}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    given = processor(images=[[picture]], text=[prompt], return_tensors="pt")
    constrained_answer(loaded.model, dict(given), loaded.vocab)


def test_qwen_by_its_parts(codec: pt.DepthCodec, tmp_path: Path) -> None:
    """Its processor asks for torchvision: the same pieces without it, and a step of the same objective."""
    base = save_family("qwen2_5_vl", tmp_path / "base")
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    pictures: Any = Qwen2VLImageProcessorPil.from_pretrained(base)
    model = load_base(base)
    vocab = pt.extend_vocabulary(tokenizer, model, init="codebook", codebook=codec.codebook)
    settings = config(base, tmp_path, tmp_path)
    wrapped: Any = peft.get_peft_model(model, lora_settings(model, vocab, settings))
    seen = dict(pictures(pt.FrameRule().apply(Image.new("L", (90, 40), 77)), return_tensors="pt"))
    prompt = "user:<|vision_start|>" + "<|image_pad|>" * 4 + "<|vision_end|>Depth?<|im_end|>\nassistant:"
    start = tokenizer(prompt, return_tensors="pt")["input_ids"]
    answer = vocab.ids(pt.DEPTH)[torch.arange(100)][None]
    ids = torch.cat([start, answer], dim=1)
    labels = torch.cat([torch.full_like(start, -100), answer], dim=1)
    kinds = (ids == tokenizer.convert_tokens_to_ids("<|image_pad|>")).int()
    optimizer = torch.optim.AdamW(parameter_groups(wrapped, settings))
    objective = Objective(settings.objective, vocab, codec)
    found = []
    for _ in range(2):
        logits = wrapped(
            input_ids=ids, mm_token_type_ids=kinds, logits_to_keep=positions_to_keep(labels), **seen
        ).logits
        loss = objective(logits, ids, labels, 100, torch.tensor(100)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    assert found[1] < found[0]
    given = {"input_ids": start, "mm_token_type_ids": kinds[:, : start.shape[1]], **seen}
    constrained_answer(wrapped.eval(), given, vocab)
