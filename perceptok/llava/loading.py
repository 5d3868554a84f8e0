"""Loading a multimodal model for perception tokens: extended, held to its manifest, its frame and codec on record."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from perceptok.config import config_from_dict
from perceptok.errors import CheckpointError, ConfigError, MissingExtraError, RecordError, VocabularyError
from perceptok.llava.framing import FrameRule
from perceptok.tokens import DEPTH, PIXEL, TokenSet
from perceptok.vocabulary import MANIFEST, Init, PerceptionVocabulary, extend_vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

    from perceptok.depth import DepthCodec

__all__ = [
    "SETTINGS",
    "Bits",
    "check_parts",
    "first_line",
    "image_token_of",
    "load_base",
    "load_llava",
    "load_processor",
    "model_inputs",
    "place_of_tail",
    "prepare_processor",
    "record_settings",
    "require_same_base",
    "sample_of",
    "settings_of",
    "source_options",
    "starts_whole",
    "tail_ids",
]


# A model's processor: loaded, set to the frame, and what it makes of texts and pictures, the same in every use.
#
# Training and inference both go through `model_inputs`, so that the tokens before an answer are the same ones in both.


_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
"""`owner/name`; anything else, `./name` and `../name` among it, is a path."""

_ADDED = 2
"""Tokens that a processor may put behind a text of its own accord: PaliGemma's line break."""


def load_processor(path_or_id: str | os.PathLike[str], revision: str | None = None) -> ProcessorMixin:
    """The processor of images and text of a folder or repository; only an id reaches for the network.

    Processors that need torchvision for videos alone (Qwen2.5-VL) are loaded without their videos where it is missing.

    Raises:
        CheckpointError: There is none.
    """
    from transformers import AutoProcessor, ProcessorMixin

    found: Any = AutoProcessor
    options = source_options(path_or_id, revision)
    try:
        try:
            processor = found.from_pretrained(path_or_id, **options)
        except (ImportError, OSError) as error:  # OSError: one that was saved without them
            kind = _kind_of(path_or_id, options) if re.search("video ?processor", str(error), re.IGNORECASE) else None
            if kind is None:
                raise
            processor = _without_videos(kind).from_pretrained(path_or_id, **options)
    except (OSError, ValueError, ImportError) as error:
        raise CheckpointError(
            f"no processor loads from {path_or_id} ({first_line(error)}); save the model's processor there"
        ) from error
    if not isinstance(processor, ProcessorMixin) or getattr(processor, "tokenizer", None) is None:
        raise CheckpointError(
            f"{path_or_id} has a {type(processor).__name__}, but no processor of images and text; save the one that "
            "belongs to the model there"
        )
    return processor


def prepare_processor(processor: Any, model: PreTrainedModel, rule: FrameRule) -> None:
    """Set a processor to the frame, and complete what older LLaVA checkpoints leave out of its settings, in place."""
    vision: Any = getattr(model.config, "vision_config", None)
    if hasattr(processor, "patch_size") and processor.patch_size is None:
        processor.patch_size = vision.patch_size
    if hasattr(processor, "vision_feature_select_strategy") and processor.vision_feature_select_strategy is None:
        processor.vision_feature_select_strategy = model.config.vision_feature_select_strategy
        if not processor.num_additional_image_tokens and getattr(vision, "model_type", "") == "clip_vision_model":
            processor.num_additional_image_tokens = 1  # CLIP's class token, which "default" leaves out again
    rule.set_on(processor)


def image_token_of(processor: Any) -> str:
    """The token that stands for an image in a text of this processor; raises RecordError where it names none."""
    token = getattr(processor, "image_token", None)
    if token is None:
        raise RecordError(f"{type(processor).__name__} names no image token, so that no image has a place in a text")
    return str(getattr(token, "content", token))


