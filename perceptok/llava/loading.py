"""Loading a multimodal model for perception tokens: extended, held to its manifest, its frame and codec on record."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from perceptok.configs import config_from_dict
from perceptok.errors import CheckpointError, ConfigError, MissingExtraError, VocabularyError
from perceptok.llava.framing import FrameRule
from perceptok.llava.processors import first_line, load_processor, prepare_processor, source_options
from perceptok.tokens import DEPTH, PIXEL, TokenSet
from perceptok.vocabulary.extension import extend_vocabulary
from perceptok.vocabulary.lookup import PerceptionVocabulary
from perceptok.vocabulary.manifest import MANIFEST
from perceptok.vocabulary.recipes import Init

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

    from perceptok.depth.codec import DepthCodec

__all__ = [
    "SETTINGS",
    "Bits",
    "check_parts",
    "load_base",
    "load_llava",
    "load_processor",
    "prepare_processor",
    "record_settings",
    "require_same_base",
    "sample_of",
    "settings_of",
]

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

    import perceptok.llava.small.towers  # noqa: F401  (a kind of vision tower that stock transformers do not know)

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
