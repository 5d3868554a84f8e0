"""A codec on disk and on the hub: what is saved, so that a codec is the same one later, and how that is checked."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import ModelHubMixin, hf_hub_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from perceptok.depth.networks.model import DepthVQVAE, filled_model, model_config_from_dict, model_config_to_dict
from perceptok.depth.preprocessing import MAP_SIZE, Preprocessing
from perceptok.errors import CheckpointError, ConfigError
from perceptok.files import atomic_write, parse_json

__all__ = ["SavedCodec"]

_FORMAT = 1
_CONFIG_NAME = "config.json"
_WEIGHTS_NAME = "model.safetensors"

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
"""`owner/name`; anything else, `./name` and `../name` among it, is a path."""


class SavedCodec(ModelHubMixin):
    """Networks and preprocessing as one thing that is saved, loaded and told from others; `DepthCodec` computes.

    Attributes:
        model: The networks, frozen.
        preprocessing: How maps become their input.
    """

    def __init__(self, model: DepthVQVAE, preprocessing: Preprocessing | None = None) -> None:
        self.model = model.eval().requires_grad_(False)
        self.preprocessing = preprocessing or Preprocessing()
        if self.preprocessing.size != MAP_SIZE:
            raise ConfigError(f"the networks see maps of {MAP_SIZE}x{MAP_SIZE}; got size {self.preprocessing.size}")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path | None = None, **kwargs: Any) -> Self:
        """Load a codec.

        Args:
            pretrained_model_name_or_path: A directory that `save_pretrained` wrote, or the id of a repository on the
                Hugging Face Hub; without it, the weights that come with perceptok (no network).
            **kwargs: What `huggingface_hub.ModelHubMixin.from_pretrained` takes: `revision`, `token`, ...

        Raises:
            CheckpointError: Files are missing or damaged, or weights and configuration do not fit.
            ConfigError: The configuration has an unknown key.
        """
        if pretrained_model_name_or_path is None:
            pretrained_model_name_or_path = Path(str(files("perceptok.depth") / "weights"))
        place = Path(pretrained_model_name_or_path)
        named_a_path = isinstance(pretrained_model_name_or_path, Path) or not _HUB_ID.fullmatch(
            pretrained_model_name_or_path
        )
        if place.is_file() or (named_a_path and not place.is_dir()):
            raise CheckpointError(
                f"{place}: expected a directory with {_CONFIG_NAME} and {_WEIGHTS_NAME}, as save_pretrained writes it "
                "(a published AiT / AURORA .pt file is read by load_aurora_checkpoint)"
            )
        if place.is_dir():
            return cls._from_files(place / _CONFIG_NAME, place / _WEIGHTS_NAME)
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **model_kwargs: Any,
    ) -> Self:
        if model_kwargs.keys() - {"config"}:
            raise ConfigError(f"unknown arguments: {', '.join(sorted(model_kwargs))}")
        config, weights = (
            hf_hub_download(
                model_id,
                name,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
            for name in (_CONFIG_NAME, _WEIGHTS_NAME)
        )
        return cls._from_files(Path(config), Path(weights))

    @classmethod
    def _from_files(cls, config: Path, weights: Path) -> Self:
        try:
            values = parse_json(config.read_bytes(), f"{config.parent}: not a readable codec", CheckpointError)
            state = load_file(weights)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{config.parent}: not a readable codec ({error})") from error
        # The format first: a later one may well have other keys.
        if isinstance(values, dict) and values.get("format", _FORMAT) != _FORMAT:
            raise CheckpointError(
                f"{config}: format {values['format']!r}, but this version reads {_FORMAT}: update perceptok"
            )
        if not isinstance(values, dict) or values.keys() != {"format", "model", "preprocessing"}:
            raise ConfigError(f"{config}: expected exactly the keys format, model, preprocessing")
        preprocessing = Preprocessing.from_dict(values["preprocessing"])
        return cls(filled_model(model_config_from_dict(values["model"]), state, str(weights)), preprocessing)

    def _save_pretrained(self, save_directory: Path) -> None:
        config = {
            "format": _FORMAT,
            "model": model_config_to_dict(self.model.config),
            "preprocessing": self.preprocessing.to_dict(),
        }
        state = {key: value.detach().cpu().contiguous() for key, value in self.model.state_dict().items()}
        # Half precision where that loses nothing: what is loaded must give the same codes as what was saved.
        if all(torch.equal(value.half().float(), value) for value in state.values()):
            state = {key: value.half() for key, value in state.items()}
        with atomic_write(save_directory / _WEIGHTS_NAME, force=True) as file:
            file.write(save(state, metadata={"format": "pt"}))
        with atomic_write(save_directory / _CONFIG_NAME, force=True) as file:
            file.write((json.dumps(config, indent=2) + "\n").encode())

    @property
    def fingerprint(self) -> str:
        """A hash of weights and configuration: codes of two codecs mean the same only if their fingerprints agree."""
        digest = hashlib.sha256(
            json.dumps([model_config_to_dict(self.model.config), self.preprocessing.to_dict()]).encode()
        )
        for key, value in sorted(self.model.state_dict().items()):
            digest.update(key.encode() + value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]
