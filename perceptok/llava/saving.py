"""Adapters in one folder with all that belongs to them: token rows, manifest, codec, frame, base and configuration."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from perceptok.checkpoints import CHECKPOINT_FILES
from perceptok.depth import DepthCodec
from perceptok.errors import CheckpointError, MissingExtraError, OutputError, VocabularyError, translate_errors
from perceptok.files import atomic_folder, check_free_space
from perceptok.hub import is_hub_id, upload_folder
from perceptok.llava.adapter_record import (
    ADAPTER_FILE,
    ADAPTER_FORMAT,
    find_adapter_folder,
    find_base,
    read_adapter_record,
)
from perceptok.llava.cards import CARD, make_card
from perceptok.llava.folder_checks import check_adapter_tensors, read_adapter_settings
from perceptok.llava.framing import FrameRule
from perceptok.llava.loading import (
    Bits,
    check_base,
    get_perception_settings,
    load_base,
    load_processor,
    prepare_processor,
    resolve_frame,
    set_perception_settings,
)
from perceptok.vocabulary import PerceptionVocabulary, extend_vocabulary, verify_adapter
from perceptok.weights import load_tensors, read_tensor_infos

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

__all__ = [
    "ADAPTER_OUTPUT",
    "LoadedAdapter",
    "Verify",
    "export_adapter",
    "load_adapter",
    "load_saved_codec",
    "merge_adapter",
    "probe_logits",
    "push_to_hub",
    "save_adapter",
]

ADAPTER_OUTPUT = (*CHECKPOINT_FILES, "codec/*")
"""Patterns of the names of the files in an adapter's folder, and in that of a merged model."""

_WEIGHTS_FILE = "adapter_model.safetensors"
_MANIFEST_FILE = "perception_tokens.json"

_PROBE_STRIDE = 13
"""Every 13th perception token is in the text that logits are compared on."""

