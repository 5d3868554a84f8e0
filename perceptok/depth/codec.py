"""`DepthCodec`: depth maps to codes and back."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Self, cast, overload

import numpy as np
import torch
from huggingface_hub import ModelHubMixin
from numpy.typing import ArrayLike
from safetensors.torch import save
from torch import Tensor, nn
from torch.func import functional_call

from perceptok.depth.blocks import block_from_bytes, block_from_text, block_to_bytes, block_to_text, validate_codes
from perceptok.depth.maps import DepthMap, Nearness, NearnessRange
from perceptok.depth.networks.aurora import AuroraConfig, read_aurora_checkpoint
from perceptok.depth.networks.vqvae import (
    DepthVQVAE,
    ModelConfig,
    build_model,
    model_config_from_dict,
    model_config_to_dict,
)
from perceptok.depth.preprocessing import MAP_SIZE, Depth, Preprocessing, to_float32, validate_nearness
from perceptok.errors import CheckpointError, ConfigError, MalformedBlockError, quote_error
from perceptok.files import atomic_write, parse_json, read_input
from perceptok.hub import download_repository, is_hub_id
from perceptok.tokens import DEPTH, DEPTH_GRID
from perceptok.weights import load_tensors

__all__ = ["DepthCodec", "load_aurora_checkpoint"]

_FORMAT = 1
_CONFIG_NAME = "config.json"
_WEIGHTS_NAME = "model.safetensors"

_WEIGHTS_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")

_FEATURE_ERROR = 1e-5
_DISTANCE_ERROR = 1e-6
"""Relative errors of features and of squared distances, beyond what rounding makes of them at another batch size.
Networks in float32 differ by about 1e-6, and |f|^2 + |e|^2 - 2 f e loses a few units of 6e-8."""

_REFERENCE_BATCH = 16
"""Copies of a map that go through AURORA's networks where rounding decides between two codes. At this size the kernels
of CPUs with AVX-512 gave the bits of the published code, with 1, 2, 3, 4 and 8 threads; a map alone gave others.
CPUs with AVX2 round otherwise at every size."""

_CPU_BATCH, _MAX_BATCH = 16, 256
"""Maps at once by default. On one CPU thread 16 is within a tenth of the fastest; an H200 encoded 4,700 maps/s at 16,
11,300 at 64 and 22,600 at 256."""

_BYTES_PER_MAP = 2**24
"""Bound for the intermediate results of a map: the reference's decoder, the largest, has two of 6.6 MB at a time."""

_MODEL_CARD = """---
{{ card_data }}
---

# A depth codec of perceptok

It turns depth maps into 10x10 codes out of 128, and codes into maps of nearness (1 = nearest).

```python
import perceptok as pt

codec = pt.DepthCodec.from_pretrained("path/to/this/folder")
codes = codec.encode(pt.DepthMap.read("map.png", kind="inverse"))
nearness = codec.decode(codes)
```
"""


