"""A LLaVA of a few thousand weights, made from nothing, in the Hugging Face layout: for every test that needs one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

import perceptok as pt
from perceptok.llava import FrameRule
from perceptok.vocabulary import peft_settings

SIDE, PATCH = 56, 14
"""Sides of the tower's image and of a patch in pixels: 16 image tokens."""

TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""As llava-hf/llava-1.5-7b-hf has it."""

Trained = tuple[peft.PeftModel, Any, pt.PerceptionVocabulary]

SENTENCES = [
    "The depth map for the image is .",
    "Multiple points are circled on the image, labeled by letters beside each circle.",
    "Which point is the closest to the camera? Point A is located at (x = 73 y = 188)",
    "How many cars are in the image? Here are the bounding boxes for the cars: Bounding box 1: (,,,)",
    "Since there are 2 distinct bounding boxes and masks, we conclude there are 2 cars.",
    "USER: ASSISTANT: Return the bounding boxes of What is in the image?",
]


def tiny_tokenizer(image: str = "<image>", *more: str) -> PreTrainedTokenizerFast:
    """Bytes and some merges of the prompts' own words: every text comes back as it was."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", "<pad>", image, *more]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(_sentences(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        clean_up_tokenization_spaces=False, extra_special_tokens={"image_token": image},
    )  # fmt: skip


def _sentences() -> Iterator[str]:
    yield from SENTENCES * 3


def save_tiny_llava(folder: Path, *, tied: bool = False, layers: int = 2) -> Path:
    """A random LLaVA-1.5 with processor and chat template, not extended yet."""
    return save_llava_of(folder, {"num_hidden_layers": layers}, tied=tied)


def save_llava_of(
    folder: Path, text: dict[str, Any], *, side: int = SIDE, rows: int | None = None, tied: bool = False
) -> Path:
    """The same with another language model, another side of its image, or more rows than the tokenizer has tokens."""
    tokenizer = tiny_tokenizer()
    image = tokenizer.convert_tokens_to_ids("<image>")
    language = transformers.LlamaConfig(
        vocab_size=rows or len(tokenizer), tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2, pad_token_id=3,
        **{**TEXT, **text},
    )  # fmt: skip
    vision = transformers.CLIPVisionConfig(projection_dim=16, **{**VISION, "image_size": side})
    config = transformers.LlavaConfig(
        text_config=language, vision_config=vision, image_token_index=image, tie_word_embeddings=tied,
        image_seq_length=(side // PATCH) ** 2,
    )  # fmt: skip
    torch.manual_seed(5)
    model = transformers.LlavaForConditionalGeneration(config)
    model.save_pretrained(folder)
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, do_center_crop=True
    )
    processor = LlavaProcessor(
        image_processor=image_processor, tokenizer=tokenizer, patch_size=PATCH, chat_template=CHAT_TEMPLATE,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    processor.save_pretrained(folder)
    return folder


def tiny_trained(
    folder: Path, codec: pt.DepthCodec, mode: str = "new_rows", *, rule: FrameRule | None = None
) -> Trained:
    """A base in an adapter of which every weight has moved: (model, processor, vocabulary)."""
    model, processor, vocab = pt.load_llava(folder, codec=codec, frame=rule)
    settings = peft_settings(model, vocab, mode)  # type: ignore[arg-type]
    modules = [*settings.pop("modules_to_save", []), "multi_modal_projector"]
    layers = r".*language_model.*(q|v)_proj"
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=layers, modules_to_save=modules, **settings)
    )
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return wrapped, processor, vocab