Verify = Literal["reload", "file"]


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter with its base and all that belongs to it.

    Attributes:
        model: The extended base with its adapter (peft), in evaluation mode.
        processor: Its processor; the tokenizer knows every perception token.
        vocab: The tokens' ids, with the codec's fingerprint.
        codec: The depth codec of the DEPTH tokens, or None where none was saved.
        frame: How images are framed.
        system: The system text that the model was trained with; None for none.
        config: The training configuration, as JSON types; empty where none was saved.
    """

    model: PeftModel
    processor: ProcessorMixin
    vocab: PerceptionVocabulary
    codec: DepthCodec | None
    frame: FrameRule
    system: str | None
    config: Mapping[str, Any]


def save_adapter(
    folder: str | os.PathLike[str],
    model: PeftModel,
    processor: ProcessorMixin,
    vocab: PerceptionVocabulary,
    codec: DepthCodec | None = None,
    frame: str | FrameRule | None = None,
    config: Mapping[str, Any] | None = None,
    *,
    system: str | None = None,
    base: str | os.PathLike[str] | None = None,
    verify: Verify = "reload",
    state_dict: Mapping[str, Tensor] | None = None,
    force: bool = False,
) -> Path:
    """Save an adapter so that `load_adapter` gives the same model again; verify it, or raise and leave no trace.

    The folder holds peft's two files (LoRA, rows of perception tokens, the projector where it was trained), the
    processor with its tokenizer, the manifest, the codec, and `perception_adapter.json`: base, frame, fingerprint of
    the codec, system text, configuration and versions. Weights are safetensors; nothing is pickled. The folder is
    written under a temporary name and renamed when it is complete and verified.

    Args:
        folder: Folder to write.
        model: The model as wrapped by peft; its token rows trained through `peft_settings`.
        processor: The model's processor, extended.
        vocab: Its vocabulary.
        codec: The depth codec of the DEPTH tokens; a copy is saved.
        frame: How images were framed; by default as the model's config records.
        config: The training configuration, as JSON types.
        system: The system text that the model was trained with; by default the one that its base records, if any.
        base: Where the base will be found; by default where the model was loaded from.
        verify: "reload" loads everything again, base included, and compares logits on a fixed question; "file" compares
            the saved tensors with the model's, bit for bit, for checkpoints within a run.
        state_dict: The gathered weights, where this process holds shards of the model (FSDP, ZeRO-3); they are what
            is saved and compared.
        force: Replace an existing adapter.

    Raises:
        CheckpointError: The saved adapter differs from the model.
        VocabularyError: Trained weights would be lost; or processor, vocabulary and codec do not belong together.
        OutputError: The folder exists and `force` is not set, or cannot be written.
    """
    rule = resolve_frame(model, frame)
    target = Path(folder)
    source, relative = _locate_base(str(base if base is not None else _get_base_name(model)), target)
    manifest = _make_manifest(processor, vocab, codec)
    record: dict[str, Any] = {
        "format": ADAPTER_FORMAT,
        "base": {"source": source, "relative": relative, "sample": get_perception_settings(model).get("base")},
        "frame": rule.to_dict(),
        "codec": manifest.codec_fingerprint,
        "system": system or get_perception_settings(model).get("system"),
        "config": dict(config or {}),
        "versions": _get_versions(),
    }
    card = make_card(
        *("adapter", target.name, source, manifest, rule),
        base_id=source if relative is None else None,
        system=record["system"],
        config=config,
    )
    output = atomic_folder(target, force=force, marker=ADAPTER_FILE, patterns=ADAPTER_OUTPUT, inputs=[source])
    with output as place, _translate_errors(target):
        _save_lora(model, place, source, state_dict)
        _save_companions(place, processor, manifest, codec, card)
        (place / ADAPTER_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        if state_dict is None:
            verify_adapter(model, vocab, place)
        else:
            _check_saved_weights(place / _WEIGHTS_FILE, state_dict)
        if verify == "reload":
            expected = probe_logits(model, processor, vocab, rule)
            dtype = _get_base_dtype(model)
            loaded = load_adapter(place, base=source, dtype=dtype, device=next(model.parameters()).device)
            _check_logits(_probe_adapter(loaded), expected, str(target), tolerance=_tolerance(dtype))
    return target


def _make_manifest(processor: Any, vocab: PerceptionVocabulary, codec: DepthCodec | None) -> PerceptionVocabulary:
    """The tokenizer's vocabulary with the codec's fingerprint, checked against the model's."""
    manifest = PerceptionVocabulary.from_tokenizer(processor.tokenizer, vocab.token_sets)
    if manifest.tokens != vocab.tokens:
        raise VocabularyError("the processor's tokenizer gives perception tokens other ids than the vocabulary")
    manifest.codec_fingerprint = vocab.codec_fingerprint if codec is None else codec.fingerprint
    if vocab.codec_fingerprint not in (None, manifest.codec_fingerprint):
        raise VocabularyError(
            f"the model was loaded for the codec {vocab.codec_fingerprint}, this codec is "
            f"{manifest.codec_fingerprint}: codes of two codecs are not interchangeable"
        )
    return manifest


def _locate_base(source: str, target: Path) -> tuple[str, str | None]:
    """A base's folder, absolute and relative to the adapter's; for what is not a folder here its name, and None."""
    path = Path(source).resolve()
    return (str(path), os.path.relpath(path, target.resolve())) if path.exists() else (source, None)


def _save_companions(
    folder: Path, processor: Any, manifest: PerceptionVocabulary, codec: DepthCodec | None, card: str
) -> None:
    """Write what an adapter and a merged model have beside their weights."""
    (folder / CARD).write_text(card, encoding="utf-8")
    backend = getattr(processor.tokenizer, "backend_tokenizer", None)
    if backend is not None:  # what the last call set would be saved
        backend.no_padding()
        backend.no_truncation()
    processor.save_pretrained(folder)
    manifest.save_pretrained(folder)
    if codec is not None:
        codec.save_pretrained(folder / "codec")


