"""A vision tower whose features lie on the depth block's own grid: patch k is where code k is.

`GridTower` is a transformers model that `LlavaForConditionalGeneration` takes as its vision tower. Importing this
module registers it with `AutoConfig` and `AutoModel`; `load_llava` does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, MobileNetV2Config, MobileNetV2Model, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from perceptok.errors import ConfigError

__all__ = ["GRID", "GridTower", "GridTowerConfig"]

GRID = 10
"""Rows and columns of the features: those of a depth block."""

_WIDTHS = (24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)
"""Channels of MobileNetV2's sixteen blocks."""


class GridTowerConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """Configuration of a `GridTower`.

    Attributes:
        image_size: Side of the square image in pixels, a multiple of 10.
        taps: Numbers (0 .. 15) of the MobileNetV2 blocks whose outputs are pooled to 10x10 and concatenated.
        hidden_size: Channels of a feature: those of the taps, and 20 for its position (row and column, one-hot).
    """

    model_type = "perceptok_grid_tower"

    def __init__(self, image_size: int = 320, taps: tuple[int, ...] | list[int] = (4, 11, 15), **kwargs: Any) -> None:
        if image_size < GRID or image_size % GRID:
            raise ConfigError(f"image_size is a multiple of {GRID}; got {image_size}")
        if not taps or any(not 0 <= tap < len(_WIDTHS) for tap in taps):
            raise ConfigError(f"taps are numbers of blocks, 0 .. {len(_WIDTHS) - 1}, at least one; got {taps}")
        self.image_size = image_size
        self.patch_size = image_size // GRID
        self.taps = sorted(taps)
        kwargs["hidden_size"] = sum(_WIDTHS[tap] for tap in self.taps) + 2 * GRID
        super().__init__(**kwargs)


class GridTower(PreTrainedModel):  # type: ignore[no-untyped-call]
    """Vision tower: images (B, 3, S, S), ImageNet-normalised float32 -> features (B, 100, C) float32, row-major.

    `center` and `scale` normalise every channel to mean 0 and standard deviation 1; `calibrate` measures them once,
    when a model is built. Precomputed features (B, 100, C) pass through unchanged, so that a frozen tower's can be
    cached.
    """

    config_class = GridTowerConfig
    main_input_name = "pixel_values"
    base_model_prefix = "tower"
    center: Tensor
    scale: Tensor

    def __init__(self, config: GridTowerConfig) -> None:
        super().__init__(config)
        # torchvision's layout, which the ImageNet weights have.
        net = MobileNetV2Config(tf_padding=False, layer_norm_eps=1e-5, hidden_act="relu6", image_size=config.image_size)
        self.net = MobileNetV2Model(net, add_pooling_layer=False)
        channels = config.hidden_size - 2 * GRID
        self.register_buffer("center", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        self.post_init()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def calibrate(self, pixel_values: Tensor) -> None:
        """Measure mean and standard deviation of the channels on images (B, 3, S, S) float32."""
        features = self._extract(pixel_values).flatten(0, 1)
        self.center.copy_(features.mean(0))
        self.scale.copy_(features.std(0).clamp_min(1e-3))

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Images (B, 3, S, S) or features (B, 100, C), float32 -> features as the last and only hidden state."""
        if pixel_values.ndim == 3:
            features = pixel_values
        else:
            normalised = (self._extract(pixel_values) - self.center) / self.scale
            features = torch.cat([normalised, self._positions(normalised)], dim=-1)
        return BaseModelOutputWithPooling(last_hidden_state=features, hidden_states=(features,))

    def _extract(self, pixel_values: Tensor) -> Tensor:
        hidden, outputs = self.net.conv_stem(pixel_values), []
        for number, block in enumerate(self.net.layer[: self.config.taps[-1] + 1]):
            hidden = block(hidden)
            if number in self.config.taps:
                outputs.append(F.adaptive_avg_pool2d(hidden, GRID).flatten(2).transpose(1, 2))
        return torch.cat(outputs, dim=-1)

    @staticmethod
    def _positions(features: Tensor) -> Tensor:
        cells = torch.eye(GRID, dtype=features.dtype, device=features.device)
        rows = cells.repeat_interleave(GRID, dim=0)
        columns = cells.repeat(GRID, 1)
        return torch.cat([rows, columns], dim=1).expand(len(features), -1, -1)


AutoConfig.register(GridTowerConfig.model_type, GridTowerConfig, exist_ok=True)
AutoModel.register(GridTowerConfig, GridTower, exist_ok=True)
