"""Loading a multimodal model for perception tokens: extended, checked against its manifest, frame and codec.

Training and inference both process texts and images through `encode_inputs`, so that the tokens before an answer are
the same in both.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from perceptok.checkpoints import check_checkpoint_folder
from perceptok.config import config_from_dict
from perceptok.errors import (
    CheckpointError,
    ConfigError,
    MissingExtraError,
    RecordError,
    VocabularyError,
    hide_library_logs,
    translate_errors,
)
from perceptok.hub import download_checkpoint, is_hub_id
from perceptok.llava.folder_checks import check_processor
from perceptok.llava.framing import FrameRule
from perceptok.precision import choose_dtype
from perceptok.tokens import DEPTH, PIXEL, TokenSet
from perceptok.vocabulary import MANIFEST, Init, PerceptionVocabulary, extend_vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

    from perceptok.depth import DepthCodec

__all__ = [
    "Bits",
    "check_base",
    "check_parts",
    "encode_inputs",
    "find_checkpoint",
    "get_image_token",
    "get_perception_settings",
    "load_base",
    "load_llava",
    "load_processor",
    "prepare_processor",
    "resolve_frame",
    "set_perception_settings",
    "suffix_ids",
]

Bits = Literal[4, 8]

_SETTINGS = "perception_settings"
"""Key in a model's config: frame, fingerprint of the codec, system text, and a sample of the base's weights."""

_PARTS = ("vision_tower", "vision_model", "visual", "multi_modal_projector", "connector")
_NOT_QUANTIZED = ["lm_head", *_PARTS, *(f"model.{part}" for part in _PARTS)]
"""What keeps its precision in a 4- or 8-bit base: the head has trained rows, tower and projector are small."""

_NUM_SAMPLED = 64
"""Number of embedding values, and as many of norms and biases, by which a base is recognized."""

_MAX_APPENDED = 2
"""Number of tokens that a processor may append to a text by itself: PaliGemma's line break."""


def load_llava(
    path_or_id: str | os.PathLike[str],
    token_sets: Sequence[TokenSet] = (DEPTH, PIXEL),
    *,
    codec: DepthCodec | None = None,
    frame: str | FrameRule | None = None,
    init: Init | Mapping[TokenSet, Init] = "mean",
    existing: Literal["keep", "replace"] | None = None,
    bits: Bits | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    revision: str | None = None,
    seed: int = 0,
) -> tuple[PreTrainedModel, ProcessorMixin, PerceptionVocabulary]:
    """Load a multimodal model that reads and writes perception tokens, its processor, and its vocabulary.

    Made for LLaVA-1.5 and LLaVA-NeXT checkpoints of Hugging Face (`llava-hf/...`), and any model that
    `AutoModelForImageTextToText` loads. A checkpoint that has the tokens already is checked against its manifest, codec
    and frame; any other is extended by `extend_vocabulary`. Frame, codec fingerprint and a sample of the base's weights
    are recorded in the model's config, under `perception_settings`.

    Args:
        path_or_id: A folder, or the id of a repository on the Hub. Only an id reaches for the network.
        token_sets: The token sets that the model shall know.
        codec: The depth codec of the DEPTH tokens; its fingerprint is recorded. Required for `init="codebook"`.
        frame: How images are framed: "squash" (AURORA's), "letterbox", "processor", or a `FrameRule`. By default the
            recorded frame, else "squash".
        init: Initialization of new rows, as in `extend_vocabulary`.
        existing: Whether to keep or replace the rows of tokens that the tokenizer had before, as in
            `extend_vocabulary`.
        bits: Load the language model in 4 or 8 bits with bitsandbytes; tower, projector, embeddings and head keep
            their precision.
        dtype: Of the weights; "auto" is that of the checkpoint.
        device: Device of the model.
        revision: Of a repository on the Hub.
        seed: Seed of the new rows.

    Returns:
        (model, processor, vocabulary); the model in evaluation mode.

    Raises:
        CheckpointError: No model or processor loads, or the checkpoint is in LLaVA's original format (for which there
            is `import_original`).
        VocabularyError: Manifest, tokenizer, model and codec contradict each other.
        ConfigError: Another frame than the recorded one.
        MissingExtraError: `bits` without bitsandbytes.
    """
    folder = find_checkpoint(path_or_id, revision)
    model = _load_model(folder, str(path_or_id), bits, dtype, device)
    processor = load_processor(folder)
    recorded = get_perception_settings(model)
    rule = resolve_frame(model, frame)
    tokenizer: Any = getattr(processor, "tokenizer", None)
    fingerprint = None if codec is None else codec.fingerprint
    if (folder / MANIFEST).is_file():
        PerceptionVocabulary.from_pretrained(folder, tokenizer, codec_fingerprint=fingerprint)
    if fingerprint is not None and recorded.get("codec") not in (None, fingerprint):
        raise VocabularyError(
            f"the model's DEPTH tokens mean codes of the codec {recorded['codec']}, this codec is {fingerprint}: codes "
            "of two codecs are not interchangeable; load the codec that the model was trained with"
        )
    needs_codebook = init == "codebook" or (isinstance(init, Mapping) and "codebook" in init.values())
    if needs_codebook and codec is None:
        raise VocabularyError("init='codebook' initializes rows from a codec's codebook; pass codec=")
    vocab = extend_vocabulary(
        tokenizer,
        model,
        token_sets,
        init=init,
        codebook=codec.codebook if codec is not None and needs_codebook else None,
        existing=existing,
        seed=seed,
    )
    vocab.codec_fingerprint = fingerprint or recorded.get("codec")
    prepare_processor(processor, model, rule)
    set_perception_settings(model, vocab, rule)
    model.train(False)
    return model, processor, vocab


