"""The system text that a model was trained with: saved with it, and part of every prompt, as in training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import LlavaProcessor

import perceptok as pt
from perceptok.data import LLAVA_SYSTEM, PerceptionRecord, Turn
from perceptok.data.rendering import render_text
from perceptok.errors import CheckpointError, InferenceError
from perceptok.llava import PerceptionPipeline, export_adapter, load_adapter, load_llava, merge_adapter, save_adapter
from perceptok.llava.adapter_record import ADAPTER_FILE
from perceptok.llava.inference.questions import build_prompt
from tests.llava.answering import make_image
from tests.llava.families import FAMILIES
from tests.llava.tiny import tiny_trained

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

QUESTION = "How many cars are in the image?"


@pytest.fixture(scope="module")
def adapter(tiny_llava: Path, codec: pt.DepthCodec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, processor, vocab = tiny_trained(tiny_llava, codec)
    folder = tmp_path_factory.mktemp("system") / "adapter"
    return save_adapter(folder, model, processor, vocab, codec, system=LLAVA_SYSTEM, base=tiny_llava, verify="file")


def rendered_prompt(processor: Any, system: str | None) -> str:
    turns = (Turn("user", QUESTION), Turn("assistant", "2"))
    rendered = render_text(PerceptionRecord("a", ("a.png",), turns, "counting", "direct"), processor, system=system)
    return rendered.text[: rendered.spans[0][0]]


@pytest.mark.parametrize("has_template", [True, False])
def test_a_prompt_begins_with_it_as_in_training(adapter: Path, has_template: bool) -> None:
    loaded = load_adapter(adapter)
    processor: Any = loaded.processor
    if not has_template:
        processor = LlavaProcessor(processor.image_processor, processor.tokenizer, patch_size=14)
    prompt = build_prompt(processor, QUESTION, loaded.vocab, loaded.system)
    assert prompt.startswith(f"{LLAVA_SYSTEM} USER: <image>\n")
    assert prompt == rendered_prompt(processor, LLAVA_SYSTEM)


def test_it_is_saved_and_used(adapter: Path, tiny_adapter: Path) -> None:
    assert load_adapter(adapter).system == LLAVA_SYSTEM
    assert load_adapter(tiny_adapter).system is None
    pipe = PerceptionPipeline.from_pretrained(adapter)
    assert pipe.system == LLAVA_SYSTEM
    without = PerceptionPipeline.from_pretrained(tiny_adapter).prepare_inputs(make_image(9, 9), QUESTION)
    ids = pipe.prepare_inputs(make_image(9, 9), QUESTION)["input_ids"][0].tolist()
    system_ids = pipe.processor.tokenizer.encode(LLAVA_SYSTEM, add_special_tokens=False)
    begin = ids.index(system_ids[0])
    assert ids[begin : begin + len(system_ids) - 1] == system_ids[:-1]
    assert len(ids) > without["input_ids"].shape[1]


def test_a_merged_checkpoint_writes_it_by_itself(adapter: Path, tmp_path: Path) -> None:
    merge_adapter(adapter, tmp_path / "merged")
    export_adapter(adapter, tmp_path / "exported")
    original = PerceptionPipeline.from_pretrained(adapter)
    expected = rendered_prompt(original.processor, LLAVA_SYSTEM)
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    for folder in (tmp_path / "merged", tmp_path / "exported" / "base"):
        stock: Any = transformers.AutoProcessor.from_pretrained(folder)  # type: ignore[no-untyped-call]
        assert stock.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True) == expected
        own = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
        text = stock.apply_chat_template([own, {"role": "user", "content": content}], add_generation_prompt=True)
        assert text.startswith("Be brief. USER:")
    merged = PerceptionPipeline.from_pretrained(tmp_path / "merged")
    assert merged.system == LLAVA_SYSTEM
    image = make_image(60, 40)
    for name, value in original.prepare_inputs(image, QUESTION).items():
        assert torch.equal(merged.prepare_inputs(image, QUESTION)[name], value)
    model, _, _ = load_llava(tmp_path / "merged")
    assert model.config.perception_settings["system"] == LLAVA_SYSTEM  # a base for more training


def test_a_template_that_leaves_it_out(adapter: Path) -> None:
    loaded = load_adapter(adapter)
    processor: Any = loaded.processor
    processor.chat_template = (
        "{% for message in messages %}{% if message['role'] == 'user' %}<image>?{% endif %}{% endfor %}"
    )
    with pytest.raises(InferenceError, match=r"the system text 'A chat between .* which its chat template leaves out"):
        build_prompt(processor, QUESTION, loaded.vocab, loaded.system)


def test_damaged(adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "copy")
    path = tmp_path / "copy" / ADAPTER_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "system": 3}))
    with pytest.raises(CheckpointError, match="it was not written by save_adapter"):
        load_adapter(tmp_path / "copy")


def test_a_base_without_a_chat_template(tmp_path: Path) -> None:
    FAMILIES["llava_next"](tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match=r"LlavaNext.* has no chat template, so its prompts are unknown"):
        load_llava(tmp_path / "base")
