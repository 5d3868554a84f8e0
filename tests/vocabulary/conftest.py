"""Small tokenizers, with and without the perception tokens, and tiny models of many kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Digits, Sequence, Whitespace, WhitespaceSplit
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import perceptok as pt


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Ten words, then every perception token in AURORA's order."""
    words = {word: index for index, word in enumerate(["<unk>", "<s>", "</s>", "a", "map", "box", "(", ",", ")", "."])}
    bare = Tokenizer(WordLevel(words, unk_token="<unk>"))
    bare.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=bare, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    tokens = [token for token_set in (pt.tokens.DEPTH, pt.tokens.PIXEL) for token in token_set.tokens]
    fast.add_tokens([AddedToken(token, special=False, normalized=False) for token in tokens])
    return fast


TEXT: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "max_position_embeddings": 64,
}
SPECIAL: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def _causal(family: str) -> Callable[[int, bool], PreTrainedModel]:
    """Llama and those whose configuration has Llama's names."""

    def build(rows: int, tied: bool) -> PreTrainedModel:
        config = getattr(transformers, f"{family}Config")
        model = getattr(transformers, f"{family}ForCausalLM")
        return model(config(vocab_size=rows, tie_word_embeddings=tied, **TEXT, **SPECIAL))  # type: ignore[no-any-return]

    return build


def _llava(rows: int, tied: bool) -> PreTrainedModel:
    text = transformers.LlamaConfig(vocab_size=rows, tie_word_embeddings=tied, **TEXT)
    vision = transformers.CLIPVisionConfig(projection_dim=16, **VISION)
    config = transformers.LlavaConfig(text_config=text, vision_config=vision, image_token_index=9)
    return transformers.LlavaForConditionalGeneration(config)


def _qwen2_5_vl(rows: int, tied: bool) -> PreTrainedModel:
    rope = {"rope_type": "default", "mrope_section": [4, 4, 4]}
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 48}
    config = transformers.Qwen2_5_VLConfig(
        text_config={"vocab_size": rows, "rope_parameters": rope, **TEXT, **SPECIAL},
        vision_config={**vision, "fullatt_block_indexes": [0]},
        tie_word_embeddings=tied,
        image_token_id=9,
        video_token_id=8,
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def _gemma3(rows: int, tied: bool) -> PreTrainedModel:
    config = transformers.Gemma3Config(
        text_config={"vocab_size": rows, **TEXT, **SPECIAL},
        vision_config=VISION,
        mm_tokens_per_image=4,
        image_token_index=9,
        boi_token_index=8,
        eoi_token_index=7,
        tie_word_embeddings=tied,
    )
    return transformers.Gemma3ForConditionalGeneration(config)


def _gemma3n(rows: int, tied: bool) -> PreTrainedModel:
    """It has a table of each layer besides, which may be shorter than the vocabulary: here five rows."""
    config = transformers.Gemma3nTextConfig(
        vocab_size=rows,
        vocab_size_per_layer_input=5,
        hidden_size_per_layer_input=8,
        laurel_rank=4,
        altup_num_inputs=2,
        num_kv_shared_layers=0,
        layer_types=["full_attention", "full_attention"],
        activation_sparsity_pattern=[0.0, 0.0],
        tie_word_embeddings=tied,
        **TEXT,
        **SPECIAL,
    )
    return transformers.Gemma3nForCausalLM(config)


def _mllama(rows: int, tied: bool) -> PreTrainedModel:
    """Its embeddings have eight rows more than its head, for the image token, which is only read."""
    assert not tied, "Mllama is never tied"
    vision = {"hidden_size": 16, "image_size": 28, "patch_size": 14, "intermediate_size": 16, "attention_heads": 2}
    config = transformers.MllamaConfig(
        text_config={"vocab_size": rows, "cross_attention_layers": [1], **TEXT, **SPECIAL},
        vision_config={
            **vision, "num_hidden_layers": 1, "num_global_layers": 1, "vision_output_dim": 32,
            "intermediate_layers_indices": [0],
        },
        image_token_index=9,
    )  # fmt: skip
    return transformers.MllamaForConditionalGeneration(config)


def _florence2(rows: int, tied: bool) -> PreTrainedModel:
    text = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    vision = {"embed_dim": [8], "num_heads": [2], "num_groups": [2], "depths": [1], "projection_dim": 48}
    patches = {"patch_size": [7], "patch_stride": [4], "patch_padding": [3], "patch_prenorm": [False]}
    config = transformers.Florence2Config(
        text_config=transformers.BartConfig(
            vocab_size=rows, d_model=48, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=64,
            decoder_start_token_id=2, **text, **SPECIAL,
        ),
        vision_config={**vision, **patches},
        image_token_id=9,
        tie_word_embeddings=tied,
    )  # fmt: skip
    return transformers.Florence2ForConditionalGeneration(config)


def _qwen2_vl(rows: int, tied: bool) -> PreTrainedModel:
    rope = {"rope_type": "default", "mrope_section": [4, 4, 4]}
    text = {"vocab_size": rows, "rope_parameters": rope, "pad_token_id": 0, **TEXT}
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 48, "num_heads": 2, "mlp_ratio": 1}
    config = transformers.Qwen2VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=tied, image_token_id=9, video_token_id=8
    )
    return transformers.Qwen2VLForConditionalGeneration(config)