def model_inputs(
    processor: Any,
    texts: Sequence[str],
    pictures: Sequence[Sequence[Any]],
    tails: Sequence[np.ndarray],
    *,
    side: Literal["left", "right"],
) -> dict[str, Any]:
    """What a model takes of texts with their pictures, and nothing that the processor adds behind a text.

    Args:
        processor: The model's.
        texts: With an image token for each picture.
        pictures: Of each text, framed.
        tails: Ids behind the last image of each text, as the tokenizer alone gives them.
        side: Where shorter texts are padded.

    Returns:
        `input_ids` and `attention_mask` (B, T) int64, and whatever the processor makes of images. A row that does not
        end in its tail (a processor that tokenises otherwise) is left as it is: see `place_of_tail`.

    Raises:
        ValueError, TypeError, RuntimeError: The processor's own.
    """
    given = {"add_special_tokens": False} if all(starts_whole(processor, one) for one in texts) else {}
    inputs = dict(
        processor(
            images=[list(some) for some in pictures],
            text=list(texts),
            padding=True,
            padding_side=side,
            return_tensors="pt",
            **given,
        )
    )
    inputs.pop("labels", None)  # PaliGemma's, of a suffix that nobody gave
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    wide = inputs["input_ids"].shape[1]
    added = set()
    for row, (length, tail) in enumerate(zip(lengths, tails, strict=True)):
        first = wide - length if side == "left" else 0
        ids = inputs["input_ids"][row, first : first + length].numpy()
        begin = place_of_tail(ids, tail)
        added.add(length - begin - len(tail) if begin >= 0 else 0)
    more = added.pop() if len(added) == 1 else 0
    return _without_last(inputs, lengths, more, side) if more else inputs


def starts_whole(processor: Any, text: str) -> bool:
    """Whether a text brings its own beginning of sequence, so that the tokenizer may not add one."""
    bos = getattr(processor.tokenizer, "bos_token", None)
    return bool(bos) and text.startswith(str(bos))


def tail_ids(processor: Any, text: str) -> np.ndarray:
    """Ids behind the last image token of a text, as the tokenizer alone gives them: (N,) int64."""
    tokenizer = processor.tokenizer
    ids = np.array(tokenizer(text, add_special_tokens=not starts_whole(processor, text))["input_ids"], dtype=np.int64)
    places = np.flatnonzero(ids == tokenizer.convert_tokens_to_ids(image_token_of(processor)))
    return ids[int(places[-1]) + 1 :] if len(places) else ids


def place_of_tail(ids: np.ndarray, tail: np.ndarray) -> int:
    """Where a tail begins in a row's ids: at the end, but for tokens that a processor adds there; -1 for nowhere."""
    for added in range(_ADDED + 1):
        begin = len(ids) - added - len(tail)
        if begin >= 0 and np.array_equal(ids[begin : begin + len(tail)], tail):
            return begin
    return -1


def source_options(path_or_id: str | os.PathLike[str], revision: str | None) -> dict[str, Any]:
    """Where from_pretrained may look; raises CheckpointError at what is neither a folder nor an id."""
    if Path(path_or_id).is_dir():
        return {"local_files_only": True, "trust_remote_code": False}
    if isinstance(path_or_id, os.PathLike) or not _HUB_ID.fullmatch(path_or_id):
        raise CheckpointError(f"there is no folder {path_or_id}; expected one, or a Hub id such as owner/name")
    return {"revision": revision, "trust_remote_code": False}


def first_line(error: Exception) -> str:
    """The first line of an error that says something, or its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _without_last(inputs: dict[str, Any], lengths: Sequence[int], more: int, side: str) -> dict[str, Any]:
    """Take the last tokens of every row out of everything that has a value for each token."""
    shape = inputs["input_ids"].shape
    kept = {}
    for name, value in inputs.items():
        if not isinstance(value, Tensor) or value.shape[:2] != shape:
            kept[name] = value
            continue
        if side == "left":
            kept[name] = value[:, :-more]
            continue
        shorter = value.clone()
        longest = max(lengths)
        for row, length in enumerate(lengths):
            if length < longest:  # what follows is padding: one more of it
                shorter[row, length - more : length] = value[row, length]
        kept[name] = shorter[:, :-more]
    return kept


def _kind_of(path_or_id: str | os.PathLike[str], options: dict[str, Any]) -> Any:
    """The class of a processor by its own record, or by the model's."""
    import transformers
    from transformers.models.auto import processing_auto

    known: Any = transformers.ProcessorMixin
    values, _ = known.get_processor_dict(path_or_id, **options)
    name = values.get("processor_class")
    if name is None:
        config: Any = transformers.AutoConfig
        known_kinds: Any = vars(processing_auto)["PROCESSOR_MAPPING_NAMES"]
        name = known_kinds.get(config.from_pretrained(path_or_id, **options).model_type)
    return getattr(transformers, str(name), None)


@functools.cache
def _without_videos(kind: Any) -> Any:
    """The same kind of processor with no part for videos; saved under the kind's own name."""
    parts = [part for part in kind.get_attributes() if "video" not in part]

    def reduce(self: Any) -> Any:
        return _remade, (kind, self.__dict__)

    return type(kind.__name__, (kind,), {"get_attributes": classmethod(lambda _: parts), "__reduce__": reduce})


def _remade(kind: Any, values: dict[str, Any]) -> Any:
    """A processor without videos in another process: its class cannot be looked up by name."""
    made = _without_videos(kind)
    processor = made.__new__(made)
    processor.__dict__.update(values)
    return processor


