"""The depth VQ-VAE: the encoder and decoder of a configuration, and 128 code vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from perceptok.config import config_from_dict
from perceptok.depth.networks.aurora import AuroraConfig, AuroraDecoder, AuroraEncoder
from perceptok.depth.networks.grid import GridConfig, GridDecoder, GridEncoder
from perceptok.errors import CheckpointError, ConfigError
from perceptok.tokens import DEPTH_GRID

__all__ = ["DepthVQVAE", "ModelConfig", "build_model", "model_config_from_dict", "model_config_to_dict"]


ModelConfig = GridConfig | AuroraConfig

_ARCHITECTURES: dict[str, type[ModelConfig]] = {"aurora": AuroraConfig, "grid": GridConfig}


def model_config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """Convert a configuration to plain JSON types, with its `architecture` ("grid" or "aurora")."""
    name = next(name for name, config_type in _ARCHITECTURES.items() if type(config) is config_type)
    values = {"architecture": name, **asdict(config)}
    # Left out where it is not set: fingerprints of codecs and folders of runs are older than this setting.
    return {key: value for key, value in values.items() if key != "decoder_blocks" or value is not None}


def model_config_from_dict(values: object) -> ModelConfig:
    """The inverse of `model_config_to_dict`; raises ConfigError for an unknown architecture, key or type."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"expected an object with the settings of a model; got {values!r}")
    values = dict(values)
    name = values.pop("architecture", None)
    if not isinstance(name, str) or name not in _ARCHITECTURES:
        raise ConfigError(f"unknown architecture {name!r}; known are {', '.join(_ARCHITECTURES)}")
    return config_from_dict(_ARCHITECTURES[name], values)


class DepthVQVAE(nn.Module):
    """Networks and code vectors between maps of nearness and a 10x10 grid of codes.

    The networks' own scale is [-1, 1]. Distances are always computed in float32: bfloat16 cannot distinguish them.

    Args:
        config: The architecture and its sizes. Weights are random; `DepthCodec.from_pretrained` loads trained ones.
    """

    codebook: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        if isinstance(config, AuroraConfig):
            self.encoder: AuroraEncoder | GridEncoder = AuroraEncoder(config)
            self.decoder: AuroraDecoder | GridDecoder = AuroraDecoder(config)
        else:
            self.encoder = GridEncoder(config, DEPTH_GRID[0])
            self.decoder = GridDecoder(config, DEPTH_GRID[0])
        self.register_buffer("codebook", torch.randn(config.codebook_size, config.codebook_dim))

    def compute_features(self, maps: Tensor) -> Tensor:
        """Maps (B, 1, 320, 320) in [-1, 1] -> features before quantisation (B, 10, 10, D), float32.

        What `encoder.view_pixels` makes of maps is read too.
        """
        features: Tensor = self.encoder(maps)
        return features.float()

    def compute_distances(self, features: Tensor) -> Tensor:
        """Features (..., D) -> squared Euclidean distances to every code (..., K), float32."""
        with torch.autocast(features.device.type, enabled=False):
            flat = features.float()
            return flat.square().sum(-1, keepdim=True) + self.codebook.square().sum(-1) - 2 * (flat @ self.codebook.t())

    def look_up_vectors(self, codes: Tensor) -> Tensor:
        """Codes (B, 10, 10) int64 -> their vectors (B, 10, 10, D) float32."""
        return self.codebook[codes]

    def reconstruct(self, vectors: Tensor) -> Tensor:
        """Code vectors (B, 10, 10, D) -> maps (B, 1, 320, 320), about [-1, 1], float32."""
        maps: Tensor = self.decoder(vectors)
        return maps.float()


def build_model(config: ModelConfig, state: dict[str, Tensor], source: str) -> DepthVQVAE:
    """Build a model of a configuration with the given weights, in float32.

    Args:
        config: The configuration.
        state: The weights; shapes must be exactly the configuration's, and every number finite.
        source: Where they come from, for messages.

    Raises:
        CheckpointError: The weights do not fit the configuration, or are not finite.
    """
    # Shapes first, without memory: a damaged configuration may ask for a terabyte.
    with torch.device("meta"):
        model = DepthVQVAE(config)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    if expected != found:
        wrong = next(key for key in sorted(expected | found) if expected.get(key) != found.get(key))
        raise CheckpointError(
            f"{source}: {wrong} has shape {found.get(wrong, 'none')}, but the configuration expects "
            f"{expected.get(wrong, 'none')}; weights and configuration belong to different models"
        )
    weights = {key: value.float() for key, value in state.items()}
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise CheckpointError(
            f"{source}: weights are NaN or infinite, or too large for float32; training that saved them had diverged"
        )
    model.load_state_dict(weights, assign=True)
    return model
