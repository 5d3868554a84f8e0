"""Tiny random models of other families, with processors, in transformers' layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.llava.tiny import tiny_tokenizer

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
PARTS = (
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}IMAGE{% else %}{{ content['text'] }}"
    "{% endif %}{% endfor %}"
)


def chat_template(image: str, end: str) -> str:
    """Turns that begin with a role and close with a token, as SmolVLM's and Qwen's do."""
    return (
        "{% for message in messages %}{{ message['role'] + ':' }}"
        + PARTS.replace("IMAGE", image)
        + end
        + "\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )


def idefics3(folder: Path) -> None:
    tokens = ("<fake_token_around_image>", "<end_of_utterance>", "<global-img>", "<row_1_col_1>")
    tokenizer = tiny_tokenizer("<image>", *tokens)
    image = int(tokenizer.convert_tokens_to_ids("<image>"))  # type: ignore[arg-type]
    config = transformers.Idefics3Config(
        text_config=transformers.LlamaConfig(vocab_size=len(tokenizer), **TEXT),
        vision_config=VISION, image_token_id=image, pad_token_id=3, scale_factor=2, tie_word_embeddings=False,
    )  # fmt: skip
    transformers.Idefics3ForConditionalGeneration(config).save_pretrained(folder)
    pictures = transformers.Idefics3ImageProcessor(
        size={"longest_edge": 56}, max_image_size={"longest_edge": 56}, do_image_splitting=False
    )
    processor = transformers.Idefics3Processor(
        pictures, tokenizer, image_seq_len=4, chat_template=chat_template("<image>", "<end_of_utterance>")
    )
    processor.save_pretrained(folder)


def qwen2_5_vl(folder: Path) -> None:
    """Without its processor, which asks for torchvision: the image processor and the tokenizer each by itself."""
    tokens = ("<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_end|>")
    tokenizer = tiny_tokenizer("<|image_pad|>", *tokens)
    ids = {token: int(tokenizer.convert_tokens_to_ids(token)) for token in ("<|image_pad|>", *tokens)}  # type: ignore[arg-type]
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3]}
    text = {**TEXT, "vocab_size": len(tokenizer), "rope_parameters": rope}
    config = transformers.Qwen2_5_VLConfig(
        text_config=text,
        vision_config={
            "depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 32,
            "fullatt_block_indexes": [0],
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )  # fmt: skip
    transformers.Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    transformers.Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=56 * 56).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def paligemma(folder: Path) -> None:
    pictures = transformers.SiglipImageProcessor(size={"height": 56, "width": 56})
    pictures.image_seq_length = 16
    tokenizer = tiny_tokenizer("<image>")
    processor = transformers.PaliGemmaProcessor(pictures, tokenizer)  # adds 1,152 tokens of its own
    image = int(tokenizer.convert_tokens_to_ids("<image>"))  # type: ignore[arg-type]
    vision = {**VISION, "model_type": "siglip_vision_model", "projection_dim": 32, "vision_use_head": False}
    config = transformers.PaliGemmaConfig(
        text_config={**TEXT, "model_type": "gemma", "vocab_size": len(tokenizer)}, vision_config=vision,
        image_token_index=image, projection_dim=32, vocab_size=len(tokenizer), tie_word_embeddings=True,
    )  # fmt: skip
    transformers.PaliGemmaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)


FAMILIES: dict[str, Callable[[Path], None]] = {
    "idefics3": idefics3,
    "paligemma": paligemma,
    "qwen2_5_vl": qwen2_5_vl,
}


def save_family(name: str, folder: Path) -> Path:
    """A tiny random model of a family, not extended."""
    torch.manual_seed(5)
    FAMILIES[name](folder)
    return folder