class DepthCodec(ModelHubMixin, model_card_template=_MODEL_CARD, library_name="perceptok"):
    """Depth maps <-> a 10x10 grid of 128 codes (AURORA, arXiv 2412.03548).

    Arrays and `DepthMap`s in give NumPy arrays out; tensors in give tensors out, on the codec's device. Values of
    arrays and tensors are *nearness*: relative inverse depth in [0, 1], 1 = nearest. A codec is not trained through:
    its parameters are frozen (`train_depth_codec` trains one).

    Attributes:
        model: The networks, frozen.
        preprocessing: How maps become their input.
    """

    def __init__(self, model: DepthVQVAE, preprocessing: Preprocessing | None = None) -> None:
        self.model = model.eval().requires_grad_(False)
        self.preprocessing = preprocessing or Preprocessing()
        if self.preprocessing.size != MAP_SIZE:
            raise ConfigError(f"the networks take maps of {MAP_SIZE}x{MAP_SIZE}; got size {self.preprocessing.size}")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path | None = None, **kwargs: Any) -> Self:
        """Load a codec.

        Args:
            pretrained_model_name_or_path: A directory that `save_pretrained` wrote, or the id of a repository on the
                Hugging Face Hub; by default the weights that come with perceptok (no network).
            **kwargs: Of a repository on the Hub: arguments of `huggingface_hub.snapshot_download`, such as `revision`
                and `token`.

        Raises:
            CheckpointError: Files are missing or damaged, weights and configuration do not match, or the repository
                cannot be downloaded.
            ConfigError: The configuration has an unknown key.
        """
        if pretrained_model_name_or_path is None:
            pretrained_model_name_or_path = Path(str(files("perceptok.depth") / "weights"))
        folder = Path(pretrained_model_name_or_path)
        if is_hub_id(pretrained_model_name_or_path):
            folder = download_repository(
                str(pretrained_model_name_or_path), patterns=[_CONFIG_NAME, _WEIGHTS_NAME], **kwargs
            )
        if not folder.is_dir():
            raise CheckpointError(
                f"{folder}: expected a directory with {_CONFIG_NAME} and {_WEIGHTS_NAME}, as save_pretrained writes it "
                "(a published AiT / AURORA .pt file is read by load_aurora_checkpoint)"
            )
        return cls._from_files(folder / _CONFIG_NAME, folder / _WEIGHTS_NAME)

    @property
    def fingerprint(self) -> str:
        """A hash of weights and configuration; codes are comparable only between codecs of the same fingerprint."""
        digest = hashlib.sha256(
            json.dumps([model_config_to_dict(self.model.config), self.preprocessing.to_dict()]).encode()
        )
        for key, value in sorted(self.model.state_dict().items()):
            digest.update(key.encode() + value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.model.codebook.device

    def to(self, device: str | torch.device) -> Self:
        """Move the weights to a device and return the codec."""
        self.model.to(device)
        return self

    @property
    def codebook(self) -> Tensor:
        """The code vectors, (128, D) float32."""
        return self.model.codebook

    def choose_batch_size(self, batch_size: int | None = None) -> int:
        """The number of maps that go through the networks at once.

        Args:
            batch_size: A number that is chosen already, or None for the device's default: 16, and on a CUDA device as
                many as fit into a quarter of its free memory, at most 256.

        Raises:
            ValueError: The number is less than 1.
        """
        if batch_size is not None:
            if batch_size < 1:
                raise ValueError(f"the batch size must be at least 1; got {batch_size}")
            return batch_size
        if self.device.type != "cuda":
            return _CPU_BATCH
        return _fit_batch(torch.cuda.mem_get_info(self.device)[0])

    @overload
    def encode(self, depth: Tensor, *, batch_size: int | None = ...) -> Tensor: ...
    @overload
    def encode(
        self, depth: Depth, *, range: NearnessRange | None = ..., batch_size: int | None = ...
    ) -> np.ndarray: ...
    def encode(
        self,
        depth: Tensor | Depth,
        *,
        range: NearnessRange | None = None,  # noqa: A002 - the name of the thing
        batch_size: int | None = None,
    ) -> Tensor | np.ndarray:
        """Encode maps to codes.

        Args:
            depth: A `DepthMap` or `Nearness`, or a sequence of them (any sizes); or nearness in [0, 1] as an array or
                tensor of shape (H, W), (H, W, 1), (B, H, W), (B, 1, H, W) or (B, H, W, 1).
            range: What becomes nearness 0 and 1 in `DepthMap`s; by default each map's own extremes.
            batch_size: Maps that go through the networks at once, by default `choose_batch_size()`. The codes do not
                depend on it: where rounding could decide between two codes, the cell is decided in float64 (with
                AURORA's networks as the published code rounds it).

        Returns:
            Codes (B, 10, 10) int64 in 0..127; B = 1 for a single map, 0 for an empty batch.

        Raises:
            DepthMapError: Wrong shape, NaN or infinite values, values outside [0, 1], nothing valid in a `DepthMap`,
                or a range that does not fit it.
            ConfigError: A range for what is nearness already.
        """
        with torch.no_grad(), self._disable_autocast():
            batches = [self._encode(inputs)[0] for inputs in self._prepare_batches(depth, batch_size, range)]
        codes = torch.cat(batches) if batches else torch.empty((0, 10, 10), dtype=torch.int64, device=self.device)
        return codes if isinstance(depth, Tensor) else codes.cpu().numpy()

    @overload
    def encode_soft(self, depth: Tensor, *, temperature: float = ..., batch_size: int | None = ...) -> Tensor: ...
    @overload
    def encode_soft(
        self, depth: Depth, *, range: NearnessRange | None = ..., temperature: float = ..., batch_size: int | None = ...
    ) -> np.ndarray: ...
    def encode_soft(
        self,
        depth: Tensor | Depth,
        *,
        range: NearnessRange | None = None,  # noqa: A002 - the name of the thing
        temperature: float = 1.0,
        batch_size: int | None = None,
    ) -> Tensor | np.ndarray:
        """Encode maps to probabilities of the codes: the teacher q of AURORA's Eq. 1.

        q = softmax(-||f - e_k||^2 / temperature), with f a cell's feature and e_k the vector of code k. As the
        temperature falls to 0 it becomes the one-hot form of `encode`.

        Args:
            depth: Maps in any form that `encode` takes.
            range: What becomes nearness 0 and 1 in `DepthMap`s; by default each map's own extremes.
            temperature: Positive, in units of squared distance between code vectors.
            batch_size: Maps that go through the networks at once, by default `choose_batch_size()`.

        Returns:
            (B, 10, 10, 128) float32; rows sum to 1.

        Raises:
            ValueError: The temperature is not positive.
            DepthMapError: The maps cannot be encoded.
            ConfigError: A range for what is nearness already.
        """
        if not temperature > 0:
            raise ValueError(f"the temperature must be positive; got {temperature}")
        with torch.no_grad(), self._disable_autocast():
            batches = [
                _compute_softmin(self.model.compute_distances(self.model.compute_features(inputs)), temperature)
                for inputs in self._prepare_batches(depth, batch_size, range)
            ]
        probs = torch.cat(batches) if batches else torch.empty((0, 10, 10, DEPTH.size), device=self.device)
        return probs if isinstance(depth, Tensor) else probs.cpu().numpy()

    @overload
    def decode(self, codes: Tensor, *, batch_size: int | None = ..., clamp: bool = ...) -> Tensor: ...
    @overload
    def decode(self, codes: ArrayLike, *, batch_size: int | None = ..., clamp: bool = ...) -> np.ndarray: ...
    def decode(
        self, codes: Tensor | ArrayLike, *, batch_size: int | None = None, clamp: bool = True
    ) -> Tensor | np.ndarray:
        """Decode codes to nearness.

        Args:
            codes: (10, 10) or (B, 10, 10) integers in 0..127.
            batch_size: Maps that go through the networks at once, by default `choose_batch_size()`.
            clamp: False keeps values that the networks give beyond [0, 1].

        Returns:
            (B, 320, 320) float32 in [0, 1], 1 = nearest.

        Raises:
            MalformedBlockError: Another shape or type, or a code outside 0..127.
        """
        batch_size = self.choose_batch_size(batch_size)
        grids = self._to_grids(codes)
        size = self.preprocessing.size
        with torch.no_grad(), self._disable_autocast():
            chunks = torch.split(grids, batch_size) if len(grids) else ()
            maps = torch.empty((len(grids), size, size), device=self.device)
            for chunk, decoded in zip(chunks, torch.split(maps, batch_size), strict=False):
                pixels = self.model.decoder.compute_pixels(self.model.look_up_vectors(chunk))
                # The pixels' scale and their order in memory change in one pass over them.
                self.preprocessing.from_network(pixels, out=decoded.view(pixels.shape))
                if clamp:
                    decoded.clamp_(0, 1)
        return maps if isinstance(codes, Tensor) else maps.cpu().numpy()

    def decode_soft(self, probs: Tensor) -> Tensor:
        """Decode probabilities of codes; differentiable with respect to them (the decoder g of AURORA's Eq. 2).

        Args:
            probs: (10, 10, 128) or (B, 10, 10, 128); each cell's vector is the expectation under its row.

        Returns:
            (B, 320, 320) float32, about [0, 1]: not clamped, because a clamp has no gradient outside.

        Raises:
            MalformedBlockError: Another shape.
        """
        if probs.ndim not in (3, 4) or probs.shape[-3:] != (10, 10, DEPTH.size):
            raise MalformedBlockError(f"probabilities have shape (B, 10, 10, {DEPTH.size}); got {tuple(probs.shape)}")
        probs = probs.to(self.device, torch.float32).view(-1, 10, 10, DEPTH.size)
        with self._disable_autocast():
            return self.preprocessing.from_network(self.model.reconstruct(probs @ self.model.codebook))[:, 0]

    def to_text(self, codes: Tensor | ArrayLike) -> str:
        """Write codes (10, 10) in 0..127 as a block of 102 tokens; raises MalformedBlockError for other codes."""
        return block_to_text(codes.cpu().numpy() if isinstance(codes, Tensor) else codes)

    def from_text(self, text: str) -> np.ndarray:
        """Parse a block to codes (10, 10) int64; raises MalformedBlockError with the position and what was found."""
        return block_from_text(text)

    def to_bytes(self, codes: Tensor | ArrayLike) -> bytes:
        """Pack codes (10, 10) in 0..127 into 88 bytes; raises MalformedBlockError for other codes."""
        return block_to_bytes(codes.cpu().numpy() if isinstance(codes, Tensor) else codes)

    def from_bytes(self, data: bytes) -> np.ndarray:
        """Unpack 88 bytes to codes (10, 10) int64; raises MalformedBlockError for another length."""
        return block_from_bytes(data)

    def find_nearest(self, squares: Tensor) -> tuple[Tensor, Tensor]:
        """Encode nearness (B, 320, 320) float32 in [0, 1], and return the squared distances that decide the codes.

        Returns:
            Codes (B, 10, 10) int64, as `encode` gives them, and distances (B, 10, 10, 128) float32, on the device.
        """
        with torch.no_grad(), self._disable_autocast():
            return self._encode(self._to_inputs(squares))

    @classmethod
    def _from_files(cls, config: Path, weights: Path) -> Self:
        try:
            values = parse_json(read_input(config), f"{config.parent}: not a readable codec", CheckpointError)
        except OSError as error:
            raise CheckpointError(
                f"{config.parent}: not a readable codec ({config.name}: {quote_error(error)})"
            ) from error
        state = load_tensors(weights, CheckpointError, "not a readable codec: its weights")
        # The format first: a later one may well have other keys.
        if isinstance(values, dict) and values.get("format", _FORMAT) != _FORMAT:
            raise CheckpointError(
                f"{config}: format {values['format']!r}, but this version reads {_FORMAT}: update perceptok"
            )
        if not isinstance(values, dict) or values.keys() != {"format", "model", "preprocessing"}:
            raise ConfigError(f"{config}: expected exactly the keys format, model, preprocessing")
        preprocessing = Preprocessing.from_dict(values["preprocessing"])
        return cls(build_model(model_config_from_dict(values["model"]), state, str(weights)), preprocessing)

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

    def _disable_autocast(self) -> torch.autocast:
        """Disables any surrounding autocast: in bfloat16 2 % of the codes would change."""
        return torch.autocast(self.device.type, enabled=False)

    def _to_grids(self, codes: Tensor | ArrayLike) -> Tensor:
        """Codes of any accepted form as (B, 10, 10) int64 on the device, where they may be already."""
        if isinstance(codes, Tensor) and codes.dtype == torch.int64 and codes.shape[-2:] == DEPTH_GRID:
            low, high = codes.aminmax() if codes.numel() else (0, 0)
            if codes.ndim in (2, 3) and int(low) >= 0 and int(high) < DEPTH.size:
                return codes.to(self.device).reshape(-1, *DEPTH_GRID)
        array = validate_codes(codes.cpu().numpy() if isinstance(codes, Tensor) else codes)
        return torch.from_numpy(array.reshape(-1, *DEPTH_GRID)).to(self.device)

    def _prepare_batches(
        self, depth: Tensor | Depth, batch_size: int | None, chosen: NearnessRange | None
    ) -> Iterator[Tensor]:
        """The networks' inputs, (b, 1, 320, 320) at a time."""
        batch_size = self.choose_batch_size(batch_size)
        maps = [depth] if isinstance(depth, DepthMap | Nearness) else depth
        if chosen is not None and not (isinstance(maps, Sequence) and all(isinstance(item, DepthMap) for item in maps)):
            raise ConfigError(
                "a range is for DepthMaps; arrays, tensors and Nearness are in a range already. Make a map of an array "
                "by DepthMap.from_array(array, kind=...), or leave the range out"
            )
        if isinstance(maps, Sequence) and all(isinstance(item, DepthMap | Nearness) for item in maps):
            known = cast("Sequence[DepthMap | Nearness]", maps)
            for start in range(0, len(known), batch_size):
                squares = [self._square(item, chosen) for item in known[start : start + batch_size]]
                yield self._to_inputs(torch.cat(squares))
            return
        tensor = validate_nearness(cast("Tensor | ArrayLike", maps))
        for chunk in torch.split(tensor, batch_size) if len(tensor) else ():
            yield self._to_inputs(self.preprocessing.squash(chunk))

    def _square(self, depth: DepthMap | Nearness, chosen: NearnessRange | None) -> Tensor:
        nearness = depth.to_nearness(chosen) if isinstance(depth, DepthMap) else depth
        return self.preprocessing.squash(torch.from_numpy(to_float32(nearness.values))[None])

    def _to_inputs(self, squares: Tensor) -> Tensor:
        pixels = self.model.encoder.view_pixels(squares.to(self.device))
        return self.preprocessing.to_network(pixels, out=torch.empty(pixels.shape, device=self.device))

    def _encode(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (B, 10, 10) that do not depend on the batch, and squared distances (B, 10, 10, 128)."""
        features = self.model.compute_features(inputs)
        distances = self.model.compute_distances(features)
        # Of two at the same distance the first, as in the reference; topk may take either.
        codes = distances.argmin(-1)
        undecided = self._find_undecided(features, distances)
        maps = undecided.flatten(1).any(1)
        if maps.any():
            decide = (
                self._encode_as_reference if isinstance(self.model.config, AuroraConfig) else self._encode_precisely
            )
            codes[maps] = torch.where(undecided[maps], decide(inputs[maps]).to(codes.device), codes[maps])
        return codes, distances

    def _find_undecided(self, features: Tensor, distances: Tensor) -> Tensor:
        """Cells (B, 10, 10) in which rounding could decide between two codes."""
        nearest = distances.topk(2, dim=-1, largest=False)
        first, second = self.model.codebook[nearest.indices].unbind(-2)
        squared_norms = features.square().sum(-1)
        # A feature that moves by m moves the gap between two squared distances by 2 m |first - second| at most.
        error = 2 * _FEATURE_ERROR * squared_norms.sqrt() * (first - second).norm(dim=-1)
        error = error + _DISTANCE_ERROR * (squared_norms + first.square().sum(-1))
        undecided: Tensor = nearest.values[..., 1] - nearest.values[..., 0] < error
        return undecided

    def _encode_precisely(self, inputs: Tensor) -> Tensor:
        """Codes of a few maps in float64 on the CPU: the same on every device, with any threads, in any batch."""
        weights = {name: value.to("cpu", torch.float64) for name, value in self.model.encoder.state_dict().items()}
        features: Tensor = functional_call(
            _get_empty_encoder(self.model.config), weights, (inputs.to("cpu", torch.float64),)
        ).flatten(0, 2)
        distances = torch.cdist(features, self.model.codebook.to("cpu", torch.float64))
        return distances.argmin(-1).view(-1, 10, 10)

    def _encode_as_reference(self, inputs: Tensor) -> Tensor:
        """Codes of a few maps as the published code rounds them in batches of two and more."""
        copies = (single.expand(_REFERENCE_BATCH, -1, -1, -1).contiguous() for single in torch.split(inputs, 1))
        distances = (self.model.compute_distances(self.model.compute_features(batch))[:1] for batch in copies)
        return torch.cat([each.argmin(-1) for each in distances])


def load_aurora_checkpoint(
    path_or_hub_id: str | Path,
    filename: str = "vae-final.pt",
    preprocessing: str | Preprocessing = "aurora",
) -> DepthCodec:
    """Load a codec of published weights of the AiT / AURORA networks, with their codes.

    Codes are those of the published code on the same device, also in cells where float32 can hardly tell two codes
    apart, on CPUs with AVX-512. On others these cells, fewer than 1 % even with random weights, may get the other code.

    AURORA and MolmoAct publish the same networks under the same file name and feed them differently; with the other's
    preprocessing four codes of five are wrong, and nothing shows it. The choice is saved with the codec and part of its
    fingerprint. `decode` maps the networks' scale to [0, 1] and clamps; `decode(..., clamp=False)` does not.

    Args:
        path_or_hub_id: A `.pt` file, a folder, or a repository on the Hugging Face Hub, such as
            `allenai/MolmoAct-7B-D-0812`. The file is a state dict, bare or under "weights"; read without running code.
        filename: Name of the file in a folder or repository.
        preprocessing: "aurora", "molmoact" (as `Preprocessing.from_name`), or a `Preprocessing`.

    Raises:
        CheckpointError: The file cannot be fetched, is damaged, unsafe, or of another format.
        ConfigError: The name of the preprocessing is unknown.
    """
    chosen = preprocessing if isinstance(preprocessing, Preprocessing) else Preprocessing.from_name(preprocessing)
    path = Path(path_or_hub_id)
    if path.is_dir():
        path = path / filename
    elif is_hub_id(path_or_hub_id) and path.suffix.lower() not in _WEIGHTS_SUFFIXES:
        path = download_repository(str(path_or_hub_id), patterns=[filename]) / filename
    config, state = read_aurora_checkpoint(path)
    return DepthCodec(build_model(config, state, str(path)), chosen)


_EMPTY_ENCODERS = threading.local()


def _get_empty_encoder(config: ModelConfig) -> nn.Module:
    """An encoder without weights, for `functional_call`: building one takes as long as encoding a map in float64.

    Each thread has its own, because weights are put into it for the time of a call.
    """
    encoders = cast("dict[str, nn.Module]", _EMPTY_ENCODERS.__dict__)
    key = repr(config)
    if key not in encoders:
        with torch.device("meta"):
            encoders[key] = DepthVQVAE(config).encoder.eval()
    return encoders[key]


def _compute_softmin(distances: Tensor, temperature: float) -> Tensor:
    """Softmax of negative distances (..., K), relative to the smallest: all would overflow at a low temperature."""
    return ((distances.amin(-1, keepdim=True) - distances) / temperature).softmax(-1)


def _fit_batch(free: int) -> int:
    """The batch size for a device with that many free bytes."""
    return max(1, min(_MAX_BATCH, free // (4 * _BYTES_PER_MAP)))
