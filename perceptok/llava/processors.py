"""A model's processor: loaded, set to the frame, and what it makes of texts and pictures, the same in every use.

Training and inference both go through `model_inputs`, so that the tokens before an answer are the same ones in both.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from perceptok.errors import CheckpointError, RecordError
from perceptok.llava.framing import FrameRule

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

__all__ = [
    "first_line",
    "image_token_of",
    "load_processor",
    "model_inputs",
    "place_of_tail",
    "prepare_processor",
    "source_options",
    "starts_whole",
    "tail_ids",
]

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
