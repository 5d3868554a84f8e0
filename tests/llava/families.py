"""Tiny random models of other families, with processors, in transformers' layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from perceptok.llava.grid_tower import GridTowerConfig
from tests.llava.tiny import (
    CHAT_TEMPLATE,
    PATCH,
    TEXT as LLAVA_TEXT,
    VISION as LLAVA_VISION,
    CLIPImageProcessor,
    save_llava_of,
    tiny_tokenizer,
)

TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
SMOL_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""As HuggingFaceTB/SmolVLM-Instruct has it."""

QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As Qwen/Qwen2.5-VL-3B-Instruct has it, but for videos."""

MISTRAL_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}[INST] "
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}<image>\n{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}"
    " [/INST]{% else %} {{ message['content'][0]['text'] }}</s>{% endif %}{% endfor %}"
)
"""As llava-hf/llava-v1.6-mistral-7b-hf has it."""


ONEVISION_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% if message['role'] != 'assistant' %}{{ '\\n' + content['text'] }}"
    "{% else %}{% generation %}{{ '\\n' + content['text'] }}{% endgeneration %}{% endif %}{% endfor %}{{'<|im_end|>'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""As llava-hf/llava-onevision-qwen2-0.5b-ov-hf has it, but for videos: answers are repeated after another space."""


def llava_7b(folder: Path) -> None:
    """As LLaVA-1.5-7B is laid out: more rows than the tokenizer has tokens."""
    save_llava_of(folder, {}, rows=448)


def llava_13b(folder: Path) -> None:
    """As LLaVA-1.5-13B: wider and deeper."""
    save_llava_of(folder, {"hidden_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
                           "num_key_value_heads": 4}, rows=448)  # fmt: skip


def llava_with_batch_norms(folder: Path) -> None:
    """A convolutional tower: its running statistics must stay what they are."""
    tokenizer = tiny_tokenizer()
    image = int(tokenizer.convert_tokens_to_ids("<image>"))  # type: ignore[arg-type]
    language = transformers.LlamaConfig(
        vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=3, **LLAVA_TEXT
    )
    config = transformers.LlavaConfig(
        text_config=language,
        vision_config=GridTowerConfig(60, (1, 4)),
        image_token_index=image,
        image_seq_length=100,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    make_processor: Any = transformers.LlavaProcessor
    make_processor(
        image_processor=CLIPImageProcessor(size={"height": 60, "width": 60}, do_center_crop=False),
        tokenizer=tokenizer,
        patch_size=6,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)


def llava_next(folder: Path) -> None:
    """An image and its tiles: the framed square gives a second, larger view of itself."""
    tokenizer = tiny_tokenizer()
    image = int(tokenizer.convert_tokens_to_ids("<image>"))  # type: ignore[arg-type]
    language = transformers.MistralConfig(
        vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=3, sliding_window=None, **LLAVA_TEXT
    )
    config = transformers.LlavaNextConfig(
        text_config=language, vision_config=transformers.CLIPVisionConfig(projection_dim=16, **LLAVA_VISION),
        image_token_index=image, image_grid_pinpoints=[[112, 112]], tie_word_embeddings=False,
    )  # fmt: skip
    transformers.LlavaNextForConditionalGeneration(config).save_pretrained(folder)
    image_processor = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, image_grid_pinpoints=[[112, 112]]
    )
    processor = transformers.LlavaNextProcessor(
        image_processor, tokenizer, patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=MISTRAL_TEMPLATE,
    )  # fmt: skip
    processor.save_pretrained(folder)


def llava_onevision(folder: Path) -> None:
    """Tiles as LLaVA-NeXT has them, for images of several shapes; without its processor of videos."""
    tokenizer = tiny_tokenizer("<image>", "<video>", "<|im_start|>", "<|im_end|>")
    image, video = (int(tokenizer.convert_tokens_to_ids(token)) for token in ("<image>", "<video>"))  # type: ignore[arg-type]
    language = transformers.Qwen2Config(
        vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=3, **LLAVA_TEXT
    )
    sides: dict[str, Any] = {"image_grid_pinpoints": [[56, 56], [56, 112], [112, 56], [112, 112]]}
    make_config: Any = transformers.LlavaOnevisionConfig
    config = make_config(
        text_config=language, vision_config=transformers.SiglipVisionConfig(**VISION, vision_use_head=False),
        image_token_id=image, video_token_id=video, tie_word_embeddings=False, **sides,
    )  # fmt: skip
    transformers.LlavaOnevisionForConditionalGeneration(config).save_pretrained(folder)
    transformers.LlavaOnevisionImageProcessor(size={"height": 56, "width": 56}, **sides).save_pretrained(folder)
    _save_settings(folder, tokenizer, ONEVISION_TEMPLATE, processor_class="LlavaOnevisionProcessor",
                   num_image_tokens=16, vision_feature_select_strategy="full")  # fmt: skip


