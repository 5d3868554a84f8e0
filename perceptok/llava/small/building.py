"""The small LLaVA: built from its parts once, and saved in the Hugging Face LLaVA layout."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perceptok.depth.codec import DepthCodec
from perceptok.llava.framing import FrameRule
from perceptok.llava.loading import prepare_processor, record_settings
from perceptok.llava.small.gaze import look_back
from perceptok.llava.small.parts import small_language_model, small_tokenizer, tower_weights
from perceptok.llava.small.samples import ANSWER, prompt_ids
from perceptok.llava.small.towers import GRID, GridTower, GridTowerConfig
from perceptok.tokens import DEPTH, PIXEL
from perceptok.vocabulary.extension import extend_vocabulary
from perceptok.vocabulary.lookup import PerceptionVocabulary

__all__ = ["SmallLlavaConfig", "build_small_llava"]

_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}\n<image>{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The picture stands behind the question, so that a code lies as far from its patch whatever is asked."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class SmallLlavaConfig:
    """Sizes of the small LLaVA.

    Attributes:
        layers: Of SmolLM2's 30 that are kept.
        pieces: Of SmolLM2's 49,152 that are kept.
        image_size: Edge of the square picture; the tower's features are always 10x10.
        taps: MobileNetV2's blocks whose outputs make a feature.
        aligned: Start the first layer's heads with code k looking at patch k (see `look_back`).
        seed: Of everything drawn.
    """

    layers: int = 2
    pieces: int = 4096
    image_size: int = 160
    taps: tuple[int, ...] = (1, 4, 11, 15)
    aligned: bool = True
    seed: int = 0


def _tower(config: SmallLlavaConfig) -> GridTower:
    """The picture encoder with its ImageNet weights, not calibrated yet."""
    tower = GridTower(GridTowerConfig(config.image_size, config.taps))
    names = list(tower.net.state_dict())
    tower.net.load_state_dict(dict(zip(names, tower_weights(), strict=True)))
    tower.requires_grad_(False)
    tower.train(False)
    return tower


def build_small_llava(
    folder: str | os.PathLike[str], codec: DepthCodec, pictures: Tensor, config: SmallLlavaConfig | None = None
) -> tuple[Any, Any, PerceptionVocabulary]:
    """Put the parts together, extend the vocabulary, and save; `load_llava(folder)` loads it again.

    Args:
        folder: Where to; must not exist.
        codec: Whose codes the DEPTH tokens mean.
        pictures: (N, 3, S, S), normalised, by which the tower's features are standardised.
        config: Sizes.

    Returns:
        (model, processor, vocabulary).

    Raises:
        CheckpointError: A package that carries weights is not installed; the message says how.
        MissingExtraError: The extra `demo` is not installed.
    """
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    config = config or SmallLlavaConfig()
    torch.manual_seed(config.seed)
    tower = _tower(config)
    tower.calibrate(pictures)
    language, tokenizer = small_language_model(config.layers, config.pieces), small_tokenizer(config.pieces)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    language.resize_token_embeddings(len(tokenizer))
    model: Any = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=tower.config,
            text_config=language.config,
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            image_seq_length=GRID * GRID,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            tie_word_embeddings=True,
        )
    )
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.tie_weights()
    make_processor: Any = LlavaProcessor
    processor = make_processor(
        image_processor=CLIPImageProcessor(
            size={"height": config.image_size, "width": config.image_size},
            do_center_crop=False,
            image_mean=_MEAN,
            image_std=_STD,
        ),
        tokenizer=tokenizer,
        patch_size=config.image_size // GRID,
        vision_feature_select_strategy="full",
        chat_template=_TEMPLATE,
    )
    vocab = extend_vocabulary(
        tokenizer,
        model,
        (DEPTH, PIXEL),
        init={DEPTH: "codebook", PIXEL: "ordinal"},
        codebook=codec.codebook,
        seed=config.seed,
    )
    vocab.codec_fingerprint = codec.fingerprint
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    rows = model.get_input_embeddings().weight.detach()
    askers = rows[[vocab.start_id(DEPTH), *vocab.ids(DEPTH).tolist()]]
    sign = _mark_pictures(model, askers, config.seed)
    if config.aligned:
        ids = prompt_ids(processor, answer=ANSWER)
        back = len(ids) - ids.index(model.config.image_token_id)
        look_back(model.model.language_model, back, askers, sign, seed=config.seed)
    rule = FrameRule("squash")
    prepare_processor(processor, model, rule)
    record_settings(model, vocab, rule)
    model.train(False)
    place = Path(folder)
    model.save_pretrained(place)
    processor.save_pretrained(place)
    vocab.save_pretrained(place)
    return model, processor, vocab


@torch.no_grad()
def _mark_pictures(model: Any, askers: Tensor, seed: int) -> Tensor:
    """Start the projector at the embeddings' size, with a bias no code's embedding contains; returns it, (H,)."""
    first, second = model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2
    size = float(askers.pow(2).mean().sqrt())
    generator = torch.Generator().manual_seed(seed)
    sign = torch.randn(askers.shape[1], generator=generator)
    basis = torch.linalg.qr(askers.T.double())[0].float()
    sign = sign - basis @ (basis.T @ sign)
    marked: Tensor = sign / sign.pow(2).mean().sqrt() * size
    first.weight.copy_(torch.randn(first.weight.shape, generator=generator) / first.in_features**0.5)
    second.weight.copy_(torch.randn(second.weight.shape, generator=generator) * size * 1.7 / second.in_features**0.5)
    first.bias.zero_()
    second.bias.copy_(marked)
    return marked