SETTINGS = "perception_settings"
"""Key in a model's config: the frame, the codec's fingerprint, and a sample of the base's weights."""

Bits = Literal[4, 8]

_PARTS = ("vision_tower", "vision_model", "visual", "multi_modal_projector", "connector")
_NOT_QUANTISED = ["lm_head", *_PARTS, *(f"model.{part}" for part in _PARTS)]
"""What keeps its precision in a 4- or 8-bit base: the head has trained rows, tower and projector are small."""

_SAMPLE = 64
"""Values of the embeddings, and as many of norms and biases, by which a base is recognised."""


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
    """A multimodal model that reads and writes perception tokens, its processor, and its vocabulary.

    Made for LLaVA-1.5 and LLaVA-NeXT checkpoints of Hugging Face (`llava-hf/...`), and any model that
    `AutoModelForImageTextToText` loads. A checkpoint that holds the tokens already is held to its manifest and to the
    codec and frame on record; any other is extended (see `extend_vocabulary`). The frame, the codec's fingerprint and
    a sample of the base's weights are put on record in the model's config, `perception_settings`.

    Args:
        path_or_id: A folder, or the id of a repository on the Hub. Only an id reaches for the network.
        token_sets: What the model shall know.
        codec: Whose codes the DEPTH tokens mean; its fingerprint goes on record. Needed for `init="codebook"`.
        frame: How pictures are framed: "squash" (AURORA's), "letterbox", "processor", or a `FrameRule`. Without it,
            the frame on record, else "squash".
        init: How new rows start; see `extend_vocabulary`.
        existing: What to do with rows of tokens that the tokenizer had before; see `extend_vocabulary`.
        bits: Load the language model in 4 or 8 bits by bitsandbytes; tower, projector, embeddings and head keep their
            precision.
        dtype: Of the weights; "auto" is that of the checkpoint.
        device: Where the model goes.
        revision: Of a repository on the Hub.
        seed: Of the new rows' draws.

    Returns:
        (model, processor, vocabulary); the model in evaluation mode.

    Raises:
        CheckpointError: Nothing that loads, or a checkpoint in LLaVA's original format (see `import_original`).
        VocabularyError: A manifest, tokenizer, model or codec that do not fit together.
        ConfigError: A frame other than that on record.
        MissingExtraError: `bits` without bitsandbytes.
    """
    model = load_base(path_or_id, bits=bits, dtype=dtype, device=device, revision=revision)
    processor = load_processor(path_or_id, revision)
    known = settings_of(model)
    rule = _agreed_frame(frame, known.get("frame"))
    tokenizer: Any = getattr(processor, "tokenizer", None)
    fingerprint = None if codec is None else codec.fingerprint
    folder = Path(path_or_id)
    if (folder / MANIFEST).is_file():
        PerceptionVocabulary.from_pretrained(folder, tokenizer, codec_fingerprint=fingerprint)
    if fingerprint is not None and known.get("codec") not in (None, fingerprint):
        raise VocabularyError(
            f"the model's DEPTH tokens mean codes of the codec {known['codec']}, this codec is {fingerprint}: codes of "
            "two codecs do not mix; load the codec that the model was trained with"
        )
    wants_codebook = init == "codebook" or (isinstance(init, Mapping) and "codebook" in init.values())
    if wants_codebook and codec is None:
        raise VocabularyError("init='codebook' starts rows from a codec's codebook; pass codec=")
    vocab = extend_vocabulary(
        tokenizer,
        model,
        token_sets,
        init=init,
        codebook=codec.codebook if codec is not None and wants_codebook else None,
        existing=existing,
        seed=seed,
    )
    vocab.codec_fingerprint = fingerprint or known.get("codec")
    prepare_processor(processor, model, rule)
    record_settings(model, vocab, rule)
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
    """The model alone, not extended; see `load_llava`."""
    from transformers import AutoModelForImageTextToText

    import perceptok.llava.grid_tower  # noqa: F401  (a vision tower that stock transformers do not know)

    _refuse_original(path_or_id)
    options: dict[str, Any] = {"dtype": dtype, **source_options(path_or_id, revision)}
    if bits is not None:
        options |= {"quantization_config": _quantisation(bits), "device_map": {"": str(device)}}
    try:
        model: PreTrainedModel = AutoModelForImageTextToText.from_pretrained(path_or_id, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"no multimodal model loads from {path_or_id} ({first_line(error)}); expected a checkpoint that "
            "AutoModelForImageTextToText takes, such as llava-hf/llava-1.5-7b-hf"
        ) from error
    return model if bits is not None else model.to(device)  # type: ignore[arg-type]


