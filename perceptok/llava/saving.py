"""An adapter with all it needs to mean the same later: rows, manifest, codec, frame, base and recipe in one folder."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from perceptok.depth import DepthCodec
from perceptok.errors import CheckpointError, MissingExtraError, OutputError, VocabularyError
from perceptok.files import atomic_folder, find_complete_folder, parse_json
from perceptok.llava.framing import FrameRule
from perceptok.llava.loading import (
    Bits,
    load_base,
    load_processor,
    prepare_processor,
    record_settings,
    require_same_base,
    settings_of,
)
from perceptok.vocabulary import PerceptionVocabulary, extend_vocabulary, verify_adapter

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

__all__ = [
    "ADAPTER",
    "Loaded",
    "adapter_folder",
    "export_adapter",
    "load_adapter",
    "merge_adapter",
    "probe_logits",
    "read_adapter_record",
    "require_equal_logits",
    "save_adapter",
]


_STRIDE = 13
"""Every 13th perception token is read."""


@torch.no_grad()
def probe_logits(model: Any, processor: Any, vocab: PerceptionVocabulary, rule: FrameRule) -> Tensor:
    """Logits after a picture, a question and some of every set's tokens: (T, V) float32 on the CPU.

    The tower, the projector, old and new rows of both token matrices and every adapter have a part in them.
    """
    training = model.training
    model.eval()
    precisions = {one.dtype for one in model.parameters() if one.is_floating_point()}
    try:
        # Trained weights are in float32 on a base in half precision: they meet as they did in training.
        with torch.autocast(model.device.type, torch.bfloat16, enabled=len(precisions) > 1):
            logits = model(**_probe(processor, vocab, rule).to(model.device)).logits
    finally:
        model.train(training)
    return cast(Tensor, logits[0].float().cpu())


def require_equal_logits(found: Tensor, wanted: Tensor, name: str, *, tolerance: float = 1e-3) -> None:
    """Refuse logits that differ by more than rounding: the tolerance times the largest of them.

    Raises:
        CheckpointError: They do; what was saved is not what was trained.
    """
    if found.shape != wanted.shape:
        raise CheckpointError(f"{name}: logits have the shape {tuple(found.shape)}, not {tuple(wanted.shape)}")
    difference = float((found - wanted).abs().max())
    # The same weights on the same device give the same numbers; another kernel may round otherwise.
    if not difference <= tolerance * max(1.0, float(wanted.abs().max())):
        raise CheckpointError(
            f"{name}: what was saved does not say what was trained, logits differ by {difference:.3g}; nothing was "
            "replaced. Save with the processor and base that the model was trained with"
        )


def _probe(processor: Any, vocab: PerceptionVocabulary, rule: FrameRule) -> BatchFeature:
    ramp = np.linspace(0, 255, 48, dtype=np.uint8)
    pixels = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], ramp[::-1, None]), axis=-1)
    picture = rule.apply(Image.fromarray(np.ascontiguousarray(pixels)))
    read = "".join(list(vocab.tokens)[::_STRIDE])
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": "What is closest?"}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    else:
        prompt = f"{processor.image_token}What is closest?"
    return cast("BatchFeature", processor(images=[picture], text=[prompt + read], return_tensors="pt"))


ADAPTER = "perception_adapter.json"
"""Name of the file that makes a folder one of ours."""

_FORMAT = 1
_WEIGHTS = "adapter_model.safetensors"

Verify = Literal["reload", "file"]


@dataclass(frozen=True)
class Loaded:
    """What `load_adapter` gives.

    Attributes:
        model: The extended base with its adapter (peft), in evaluation mode.
        processor: Its processor; the tokenizer knows every perception token.
        vocab: The tokens' ids, with the codec's fingerprint.
        codec: The depth codec that the DEPTH tokens mean, or None where none was on record.
        frame: How pictures are framed.
        config: The configuration of the training, as plain JSON types; empty where none was saved.
    """

    model: PeftModel
    processor: ProcessorMixin
    vocab: PerceptionVocabulary
    codec: DepthCodec | None
    frame: FrameRule
    config: Mapping[str, Any]


def save_adapter(
    folder: str | os.PathLike[str],
    model: PeftModel,
    processor: ProcessorMixin,
    vocab: PerceptionVocabulary,
    codec: DepthCodec | None = None,
    frame: str | FrameRule = "squash",
    config: object = None,
    *,
    base: str | os.PathLike[str] | None = None,
    verify: Verify = "reload",
    state_dict: Mapping[str, Tensor] | None = None,
    force: bool = False,
) -> Path:
    """Save an adapter so that `load_adapter` gives the same model again, or raise and leave the folder as it was.

    The folder holds peft's two files (LoRA, rows of perception tokens, the projector where it was trained), the
    processor with its tokenizer, the manifest, the codec, and `perception_adapter.json`: base, frame, fingerprint of
    the codec, recipe and versions. Weights are safetensors; nothing is pickled. It takes its name only when all of it
    is written and verified: a kill or a full disk leaves what was there before.

    Args:
        folder: Where to.
        model: As wrapped by peft; its token rows trained through `peft_settings`.
        processor: The model's, extended.
        vocab: Its vocabulary.
        codec: Whose codes the DEPTH tokens mean; a copy is saved.
        frame: How pictures were framed.
        config: The training's configuration: a dataclass or a mapping of JSON types.
        base: Where the base is found again; by default where the model was loaded from.
        verify: "reload" loads everything anew, base included, and compares logits on a fixed question; "file" compares
            the saved tensors with the model's, bit for bit, for checkpoints within a run.
        state_dict: The gathered weights, where the model here holds shards of them (FSDP, ZeRO-3); they are what is
            saved and compared.
        force: Replace an adapter that is there.

    Raises:
        CheckpointError: What was saved does not say what the model says.
        VocabularyError: Something trained would be lost; or processor, vocabulary and codec do not fit together.
        OutputError: The folder exists and `force` is not given, or cannot be written.
    """
    rule = FrameRule.read(frame)
    source = str(base if base is not None else _base_name(model))
    tokenizer = cast(Any, processor).tokenizer
    known = PerceptionVocabulary.from_tokenizer(tokenizer, vocab.token_sets)
    if known.tokens != vocab.tokens:
        raise VocabularyError("the processor's tokenizer gives perception tokens other ids than the vocabulary says")
    if codec is not None:
        known.codec_fingerprint = codec.fingerprint
        if vocab.codec_fingerprint not in (None, codec.fingerprint):
            raise VocabularyError(
                f"the model was loaded for the codec {vocab.codec_fingerprint}, this codec is {codec.fingerprint}: "
                "codes of two codecs do not mix"
            )
    else:
        known.codec_fingerprint = vocab.codec_fingerprint
    record = {
        "format": _FORMAT,
        "base": {"source": source, "sample": settings_of(model).get("base")},
        "frame": rule.to_dict(),
        "codec": known.codec_fingerprint,
        "config": _plain(config),
        "versions": _versions(),
    }
    target = Path(folder)
    with atomic_folder(target, force=force) as place, _clear_messages(target):
        options: dict[str, Any] = {} if state_dict is None else {"state_dict": dict(state_dict)}
        model.save_pretrained(str(place), save_embedding_layers=False, **options)
        (place / "README.md").unlink(missing_ok=True)  # peft's empty form; what it is, is on record
        processor.save_pretrained(place)
        known.save_pretrained(place)
        if codec is not None:
            codec.save_pretrained(place / "codec")
        (place / ADAPTER).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        if state_dict is None:
            verify_adapter(model, vocab, place)
        else:
            _require_saved(place / _WEIGHTS, state_dict)
        if verify == "reload":
            said = probe_logits(model, processor, vocab, rule)
            parameter = next(model.parameters())
            again = load_adapter(place, base=source, dtype=_dtype(model), device=parameter.device)
            read = probe_logits(again.model, again.processor, again.vocab, again.frame)
            tolerance = 1e-3 if _dtype(model) == torch.float32 else 5e-2
            require_equal_logits(read, said, str(target), tolerance=tolerance)
    return target


def load_adapter(
    folder: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    codec: DepthCodec | None = None,
    bits: Bits | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    trainable: bool = False,
) -> Loaded:
    """Base, adapter, rows, processor, codec and frame, as `save_adapter` left them.

    Args:
        folder: Where it wrote; or the folder of a finished run of `finetune`.
        base: Where the base is, if not where it was; it has to be the same model.
        codec: The codec at hand, instead of the saved copy; it has to be the same codec.
        bits: See `load_llava`; as `dtype` and `device`.
        dtype: Of the base's weights.
        device: Where the model goes.
        trainable: Leave the adapter trainable, to go on.

    Raises:
        CheckpointError: The folder is no adapter of ours, is damaged, or the base is another model.
        VocabularyError: The manifest is of another tokenizer or codec; or neither base nor adapter has rows for the
            perception tokens.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingExtraError("peft", "llava", "an adapter") from error

    place = adapter_folder(folder)
    record = read_adapter_record(place)
    source = _found_base(base if base is not None else record["base"]["source"], place)
    held = _tensor_names(place / _WEIGHTS)
    processor = load_processor(place)
    tokenizer = cast(Any, processor).tokenizer
    if codec is None and (place / "codec").is_dir():
        codec = DepthCodec.from_pretrained(place / "codec")
    fingerprint = None if codec is None else codec.fingerprint
    vocab = PerceptionVocabulary.from_pretrained(place, tokenizer, codec_fingerprint=fingerprint)
    model = load_base(source, bits=bits, dtype=dtype, device=device)
    if record["base"]["sample"] is not None:
        require_same_base(model, vocab, record["base"]["sample"], str(source))
    has_rows = any("token_adapter" in name or ".embed_tokens.weight" in name for name in held)
    extended = bool(getattr(model.config, "perception_rows", None))
    if not has_rows and not extended:
        raise VocabularyError(
            f"the adapter holds no rows of perception tokens, and its base {source} was never extended: load the "
            "extended base that was saved with it as base="
        )
    # Rows that the adapter brings may start from anything; rows that it does not are the base's own.
    extend_vocabulary(tokenizer, model, vocab.token_sets, existing=None if extended else "replace")
    rule = FrameRule.read(record["frame"])
    prepare_processor(processor, model, rule)
    record_settings(model, vocab, rule)
    try:
        with _clear_messages(Path(folder)):
            wrapped = PeftModel.from_pretrained(model, str(place), is_trainable=trainable)
    except (RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: the adapter does not fit its base {source} ({error})") from error
    wrapped.train(trainable)
    return Loaded(wrapped, processor, vocab, codec, rule, record["config"])


def adapter_folder(folder: str | os.PathLike[str]) -> Path:
    """Where an adapter lies: the folder itself, or `adapter/` in the folder of a finished run of `finetune`."""
    place = find_complete_folder(folder)
    inner = place / "adapter"
    return inner if not (place / ADAPTER).exists() and (inner / ADAPTER).exists() else place


def read_adapter_record(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What `perception_adapter.json` of a folder says, checked; raises CheckpointError where it is none of ours."""
    path = Path(folder) / ADAPTER
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{folder} is no adapter of perceptok ({ADAPTER} cannot be read: {error.strerror}); save one with "
            "save_adapter, or bring one of LLaVA's original format over with import_original"
        ) from error
    record = parse_json(text, str(path), CheckpointError)
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        found = record.get("format") if isinstance(record, dict) else record
        raise CheckpointError(f"{path} has the format {found!r}, this release reads {_FORMAT}; upgrade perceptok")
    base = record.get("base")
    whole = isinstance(base, dict) and isinstance(base.get("source"), str) and isinstance(record.get("config"), dict)
    if not whole or "frame" not in record:
        raise CheckpointError(f"{path} lacks its base, frame or config; it was not written by save_adapter")
    return record


def _found_base(source: str | os.PathLike[str], place: Path) -> str | os.PathLike[str]:
    """The base where it was, or beside the adapter: a folder that moved with it."""
    if not Path(source).exists():
        for near in (place / source, place.parent / source, place.parent / Path(source).name):
            if near.is_dir():
                return near
    return source


def _base_name(model: PeftModel) -> str:
    name = getattr(cast("PreTrainedModel", model.get_base_model()), "name_or_path", None)
    if not name:
        raise OutputError("the base was made here, not loaded: save it first, and say where with base=")
    return str(name)


def _tensor_names(path: Path) -> list[str]:
    try:
        with safe_open(path, "pt") as file:
            return list(file.keys())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"no weights to be read at {path} ({error}); adapters are kept as safetensors, never pickled"
        ) from error


def _require_saved(path: Path, state: Mapping[str, Tensor]) -> None:
    """Every gathered weight of the adapter is in the file, bit for bit."""
    from safetensors.torch import load_file

    saved = load_file(path)
    if not saved:
        raise CheckpointError(f"{path} holds nothing: the gathered weights have none of the adapter's names")
    mine = [one for one in state.values() if one.numel()]
    for name, tensor in saved.items():
        if not tensor.numel():
            raise CheckpointError(f"{name} in {path} is empty: gather the weights before saving (FSDP, ZeRO-3)")
        same = (one for one in mine if one.shape == tensor.shape and one.dtype == tensor.dtype)
        if not any(torch.equal(one.cpu(), tensor) for one in same):
            raise CheckpointError(f"{name} in {path} is none of the gathered weights")


def _dtype(model: PeftModel) -> torch.dtype:
    embeddings = cast(Any, model.get_base_model()).get_input_embeddings()
    return cast(torch.dtype, getattr(embeddings, "base_layer", embeddings).weight.dtype)


def _plain(config: object) -> dict[str, Any]:
    if config is None:
        return {}
    values = asdict(config) if is_dataclass(config) and not isinstance(config, type) else config
    return cast("dict[str, Any]", json.loads(json.dumps(values)))


def _versions() -> dict[str, str]:
    found = {}
    for package in ("perceptok", "transformers", "peft", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a source tree
            found[package] = "source"
    return found


@contextmanager
def _clear_messages(target: Path) -> Iterator[None]:
    """A full disk by its name, whichever library met it; and no advice of peft's that does not apply."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        try:
            yield
        except (OSError, SafetensorError) as error:
            if isinstance(error, OutputError):
                raise
            raise OutputError(
                f"cannot write {target}: {error}; what was there before is still whole. Check the free space"
            ) from error


def merge_adapter(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    force: bool = False,
) -> Path:
    """Write base and adapter as one plain checkpoint, and check that it says the same.

    Stock transformers and serving engines load it without perceptok; processor, manifest and codec lie beside it.

    Args:
        folder: What `save_adapter` wrote.
        output: Where to.
        base: See `load_adapter`; as `dtype` and `device`.
        dtype: Of the merged weights.
        device: Where it is merged.
        force: Replace a folder that is there.

    Raises:
        CheckpointError: The merged model says something else.
        OutputError: The folder exists, or cannot be written.
    """
    loaded = load_adapter(folder, base=base, dtype=dtype, device=device)
    said = probe_logits(loaded.model, loaded.processor, loaded.vocab, loaded.frame)
    merged: Any = cast(Any, loaded.model).merge_and_unload()
    target = Path(output)
    with atomic_folder(target, force=force) as place:
        _save_base(merged, loaded, place)
        again = load_base(place, device=device)
        # Merging rounds once more than the adapter does, by an amount that grows with the precision's step.
        tolerance = 1e-3 if again.dtype == torch.float32 else 5e-2
        read = probe_logits(again, loaded.processor, loaded.vocab, loaded.frame)
        require_equal_logits(read, said, str(target), tolerance=tolerance)
    return target


def export_adapter(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    force: bool = False,
) -> Path:
    """Write two folders: `base`, extended with all that is no LoRA, and `lora`, a pure LoRA adapter for it.

    Engines that serve adapters refuse those with token rows or whole modules; here these are part of the base.
    Arguments and errors are those of `merge_adapter`.
    """
    from peft import PeftModel

    loaded = load_adapter(folder, base=base, dtype=dtype, device=device)
    said = probe_logits(loaded.model, loaded.processor, loaded.vocab, loaded.frame)
    target = Path(output)
    with atomic_folder(target, force=force) as place:
        lora = place / "lora"
        loaded.model.save_pretrained(str(lora), save_embedding_layers=False)
        (lora / "README.md").unlink(missing_ok=True)
        weights = {name: one for name, one in load_file(lora / "adapter_model.safetensors").items() if ".lora_" in name}
        save_file(weights, lora / "adapter_model.safetensors", metadata={"format": "pt"})
        path = lora / "adapter_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config |= {
            "base_model_name_or_path": str(target / "base"),
            "modules_to_save": None,
            "trainable_token_indices": None,
            "ensure_weight_tying": False,
        }
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        plain: Any = _without_lora(loaded)
        _save_base(plain, loaded, place / "base")
        again = PeftModel.from_pretrained(load_base(place / "base", device=device), str(lora))
        require_equal_logits(probe_logits(again, loaded.processor, loaded.vocab, loaded.frame), said, str(target))
    return target


@torch.no_grad()
def _without_lora(loaded: Loaded) -> Any:
    """The base with the adapter's rows and modules in their places, and every LoRA taken out."""
    model: Any = loaded.model
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.zero_()  # merging then adds nothing
    return model.merge_and_unload()


def _save_base(model: Any, loaded: Loaded, place: Path) -> None:
    model.save_pretrained(place)
    loaded.processor.save_pretrained(place)
    loaded.vocab.save_pretrained(place)
    if loaded.codec is not None:
        loaded.codec.save_pretrained(place / "codec")