def load_base(
    path_or_id: str | os.PathLike[str],
    *,
    bits: Bits | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    revision: str | None = None,
) -> PreTrainedModel:
    """Load the model alone, not extended; raises CheckpointError where none loads."""
    return _load_model(find_checkpoint(path_or_id, revision), str(path_or_id), bits, dtype, device)


def _load_model(
    folder: Path, source: str, bits: Bits | None, dtype: str | torch.dtype, device: str | torch.device
) -> PreTrainedModel:
    """Load the model in a folder, which came from a source."""
    from transformers import AutoModelForImageTextToText

    import perceptok.llava.grid_tower  # noqa: F401  (a vision tower that transformers does not know)

    _refuse_adapters(folder)
    options: dict[str, Any] = {"dtype": dtype, **_LOCAL}
    check_checkpoint_folder(folder, "AutoModelForImageTextToText")
    if bits is not None:
        options |= {"quantization_config": _quantization(bits), "device_map": {"": str(device)}}
    advice = "expected a checkpoint that AutoModelForImageTextToText takes, such as llava-hf/llava-1.5-7b-hf"
    problem = f"no multimodal model loads from {source}"
    # Transformers' tables of missing and mismatched weights become errors of ours.
    with translate_errors(CheckpointError, problem, advice), hide_library_logs("transformers"):
        auto: Any = AutoModelForImageTextToText
        loaded = auto.from_pretrained(folder, output_loading_info=True, **options)
        model: PreTrainedModel = loaded[0]
        found: dict[str, Any] = loaded[1]
    if missing := sorted(found["missing_keys"]):
        raise CheckpointError(
            f"{source} lacks {len(missing)} of the model's weights, {missing[0]} first; fetch or save it again"
        )
    model.name_or_path = model.config.name_or_path = source  # not the folder in the Hub's cache
    return model if bits is not None else model.to(device)  # type: ignore[arg-type]