def _idefics3(rows: int, tied: bool) -> PreTrainedModel:
    text = transformers.LlamaConfig(vocab_size=rows, pad_token_id=0, **TEXT)
    config = transformers.Idefics3Config(
        text_config=text, vision_config=VISION, image_token_id=9, tie_word_embeddings=tied, pad_token_id=0
    )
    return transformers.Idefics3ForConditionalGeneration(config)


def _paligemma(rows: int, tied: bool) -> PreTrainedModel:
    text = {"model_type": "gemma", "vocab_size": rows, **TEXT}
    vision = {"model_type": "siglip_vision_model", "projection_dim": 48, "vision_use_head": False, **VISION}
    config = transformers.PaliGemmaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=9,
        projection_dim=48,
        vocab_size=rows,
        tie_word_embeddings=tied,
    )
    return transformers.PaliGemmaForConditionalGeneration(config)


def _gpt2(rows: int, tied: bool) -> PreTrainedModel:
    config = transformers.GPT2Config(
        vocab_size=rows, n_embd=48, n_layer=2, n_head=2, n_positions=64, tie_word_embeddings=tied
    )
    return transformers.GPT2LMHeadModel(config)


def _t5(rows: int, tied: bool) -> PreTrainedModel:
    assert tied, "T5 is always tied"
    config = transformers.T5Config(vocab_size=rows, d_model=48, d_ff=32, d_kv=24, num_layers=1, num_heads=2)
    config.decoder_start_token_id = 0
    return transformers.T5ForConditionalGeneration(config)


def _gptj(rows: int, tied: bool) -> PreTrainedModel:
    """Its head has a bias."""
    config = transformers.GPTJConfig(
        vocab_size=rows, n_embd=48, n_layer=1, n_head=2, rotary_dim=8, n_positions=64, tie_word_embeddings=tied
    )
    model = transformers.GPTJForCausalLM(config)
    torch.nn.init.normal_(model.lm_head.bias)
    return model


BUILDERS: dict[str, Callable[[int, bool], PreTrainedModel]] = {
    "llama": _causal("Llama"),
    "mistral": _causal("Mistral"),
    "phi": _causal("Phi"),
    "qwen2": _causal("Qwen2"),
    "qwen3": _causal("Qwen3"),
    "gemma": _causal("Gemma"),
    "llava": _llava,
    "mllama": _mllama,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "idefics3": _idefics3,
    "paligemma": _paligemma,
    "gemma3": _gemma3,
    "gemma3n": _gemma3n,
    "gpt2": _gpt2,
    "t5": _t5,
    "florence2": _florence2,
    "gptj": _gptj,
}

KINDS = [(name, tied) for name in BUILDERS for tied in (False, True)]
NONE_SUCH = {("t5", False), ("mllama", True)}


@pytest.fixture(params=[kind for kind in KINDS if kind not in NONE_SUCH], ids=lambda kind: f"{kind[0]}-{kind[1]}")
def kind(request: pytest.FixtureRequest) -> tuple[str, bool]:
    """Every kind of tiny model, untied and tied."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def tiny() -> Callable[..., PreTrainedModel]:
    """A tiny model with random weights, `tiny("llava", rows=300, tied=False)`."""

    def build(name: str, rows: int = 300, tied: bool = False) -> PreTrainedModel:
        torch.manual_seed(5)
        return BUILDERS[name](rows, tied).eval()

    return build


@pytest.fixture
def bare() -> PreTrainedTokenizerFast:
    """300 tokens and none of ours: digits, a few words, fillers."""
    names = ["<unk>", "<s>", "</s>", "a", "map", "depth", "pixel", "start", "<video>", "<image>", *"0123456789"]
    names += [f"filler{number}" for number in range(300 - len(names))]
    inner = Tokenizer(WordLevel({name: index for index, name in enumerate(names)}, unk_token="<unk>"))
    inner.pre_tokenizer = Sequence([WhitespaceSplit(), Digits(individual_digits=True)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
