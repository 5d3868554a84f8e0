"""Small files with the names that the READMEs use, for running their code blocks."""

from __future__ import annotations

import json
import shutil
import warnings
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

import perceptok as pt

__all__ = ["write_readme_files"]

_TEXT = {
    "hidden_size": 48,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def write_readme_files(folder: Path) -> None:
    """Write depth maps, photos with annotations, two models and an adapter, all small."""
    samples = Path(str(files("perceptok.depth") / "samples"))
    for target in ("kitchen.png", "maps/a.png", "maps/sub/b.png", "held-out/c.png"):
        source = {"b.png": "desk-sensor.png", "c.png": "person-sensor.png"}.get(Path(target).name, "room-sensor.png")
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(samples / source, folder / target)
    _write_photos(folder)
    _write_models(folder)


def _write_photos(folder: Path) -> None:
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (480, 640, 3), dtype=np.uint8)).save(folder / "photos/street.jpg")
    shutil.copyfile(folder / "photos/street.jpg", folder / "kitchen.jpg")
    boxes = [[12.0, 30.0, 198.0, 430.0], [300.0, 100.0, 120.0, 230.0]]
    annotations = [
        {"id": index, "image_id": 1, "category_id": 18, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for index, box in enumerate(boxes)
    ]
    coco = {
        "images": [{"id": 1, "file_name": "street.jpg", "width": 640, "height": 480}],
        "annotations": annotations,
        "categories": [{"id": 18, "name": "dog"}],
    }
    (folder / "instances.json").write_text(json.dumps(coco))
    codes = pt.BoxCodec().encode(boxes[:1], image_size=(640, 480), convention="xywh")
    answer = {"name": "street.jpg", "text": pt.BoxCodec().to_text(codes), "label": "dog"}
    (folder / "answers.jsonl").write_text(json.dumps(answer) + "\n")


def _write_models(folder: Path) -> None:
    tokenizer = _make_tokenizer()
    torch.manual_seed(0)
    text = LlamaConfig(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1, pad_token_id=2, **_TEXT)
    LlamaForCausalLM(text).save_pretrained(folder / "my-model")
    tokenizer.save_pretrained(folder / "my-model")
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=336, patch_size=112
    )
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=image)
    LlavaForConditionalGeneration(config).save_pretrained(folder / "my-llava")
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}),
        tokenizer,
        patch_size=112,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    processor.save_pretrained(folder / "my-llava")
    _write_adapter(folder)


def _write_adapter(folder: Path) -> None:
    """Write an adapter of my-llava."""
    import peft

    from perceptok.vocabulary import peft_settings

    codec = pt.DepthCodec.from_pretrained()
    model, processor, vocab = pt.load_llava(folder / "my-llava", codec=codec)
    lora = peft.LoraConfig(r=2, target_modules=r".*language_model.*(q|v)_proj", **peft_settings(model, vocab))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        wrapped = peft.get_peft_model(model, lora)
    pt.llava.save_adapter(folder / "my-adapter", wrapped, processor, vocab, codec, base="my-llava", verify="file")


def _make_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of single bytes."""
    pieces = ["<s>", "</s>", "<pad>", "<image>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bare = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, []))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return tokenizer