def _save_lora(
    model: PeftModel,
    folder: Path,
    base: str,
    state_dict: Mapping[str, Tensor] | None = None,
    part: str = "",
    **settings: Any,
) -> None:
    """Write peft's two files, without its empty model card.

    The configuration names `base` and has `settings` replaced; of the tensors those remain whose names contain
    `part`. `state_dict` are the gathered weights, where this process holds shards.
    """
    options: dict[str, Any] = {} if state_dict is None else {"state_dict": dict(state_dict)}
    model.save_pretrained(str(folder), save_embedding_layers=False, **options)
    (folder / CARD).unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    values = {**json.loads(path.read_text(encoding="utf-8")), "base_model_name_or_path": base, **settings}
    if isinstance(values["target_modules"], str):  # a pattern: adapters are loaded by the names of layers only
        values["target_modules"] = list(model.targeted_module_names)
    for name in ("target_modules", "modules_to_save"):  # sets, whose order differs from process to process
        if values[name] is not None:
            values[name] = sorted(values[name])
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if part:
        weights = {name: x for name, x in load_file(folder / _WEIGHTS_FILE).items() if part in name}
        save_file(weights, folder / _WEIGHTS_FILE, metadata={"format": "pt"})


def _get_base_name(model: PeftModel) -> str:
    name = getattr(cast("PreTrainedModel", model.get_base_model()), "name_or_path", None)
    if not name:
        raise OutputError("the base was not loaded from a folder or the Hub: save it first, and pass its path as base=")
    return str(name)


def _get_base_dtype(model: PeftModel) -> torch.dtype:
    embeddings = cast(Any, model.get_base_model()).get_input_embeddings()
    return cast(torch.dtype, getattr(embeddings, "base_layer", embeddings).weight.dtype)