def smolvlm(folder: Path) -> None:
    """As SmolVLM2, which is an Idefics3 with videos; without its processor of videos."""
    tokenizer = tiny_tokenizer("<image>", *SMOL_TOKENS)
    image = int(tokenizer.convert_tokens_to_ids("<image>"))  # type: ignore[arg-type]
    make_config: Any = transformers.SmolVLMConfig
    config = make_config(
        text_config=transformers.LlamaConfig(vocab_size=len(tokenizer), **TEXT),
        vision_config=VISION, image_token_id=image, pad_token_id=3, scale_factor=2, tie_word_embeddings=False,
    )  # fmt: skip
    transformers.SmolVLMForConditionalGeneration(config).save_pretrained(folder)
    transformers.SmolVLMImageProcessor(
        size={"longest_edge": 56}, max_image_size={"longest_edge": 56}, do_image_splitting=False
    ).save_pretrained(folder)
    _save_settings(folder, tokenizer, SMOL_TEMPLATE, processor_class="SmolVLMProcessor", image_seq_len=4)


def _save_settings(folder: Path, tokenizer: Any, chat_template: str, **settings: Any) -> None:
    """Save a processor's tokenizer and settings, without making the processor, which asks for torchvision."""
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps(settings))


SMOL_TOKENS = ("<|im_start|>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", "<row_1_col_1>")


def idefics3(folder: Path) -> None:
    tokenizer = tiny_tokenizer("<image>", *SMOL_TOKENS)
    image = int(tokenizer.convert_tokens_to_ids("<image>"))  # type: ignore[arg-type]
    config = transformers.Idefics3Config(
        text_config=transformers.LlamaConfig(vocab_size=len(tokenizer), **TEXT),
        vision_config=VISION, image_token_id=image, pad_token_id=3, scale_factor=2, tie_word_embeddings=False,
    )  # fmt: skip
    transformers.Idefics3ForConditionalGeneration(config).save_pretrained(folder)
    image_processor = transformers.Idefics3ImageProcessor(
        size={"longest_edge": 56}, max_image_size={"longest_edge": 56}, do_image_splitting=False
    )
    processor = transformers.Idefics3Processor(image_processor, tokenizer, image_seq_len=4, chat_template=SMOL_TEMPLATE)
    processor.save_pretrained(folder)


def _save_qwen(folder: Path, kind: str, vision: dict[str, Any], image_processor: Any) -> None:
    """Without its processor, which asks for torchvision: the image processor and the tokenizer each by itself."""
    tokens = ("<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>")
    tokenizer = tiny_tokenizer("<|image_pad|>", *tokens)
    ids = {token: int(tokenizer.convert_tokens_to_ids(token)) for token in ("<|image_pad|>", *tokens)}  # type: ignore[arg-type]
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3]}
    text = {**TEXT, "vocab_size": len(tokenizer), "rope_parameters": rope}
    config = getattr(transformers, f"{kind}Config")(
        text_config=text, vision_config=vision,
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )  # fmt: skip
    getattr(transformers, f"{kind}ForConditionalGeneration")(config).save_pretrained(folder)
    image_processor.save_pretrained(folder)
    tokenizer.chat_template = QWEN_TEMPLATE
    tokenizer.save_pretrained(folder)


def qwen2_vl(folder: Path) -> None:
    vision = {"depth": 1, "embed_dim": 16, "num_heads": 2, "mlp_ratio": 1, "hidden_size": 32}
    processor = transformers.Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=56 * 56)
    _save_qwen(folder, "Qwen2VL", vision, processor)


def qwen2_5_vl(folder: Path) -> None:
    vision = {
        "depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 32,
        "fullatt_block_indexes": [0],
    }  # fmt: skip
    processor = transformers.Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=56 * 56)
    _save_qwen(folder, "Qwen2_5_VL", vision, processor)


def qwen3_vl(folder: Path) -> None:
    vision = {
        "depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 32,
        "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    processor = transformers.Qwen2VLImageProcessor(min_pixels=64 * 64, max_pixels=64 * 64, patch_size=16)
    _save_qwen(folder, "Qwen3VL", vision, processor)


def paligemma(folder: Path) -> None:
    image_processor = transformers.SiglipImageProcessor(size={"height": 56, "width": 56})
    image_processor.image_seq_length = 16
    tokenizer = tiny_tokenizer("<image>")
    processor = transformers.PaliGemmaProcessor(
        image_processor, tokenizer, chat_template=CHAT_TEMPLATE
    )  # adds 1,152 tokens
    image = int(tokenizer.convert_tokens_to_ids("<image>"))  # type: ignore[arg-type]
    vision = {**VISION, "model_type": "siglip_vision_model", "projection_dim": 32, "vision_use_head": False}
    config = transformers.PaliGemmaConfig(
        text_config={**TEXT, "model_type": "gemma", "vocab_size": len(tokenizer)}, vision_config=vision,
        image_token_index=image, projection_dim=32, vocab_size=len(tokenizer), tie_word_embeddings=True,
    )  # fmt: skip
    transformers.PaliGemmaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)


FAMILIES: dict[str, Callable[[Path], None]] = {
    "llava_7b": llava_7b,
    "llava_13b": llava_13b,
    "llava_with_batch_norms": llava_with_batch_norms,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "idefics3": idefics3,
    "paligemma": paligemma,
    "qwen2_5_vl": qwen2_5_vl,
    "smolvlm": smolvlm,
}


MORE_FAMILIES = {**FAMILIES, "qwen2_vl": qwen2_vl, "qwen3_vl": qwen3_vl}
"""With families whose layout is that of another one, and whose positions are not."""


def save_family(name: str, folder: Path) -> Path:
    """A tiny random model of a family, not extended."""
    if name == "smolvlm":
        pytest.importorskip("num2words")
    torch.manual_seed(5)
    MORE_FAMILIES[name](folder)
    return folder