def record_settings(model: PreTrainedModel, vocab: PerceptionVocabulary, rule: FrameRule) -> None:
    """Put frame, codec and a sample of the base on record in the model's config."""
    known = settings_of(model)
    values = {
        "frame": rule.to_dict(),
        "codec": vocab.codec_fingerprint,
        "base": known.get("base") or sample_of(model, vocab),
    }
    setattr(model.config, SETTINGS, values)


def settings_of(model: Any) -> dict[str, Any]:
    """What `load_llava` put on record in a model's config; empty where it was not there."""
    return dict(getattr(model.config, SETTINGS, None) or {})


@torch.no_grad()
def sample_of(model: PreTrainedModel, vocab: PerceptionVocabulary) -> list[float]:
    """A few of a base's weights, none of which perceptok trains or quantises: 128 numbers by which to know it again.

    From the embeddings of the base's own tokens, and from norms and biases all over the model.
    """
    embeddings = model.get_input_embeddings().weight
    assert isinstance(embeddings, Tensor)
    old = embeddings[: int(vocab.all_ids.min())].reshape(-1)
    values = [old[:: max(1, len(old) // _SAMPLE)][:_SAMPLE].float().cpu()]
    flat = [one for _, one in sorted(model.named_parameters()) if one.ndim == 1 and one.is_floating_point()]
    chosen = flat[:: max(1, len(flat) // _SAMPLE)][:_SAMPLE]
    values.append(torch.tensor([float(one[len(one) // 2]) for one in chosen]))
    return [round(float(value), 6) for value in torch.cat(values)]


def require_same_base(model: PreTrainedModel, vocab: PerceptionVocabulary, wanted: Sequence[float], name: str) -> None:
    """Refuse a base whose sampled weights are not those on record; half precision is forgiven.

    Raises:
        CheckpointError: It is another model, whatever its name.
    """
    found = torch.tensor(sample_of(model, vocab))
    known = torch.tensor(list(wanted))
    # A weight that goes through float16 or bfloat16 keeps 8 bits.
    if found.shape == known.shape and torch.allclose(found, known, rtol=1e-2, atol=1e-4):
        return
    if found.shape == known.shape:
        detail = f"{int((~torch.isclose(found, known, rtol=1e-2, atol=1e-4)).sum())} of {len(found)} sampled weights"
    else:
        detail = "its layers"
    raise CheckpointError(
        f"{name} is not the base that the adapter was trained on: {detail} differ; pass the right one as base="
    )


def _agreed_frame(asked: str | FrameRule | None, known: Any) -> FrameRule:
    on_record = config_from_dict(FrameRule, known) if known is not None else None
    if asked is None:
        return on_record or FrameRule()
    rule = FrameRule.read(asked)
    if on_record is not None and rule != on_record:
        raise ConfigError(
            f"the model was trained with the frame {on_record}, but {rule} is asked for: its coordinates would mean "
            "other places; leave frame= out, or start from the base"
        )
    return rule


def _refuse_original(path_or_id: str | os.PathLike[str]) -> None:
    folder = Path(path_or_id)
    if (folder / "non_lora_trainables.bin").is_file():
        raise CheckpointError(
            f"{folder} is an adapter in LLaVA's original format; bring it over with import_original(folder, base, "
            "output), or `perceptok llava import`"
        )
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(f"{folder} is an adapter, not a base; load it with load_adapter")


def _quantisation(bits: int) -> Any:
    if bits not in (4, 8):
        raise ConfigError(f"bits is 4 or 8; got {bits}")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("bitsandbytes", "bitsandbytes", f"a base in {bits} bits") from error
    import transformers

    config: Any = transformers.BitsAndBytesConfig
    if bits == 8:
        return config(load_in_8bit=True, llm_int8_skip_modules=_NOT_QUANTISED)
    return config(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=_NOT_QUANTISED,
    )


def check_parts(model: Any, tokenizer: Any, vocab: PerceptionVocabulary, codec: DepthCodec) -> None:
    """Raise VocabularyError unless ids, rows and codes of the parts mean the same."""
    found = PerceptionVocabulary.from_tokenizer(tokenizer, vocab.token_sets)
    if found.tokens != vocab.tokens:
        token = next(one for one, number in vocab.tokens.items() if found.tokens[one] != number)
        raise VocabularyError(
            f"{token} is id {vocab.tokens[token]} of the vocabulary, but {found.tokens[token]} of the tokenizer: they "
            "are not of one model; load both from one folder"
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