def _get_versions() -> dict[str, str]:
    versions = {}
    for package in ("perceptok", "transformers", "peft", "torch"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # run from a source tree
            versions[package] = "source"
    return versions


def _check_saved_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Require that each saved tensor is one of the gathered weights, bit for bit."""
    saved = load_file(path)
    if not saved:
        raise CheckpointError(f"{path} is empty: the gathered weights have none of the adapter's names")
    for name, tensor in saved.items():
        if not tensor.numel():
            raise CheckpointError(f"{name} in {path} is empty: gather the weights before saving (FSDP, ZeRO-3)")
        candidates = (x for x in state.values() if x.shape == tensor.shape and x.dtype == tensor.dtype)
        if not any(torch.equal(candidate.cpu(), tensor) for candidate in candidates):
            raise CheckpointError(f"{name} in {path} is not among the gathered weights")


@contextmanager
def _translate_errors(target: Path) -> Iterator[None]:
    """Raise OutputError for a full disk, whichever library met it; and hide peft's warning that does not apply."""
    with quiet_peft():
        try:
            yield
        except (OSError, SafetensorError) as error:
            if isinstance(error, OutputError):
                raise
            raise OutputError(
                f"cannot write {target}: {error}; what was there before is unchanged. Check the free space"
            ) from error


def load_adapter(
    folder: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    codec: DepthCodec | None = None,
    bits: Bits | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    revision: str | None = None,
    trainable: bool = False,
) -> LoadedAdapter:
    """Load an adapter with its base, processor, vocabulary, codec and frame.

    Args:
        folder: Folder that `save_adapter` wrote, the folder of a finished run of `finetune`, or an adapter's id on the
            Hub, as text (`owner/name`).
        base: Folder or Hub id of the base; by default where it was at training, or at the same place relative to the
            adapter, or beside it. It has to be the same model.
        codec: A loaded codec, instead of the saved copy; it has to be the same codec.
        bits: Load the base's language model in 4 or 8 bits with bitsandbytes.
        dtype: Of the base's weights; "auto" is that of the checkpoint.
        device: Device of the model.
        revision: Of the adapter's repository on the Hub.
        trainable: Leave the adapter trainable, to resume training.

    Raises:
        CheckpointError: The folder is not an adapter of perceptok, is damaged, or the base is missing or another
            model; or a repository cannot be downloaded.
        VocabularyError: The manifest is of another tokenizer or codec; or neither base nor adapter has rows for the
            perception tokens.
        MissingExtraError: peft is not installed, or bitsandbytes is not and `bits` is set.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingExtraError("peft", "llava", "an adapter") from error

    place = find_adapter_folder(folder, revision)
    record = read_adapter_record(place)
    source = base if base is not None else find_base(record.base, place)
    settings = read_adapter_settings(place)
    weights = place / _WEIGHTS_FILE
    infos = read_tensor_infos(weights, CheckpointError, "the adapter's weights")
    check_adapter_tensors(settings, infos, weights)
    load_tensors(weights, CheckpointError, "the adapter's weights")  # refuses values that are not finite
    processor = load_processor(place)
    tokenizer = cast(Any, processor).tokenizer
    codec = codec or load_saved_codec(place)
    fingerprint = None if codec is None else codec.fingerprint
    vocab = PerceptionVocabulary.from_pretrained(place, tokenizer, codec_fingerprint=fingerprint)
    try:
        model = load_base(source, bits=bits, dtype=dtype, device=device)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: the base: {error}; name another place by base= (--base)") from error
    if record.base.sample is not None:
        check_base(model, vocab, record.base.sample, str(source))
    has_rows = any("token_adapter" in name or ".embed_tokens.weight" in name for name in infos)
    extended = bool(getattr(model.config, "perception_rows", None))
    if not has_rows and not extended:
        raise VocabularyError(
            f"the adapter has no rows of perception tokens, and its base {source} was never extended: pass the "
            "extended base that was saved with it as base="
        )
    # The adapter's rows replace whatever stands there; rows that it does not have are the base's own.
    extend_vocabulary(tokenizer, model, vocab.token_sets, existing=None if extended else "replace")
    rule = record.frame
    prepare_processor(processor, model, rule)
    set_perception_settings(model, vocab, rule, record.system)
    with (
        _translate_errors(Path(folder)),
        translate_errors(CheckpointError, f"{folder}: the adapter does not fit its base {source}"),
    ):
        wrapped = PeftModel.from_pretrained(model, str(place), is_trainable=trainable)
        _check_loaded_names(wrapped, infos.keys(), place / _WEIGHTS_FILE)
        if not trainable:
            _make_probe(processor, vocab, rule)  # a processor that fails does so here
    wrapped.train(trainable)
    system = get_perception_settings(model).get("system")
    return LoadedAdapter(wrapped, processor, vocab, codec, rule, system, record.config)


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Ignore the FutureWarning of a name that transformers renamed and peft still reads; nothing here depends on it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield


def load_saved_codec(folder: Path) -> DepthCodec | None:
    """The copy of the depth codec in the folder of an adapter or a merged model; None where there is none."""
    return DepthCodec.from_pretrained(folder / "codec") if (folder / "codec").is_dir() else None


def _check_loaded_names(model: PeftModel, names: Collection[str], path: Path) -> None:
    """Require that the file has exactly the weights that the model takes; peft only warns."""
    from peft import get_peft_model_state_dict

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    for difference, problem in ((expected.keys() - names, "lacks"), (names - expected.keys(), "has unexpectedly")):
        if difference:
            raise CheckpointError(
                f"{path} {problem} {len(difference)} of the adapter's weights, {min(difference)} first"
            )


def push_to_hub(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
) -> str:
    """Push an adapter or a merged model to the Hub; `load_adapter` and `PerceptionPipeline` load it by its id.

    Args:
        folder: Folder that `save_adapter`, `merge_adapter` or `finetune` wrote; of a run the adapter alone is pushed.
        repo_id: `owner/name`; created where it does not exist.
        private: Whether a new repository is private; by default as the account says.
        token: A token with permission to write; by default HF_TOKEN, or that of `hf auth login`.
        revision: The branch, created where it does not exist; by default main.
        commit_message: Of the commit.
        create_pr: Open a pull request instead; the address of it, or of the commit, is returned.

    Raises:
        CheckpointError: The folder is neither an adapter nor a merged model, or is damaged.
        OutputError: The repository cannot be created or written, or the Hub cannot be reached.
    """
    place = find_adapter_folder(Path(folder))
    if (place / ADAPTER_FILE).exists():
        read_adapter_record(place)
        read_tensor_infos(place / _WEIGHTS_FILE, CheckpointError, "the adapter's weights")
    elif not ((place / _MANIFEST_FILE).is_file() and (place / "config.json").is_file()):
        raise CheckpointError(
            f"{folder} is neither an adapter nor a merged model of perceptok; name a folder that `perceptok llava "
            "train`, `merge` or save_adapter wrote"
        )
    return upload_folder(
        place,
        repo_id,
        private=private,
        token=token,
        revision=revision,
        commit_message=commit_message or f"Upload {Path(folder).name} with perceptok",
        create_pr=create_pr,
    )


def merge_adapter(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    force: bool = False,
) -> Path:
    """Merge an adapter into its base, write one plain checkpoint, and check that it gives the same logits.

    transformers and serving engines load it without perceptok; processor, manifest and codec lie beside it. Its chat
    template begins with the system text that the model was trained with, unless the messages have one. Its image
    processor ignores EXIF orientation and has no rules for transparency or 16-bit grey: give it images that
    `perceptok.images.open_image` opened and `FrameRule.apply` framed, as in training.

    Args:
        folder: Folder that `save_adapter` wrote.
        output: Folder to write.
        base: Folder or Hub id of the base, if not where it was.
        dtype: Of the merged weights.
        device: Device to merge on.
        force: Replace an existing folder.

    Raises:
        CheckpointError: The merged model gives other logits.
        OutputError: The folder exists, or cannot be written.
    """
    loaded = load_adapter(folder, base=base, dtype=dtype, device=device)
    _add_system(loaded.processor, loaded.system)
    expected = _probe_adapter(loaded)
    merged: Any = cast(Any, loaded.model).merge_and_unload()
    target = Path(output)
    inputs = [folder, str(merged.name_or_path)]
    with atomic_folder(target, force=force, marker=_MANIFEST_FILE, patterns=ADAPTER_OUTPUT, inputs=inputs) as place:
        _save_base(merged, loaded, place, target)
        again = load_base(place, device=device)
        logits = probe_logits(again, loaded.processor, loaded.vocab, loaded.frame)
        _check_logits(logits, expected, str(target), tolerance=_tolerance(again.dtype))
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
    """Write two folders: `base`, the extended base with trained rows and projector, and `lora`, a LoRA adapter for it.

    Engines that serve adapters refuse those with token rows or whole modules; here these are part of the base.

    Args:
        folder: Folder that `save_adapter` wrote.
        output: Folder to write.
        base: Folder or Hub id of the base, if not where it was.
        dtype: Of the base's weights.
        device: Device to compute on.
        force: Replace an existing folder.

    Raises:
        CheckpointError: Base and LoRA together give other logits.
        OutputError: The folder exists, or cannot be written.
    """
    from peft import PeftModel

    loaded = load_adapter(folder, base=base, dtype=dtype, device=device)
    _add_system(loaded.processor, loaded.system)
    expected = _probe_adapter(loaded)
    target = Path(output)
    patterns = [f"{part}/{pattern}" for part in ("base", "lora") for pattern in ADAPTER_OUTPUT]
    inputs = [folder, _get_base_name(loaded.model)]
    with atomic_folder(target, force=force, marker=f"base/{_MANIFEST_FILE}", patterns=patterns, inputs=inputs) as place:
        lora = place / "lora"
        removed: dict[str, Any] = {"modules_to_save": None, "trainable_token_indices": None}
        with _translate_errors(target):
            base_name = str((target / "base").resolve())
            _save_lora(loaded.model, lora, base_name, part=".lora_", ensure_weight_tying=False, **removed)
        _save_base(_remove_lora(loaded.model), loaded, place / "base", target)
        with quiet_peft():
            again = PeftModel.from_pretrained(load_base(place / "base", device=device), str(lora))
        logits = probe_logits(again, loaded.processor, loaded.vocab, loaded.frame)
        _check_logits(logits, expected, str(target), tolerance=1e-3)
    return target


@torch.no_grad()
def _remove_lora(model: Any) -> Any:
    """The base with the adapter's rows and modules, and without its LoRA."""
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.zero_()  # merging then adds nothing
    return model.merge_and_unload()


def _add_system(processor: Any, system: str | None) -> None:
    """Let the chat template begin with a system text where the messages have none, in place."""
    if not system or not processor.chat_template or system in processor.chat_template:
        return
    message = json.dumps({"role": "system", "content": [{"type": "text", "text": system}]})
    processor.chat_template = (
        f"{{%- if messages[0]['role'] != 'system' %}}{{%- set messages = [{message}] + messages %}}{{%- endif %}}"
        f"{processor.chat_template}"
    )


def _save_base(model: Any, loaded: LoadedAdapter, folder: Path, target: Path) -> None:
    source = str(model.name_or_path)
    card = make_card(
        *("merged", target.name, source, loaded.vocab, loaded.frame),
        base_id=source if is_hub_id(source) else None,
        system=loaded.system,
        config=loaded.config,
    )
    with _translate_errors(target):
        check_free_space(target, sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()))
        model.save_pretrained(folder)
        _save_companions(folder, loaded.processor, loaded.vocab, loaded.codec, card)