def find_checkpoint(path_or_id: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The folder of a checkpoint: the folder itself, or the download of a repository on the Hub.

    Raises:
        CheckpointError: It is neither, or the repository cannot be downloaded.
    """
    if Path(path_or_id).is_dir():
        return Path(path_or_id)
    if not is_hub_id(path_or_id):
        raise CheckpointError(f"folder not found: {path_or_id}; expected one, or a Hub id such as owner/name")
    return download_checkpoint(str(path_or_id), revision=revision)


_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""Arguments of `from_pretrained`: nothing is downloaded, and no code of a repository is run."""


def _refuse_adapters(folder: Path) -> None:
    if (folder / "non_lora_trainables.bin").is_file():
        raise CheckpointError(
            f"{folder} is an adapter in LLaVA's original format; convert it with import_original(folder, base, "
            "output), or `perceptok llava import`"
        )
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(f"{folder} is an adapter, not a base; load it with load_adapter")


def _quantization(bits: int) -> Any:
    if bits not in (4, 8):
        raise ConfigError(f"bits is 4 or 8; got {bits}")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("bitsandbytes", "bitsandbytes", f"a base in {bits} bits") from error
    import transformers

    config: Any = transformers.BitsAndBytesConfig
    if bits == 8:
        return config(load_in_8bit=True, llm_int8_skip_modules=_NOT_QUANTIZED)
    return config(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=choose_dtype(torch.accelerator.current_accelerator() or "cpu"),
        llm_int8_skip_modules=_NOT_QUANTIZED,
    )


def resolve_frame(model: Any, frame: str | FrameRule | None) -> FrameRule:
    """The frame of a model: the recorded one, or `frame` where none is recorded, by default AURORA's squash.

    Args:
        model: The model.
        frame: A mode's name, which has to be that of the recorded frame; or a rule, which has to equal it.

    Raises:
        ConfigError: `frame` is not the recorded one.
    """
    recorded = get_perception_settings(model).get("frame")
    known = config_from_dict(FrameRule, recorded) if recorded is not None else None
    if known is None:
        return FrameRule.parse(frame or "squash")
    if frame in (None, known.mode):
        return known
    rule = FrameRule.parse(frame)
    if rule != known:
        raise ConfigError(
            f"the model was trained with the frame {known}, not {rule}: it would see other images than in training; "
            "leave frame= out, or start from the base"
        )
    return rule


def get_perception_settings(model: Any) -> dict[str, Any]:
    """What `set_perception_settings` recorded in a model's config; empty where nothing is recorded.

    Raises:
        ConfigError: The record has another key, or a value of another type.
    """
    values = getattr(model.config, _SETTINGS, None) or {}
    config_from_dict(_RecordedSettings, values, name=f"the model's config, {_SETTINGS}")
    return dict(values)


@dataclass(frozen=True)
class _RecordedSettings:
    """Types of what is recorded."""

    frame: FrameRule | None = None
    codec: str | None = None
    system: str | None = None
    base: tuple[float, ...] | None = None


def set_perception_settings(
    model: PreTrainedModel, vocab: PerceptionVocabulary, rule: FrameRule, system: str | None = None
) -> None:
    """Record frame, codec fingerprint, system text and a sample of the base's weights in the model's config.

    A system text that is recorded already is kept where `system` is None.
    """
    recorded = get_perception_settings(model)
    values = {
        "frame": rule.to_dict(),
        "codec": vocab.codec_fingerprint,
        "system": system or recorded.get("system"),
        "base": _sample_weights(model, vocab),  # anew: a checkpoint may have been trained since it was extended
    }
    setattr(model.config, _SETTINGS, values)


@torch.no_grad()
def _sample_weights(model: PreTrainedModel, vocab: PerceptionVocabulary) -> list[float]:
    """128 of a base's weights by which to recognize it, none of which perceptok trains or quantizes.

    From the embeddings of the base's own tokens, and from norms and biases all over the model.
    """
    embeddings = model.get_input_embeddings().weight
    assert isinstance(embeddings, Tensor)
    own_rows = embeddings[: int(vocab.all_ids.min())].reshape(-1)
    values = [own_rows[:: max(1, len(own_rows) // _NUM_SAMPLED)][:_NUM_SAMPLED].float().cpu()]
    vectors = [x for _, x in sorted(model.named_parameters()) if x.ndim == 1 and x.is_floating_point()]
    sampled = vectors[:: max(1, len(vectors) // _NUM_SAMPLED)][:_NUM_SAMPLED]
    values.append(torch.tensor([float(vector[len(vector) // 2]) for vector in sampled]))
    return [round(float(value), 6) for value in torch.cat(values)]


def check_base(model: PreTrainedModel, vocab: PerceptionVocabulary, recorded: Sequence[float], name: str) -> None:
    """Refuse a base whose sampled weights are not the recorded ones, within half precision.

    Raises:
        CheckpointError: It is another model, whatever its name.
    """
    sampled = torch.tensor(_sample_weights(model, vocab))
    expected = torch.tensor(list(recorded))
    if sampled.shape != expected.shape:
        detail = "its layers"
    else:
        differs = ~torch.isclose(sampled, expected, rtol=1e-2, atol=1e-4)  # bfloat16 keeps 8 bits
        if not differs.any():
            return
        detail = f"{int(differs.sum())} of {len(sampled)} sampled weights"
    raise CheckpointError(
        f"{name} is not the base that the adapter was trained on: {detail} differ; pass the right one as base="
    )


def check_parts(model: Any, tokenizer: Any, vocab: PerceptionVocabulary, codec: DepthCodec) -> None:
    """Raise VocabularyError unless model, tokenizer, vocabulary and codec belong together."""
    ids = PerceptionVocabulary.from_tokenizer(tokenizer, vocab.token_sets).tokens
    if ids != vocab.tokens:
        token = next(token for token, token_id in vocab.tokens.items() if ids[token] != token_id)
        raise VocabularyError(
            f"{token} is id {vocab.tokens[token]} of the vocabulary, but {ids[token]} of the tokenizer: they belong to "
            "different models; load both from one folder"
        )
    rows = model.get_input_embeddings().weight.shape[0]
    if rows <= max(vocab.tokens.values()):
        raise VocabularyError(
            f"the model has rows for {rows} tokens, the perception tokens go up to id {max(vocab.tokens.values())}: "
            "it was not extended (extend_vocabulary, load_llava)"
        )
    if vocab.has(DEPTH) and vocab.codec_fingerprint not in (None, codec.fingerprint):
        raise VocabularyError(
            f"the model's DEPTH tokens mean codes of the codec {vocab.codec_fingerprint}, this codec is "
            f"{codec.fingerprint}: its depth maps would be nonsense; load the codec that the model was trained with"
        )


def load_processor(path_or_id: str | os.PathLike[str], revision: str | None = None) -> ProcessorMixin:
    """Load the processor of images and text from a folder or Hub id; only an id reaches for the network.

    Processors that need torchvision for videos alone (Qwen2.5-VL, SmolVLM2) are loaded without their videos where it is
    missing.

    Raises:
        CheckpointError: No processor of images and text loads.
    """
    from transformers import AutoProcessor, ProcessorMixin

    auto: Any = AutoProcessor
    folder = find_checkpoint(path_or_id, revision)
    advice = "save the model's processor there"
    with translate_errors(CheckpointError, f"no processor loads from {path_or_id}", advice):
        try:
            processor = auto.from_pretrained(folder, **_LOCAL)
        except (ImportError, OSError) as error:  # OSError: a processor that was saved without videos
            is_video = re.search("video ?processor", str(error), re.IGNORECASE)
            kind = _find_processor_class(folder) if is_video else None
            if kind is None:
                raise
            processor = _without_videos(kind).from_pretrained(folder, **_LOCAL)
    if not isinstance(processor, ProcessorMixin) or getattr(processor, "tokenizer", None) is None:
        raise CheckpointError(
            f"{path_or_id} has a {type(processor).__name__}, which is not a processor of images and text; save the "
            "model's processor there"
        )
    check_processor(processor, path_or_id)
    return processor


def _find_processor_class(folder: Path) -> Any:
    """The processor's class by its own configuration, or by the model's; None where neither names one."""
    import transformers
    from transformers.models.auto import processing_auto

    mixin: Any = transformers.ProcessorMixin
    values, _ = mixin.get_processor_dict(folder, **_LOCAL)
    name = values.get("processor_class")
    if name is None:
        config: Any = transformers.AutoConfig
        names: Any = vars(processing_auto)["PROCESSOR_MAPPING_NAMES"]
        name = names.get(config.from_pretrained(folder, **_LOCAL).model_type)
    return getattr(transformers, str(name), None)


@functools.cache
def _without_videos(kind: Any) -> Any:
    """The same class of processor without its video processor; saved under the original class's name."""
    from transformers import ProcessorMixin

    parts = [part for part in kind.get_attributes() if "video" not in part]

    def make(cls: Any, /, args: Any, values: dict[str, Any], **options: Any) -> Any:
        given = dict(zip(parts, args, strict=True))
        arguments = [given.get(part) for part in kind.get_attributes()]  # None for what SmolVLM's requires
        return super(cls, cls).from_args_and_dict(arguments, values, **options)

    def reduce(self: Any) -> Any:
        return _unpickle_without_videos, (kind, self.__dict__)

    methods = {
        "get_attributes": classmethod(lambda _: parts),
        "from_args_and_dict": classmethod(make),
        "apply_chat_template": ProcessorMixin.apply_chat_template,  # SmolVLM's own asks the processor of videos
        "__reduce__": reduce,
    }
    return type(kind.__name__, (kind,), methods)


def _unpickle_without_videos(kind: Any, values: dict[str, Any]) -> Any:
    """A processor without videos in another process, which cannot look its class up by name."""
    processor = _without_videos(kind).__new__(_without_videos(kind))
    processor.__dict__.update(values)
    return processor


def prepare_processor(processor: Any, model: PreTrainedModel, rule: FrameRule) -> None:
    """Set a processor to the frame, and complete the settings that older LLaVA checkpoints lack, in place.

    Raises:
        CheckpointError: The processor has no chat template, and the model is not a LLaVA-1.5, whose form is known.
        BoxError: The image processor cannot be set to the frame.
    """
    if not getattr(processor, "chat_template", None) and model.config.model_type != "llava":
        raise CheckpointError(
            f"the processor of this {type(model).__name__} has no chat template, so its prompts are unknown; save "
            "chat_template.jinja beside it, or set processor.chat_template and save the processor"
        )
    vision: Any = getattr(model.config, "vision_config", None)
    if hasattr(processor, "patch_size") and processor.patch_size is None:
        processor.patch_size = vision.patch_size
    if hasattr(processor, "vision_feature_select_strategy") and processor.vision_feature_select_strategy is None:
        processor.vision_feature_select_strategy = model.config.vision_feature_select_strategy
        if not processor.num_additional_image_tokens and getattr(vision, "model_type", "") == "clip_vision_model":
            processor.num_additional_image_tokens = 1  # CLIP's class token, which "default" leaves out again
    rule.configure(processor)


def get_image_token(processor: Any) -> str:
    """The token that stands for an image in a text of this processor; raises RecordError where it has none."""
    token = getattr(processor, "image_token", None)
    if token is None:
        raise RecordError(f"{type(processor).__name__} has no image token, so no image has a place in a text")
    return str(getattr(token, "content", token))


def encode_inputs(
    processor: Any,
    texts: Sequence[str],
    images: Sequence[Sequence[Any]],
    suffixes: Sequence[np.ndarray],
    *,
    padding_side: Literal["left", "right"],
) -> dict[str, Any]:
    """The model's inputs for texts with their images, without the tokens that the processor appends to a text.

    Args:
        processor: The model's processor.
        texts: With an image token for each image.
        images: The images of each text, framed; none of a text without an image.
        suffixes: Token ids after the last image of each text, as the tokenizer alone gives them.
        padding_side: Where shorter texts are padded.

    Returns:
        `input_ids` and `attention_mask` (B, T) int64, and whatever the processor makes of images. A text whose ids do
        not end in its suffix (a processor that tokenizes differently) is left as it is.

    Raises:
        ValueError, TypeError, RuntimeError: The processor's own errors.
    """
    options = {"add_special_tokens": False} if all(_starts_with_bos(processor, text) for text in texts) else {}
    inputs = dict(
        processor(
            images=[list(group) for group in images] if any(map(len, images)) else None,
            text=list(texts),
            padding=True,
            padding_side=padding_side,
            return_tensors="pt",
            **options,
        )
    )
    inputs.pop("labels", None)  # PaliGemma's, made of a suffix that was not given
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    width = inputs["input_ids"].shape[1]
    appended = set()
    for row, (length, suffix) in enumerate(zip(lengths, suffixes, strict=True)):
        begin = width - length if padding_side == "left" else 0
        appended.add(_count_appended(inputs["input_ids"][row, begin : begin + length].numpy(), suffix))
    count = appended.pop() if len(appended) == 1 else 0
    return _remove_appended(inputs, lengths, count, padding_side) if count else inputs


def suffix_ids(processor: Any, text: str) -> np.ndarray:
    """Token ids after the last image token of a text, as the tokenizer alone gives them: (N,) int64."""
    tokenizer = processor.tokenizer
    ids = tokenizer(text, add_special_tokens=not _starts_with_bos(processor, text))["input_ids"]
    ids = np.array(ids, dtype=np.int64)
    positions = np.flatnonzero(ids == tokenizer.convert_tokens_to_ids(get_image_token(processor)))
    return ids[int(positions[-1]) + 1 :] if len(positions) else ids


def _starts_with_bos(processor: Any, text: str) -> bool:
    bos = getattr(processor.tokenizer, "bos_token", None)
    return bool(bos) and text.startswith(str(bos))


def _count_appended(ids: np.ndarray, suffix: np.ndarray) -> int:
    """Number of tokens after the suffix in a text's ids; 0 where the suffix is not found."""
    for count in range(_MAX_APPENDED + 1):
        begin = len(ids) - count - len(suffix)
        if begin >= 0 and np.array_equal(ids[begin : begin + len(suffix)], suffix):
            return count
    return 0


def _remove_appended(inputs: dict[str, Any], lengths: Sequence[int], count: int, padding_side: str) -> dict[str, Any]:
    """Remove the last `count` tokens of every text from each tensor that has a value for each token."""
    result = {}
    for name, value in inputs.items():
        if not isinstance(value, Tensor) or value.shape[:2] != inputs["input_ids"].shape:
            result[name] = value
            continue
        shortened = value.clone()
        for row, length in enumerate(lengths):
            if padding_side == "right" and length < value.shape[1]:
                shortened[row, length - count : length] = value[row, length]  # padding
        result[name] = shortened[:, :-count]
    return result