def _probe_adapter(loaded: LoadedAdapter) -> Tensor:
    return probe_logits(loaded.model, loaded.processor, loaded.vocab, loaded.frame)


@torch.no_grad()
def probe_logits(model: Any, processor: Any, vocab: PerceptionVocabulary, rule: FrameRule) -> Tensor:
    """Logits for an image, a question and some tokens of every set: (T, V) float32 on the CPU.

    Tower, projector, old and new rows of both token matrices and every adapter have a part in them.
    """
    training = model.training
    model.eval()
    precisions = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    half = torch.float16 if torch.float16 in precisions else torch.bfloat16
    try:
        # Trained weights are float32 on a base in half precision: computed as in training.
        with torch.autocast(model.device.type, half, enabled=len(precisions) > 1):
            logits = model(**_make_probe(processor, vocab, rule).to(model.device)).logits
    finally:
        model.train(training)
    return cast(Tensor, logits[0].float().cpu())


def _make_probe(processor: Any, vocab: PerceptionVocabulary, rule: FrameRule) -> BatchFeature:
    ramp = np.linspace(0, 255, 48, dtype=np.uint8)
    pixels = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], ramp[::-1, None]), axis=-1)
    image = rule.apply(Image.fromarray(np.ascontiguousarray(pixels)))
    tokens = "".join(list(vocab.tokens)[::_PROBE_STRIDE])
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": "What is closest?"}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    else:
        prompt = f"{processor.image_token}What is closest?"
    return cast("BatchFeature", processor(images=[image], text=[prompt + tokens], return_tensors="pt"))


def _tolerance(dtype: torch.dtype) -> float:
    """Merging and other kernels round differently, by an amount that grows with the precision's step."""
    return 1e-3 if dtype == torch.float32 else 5e-2


def _check_logits(logits: Tensor, expected: Tensor, name: str, *, tolerance: float) -> None:
    """Refuse logits that differ by more than the tolerance times the largest one."""
    if logits.shape != expected.shape:
        raise CheckpointError(f"{name}: logits have the shape {tuple(logits.shape)}, not {tuple(expected.shape)}")
    difference = float((logits - expected).abs().max())
    if not difference <= tolerance * max(1.0, float(expected.abs().max())):
        raise CheckpointError(
            f"{name}: the saved model differs from the trained one, logits by {difference:.3g}; nothing was replaced. "
            "Save with the processor and base that the model was trained with"
        )
