"""Export of a depth codec to ONNX: encoder and decoder as files that run without PyTorch."""

from __future__ import annotations

import copy
import json
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perceptok.depth.codec import DepthCodec
from perceptok.depth.preprocessing import MAP_SIZE
from perceptok.errors import CheckpointError, ConfigError, MissingExtraError, hide_library_logs
from perceptok.files import atomic_folder, atomic_write
from perceptok.tokens import DEPTH, DEPTH_GRID

__all__ = ["export_onnx"]

_MIN_EQUAL = 0.999
"""Share of cells whose codes must be those of the codec: rounding decides between two codes in a few."""

_MAX_DIFFERENCE = 1e-4
"""Of a decoded map's nearness."""

_OPSET = 20


class _Encoder(nn.Module):
    def __init__(self, codec: DepthCodec) -> None:
        super().__init__()
        self.model, self.preprocessing = codec.model, codec.preprocessing

    def forward(self, nearness: Tensor) -> tuple[Tensor, Tensor]:
        features = self.model.compute_features(self.preprocessing.to_network(nearness)[:, None])
        distances = self.model.compute_distances(features)
        return distances.argmin(-1), distances


class _Decoder(nn.Module):
    def __init__(self, codec: DepthCodec) -> None:
        super().__init__()
        self.model, self.preprocessing = codec.model, codec.preprocessing

    def forward(self, codes: Tensor) -> Tensor:
        maps = self.model.reconstruct(self.model.look_up_vectors(codes))[:, 0]
        return self.preprocessing.from_network(maps).clamp(0, 1)


def export_onnx(codec: DepthCodec, folder: str | Path, *, force: bool = False) -> Path:
    """Export a codec as `encoder.onnx` and `decoder.onnx`, and check them with onnxruntime on 16 maps.

    The encoder takes `nearness` (B, 320, 320) float32 in [0, 1] and gives `codes` (B, 10, 10) int64 and their squared
    `distances` (B, 10, 10, 128) float32. The decoder takes `codes` and gives `nearness`, clamped to [0, 1]. Maps of
    other sizes are squashed before, each pixel from the nearest one. `codec.json` has the codec's fingerprint and
    preprocessing.

    Args:
        codec: The codec.
        folder: The folder to write.
        force: Replace an existing folder that holds an export.

    Returns:
        The folder.

    Raises:
        MissingExtraError: The extra `onnx` is not installed.
        ConfigError: The codec resizes maps by Pillow, as MolmoAct's does: not part of a network.
        CheckpointError: The codes of the exported encoder differ in more than 0.1 % of the cells, or its maps by more
            than 1e-4.
        OutputError: The folder exists, or cannot be written.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "onnx", "export to ONNX")
    if codec.preprocessing.resize != "nearest":
        raise ConfigError(
            f"a codec that resizes maps by {codec.preprocessing.resize!r} is not exported: only the networks are in "
            "the files, and maps squashed in another way would get other codes"
        )
    grids = torch.randint(DEPTH.size, (2, *DEPTH_GRID), generator=torch.Generator().manual_seed(0))
    metadata = {"codec": codec.fingerprint, "preprocessing": codec.preprocessing.to_dict()}
    cpu = copy.deepcopy(codec).to("cpu")
    files = {
        "encoder.onnx": _export(_Encoder(cpu), torch.rand(2, MAP_SIZE, MAP_SIZE), ["nearness"], ["codes", "distances"]),
        "decoder.onnx": _export(_Decoder(cpu), grids, ["codes"], ["nearness"]),
    }
    _check(cpu, files["encoder.onnx"], files["decoder.onnx"])
    with atomic_folder(Path(folder), force=force, marker="encoder.onnx") as unfinished:
        for name, data in files.items():
            with atomic_write(unfinished / name) as file:
                file.write(data)
        with atomic_write(unfinished / "codec.json") as file:
            file.write((json.dumps(metadata, indent=2) + "\n").encode())
    return Path(folder)


@torch.no_grad()
def _export(network: nn.Module, example: Tensor, inputs: list[str], outputs: list[str]) -> bytes:
    """The bytes of an ONNX model of a network, for batches of any size."""
    with tempfile.TemporaryDirectory() as folder, hide_library_logs("torch.onnx"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own deprecations
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            network.eval(),
            (example,),
            path,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=_OPSET,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
        return path.read_bytes()


def _check(codec: DepthCodec, encoder: bytes, decoder: bytes) -> None:
    """Compare codes and maps of both on smooth random maps; raises CheckpointError."""
    coarse = torch.rand(16, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    nearness = nn.functional.interpolate(coarse, MAP_SIZE, mode="bicubic").clamp(0, 1)[:, 0]
    codes = codec.encode(nearness)
    found = _run(encoder, {"nearness": nearness.numpy()})[0]
    equal = float((found == codes.numpy()).mean())
    if equal < _MIN_EQUAL:
        raise CheckpointError(f"the exported encoder gives other codes in {1 - equal:.2%} of the cells of 16 maps")
    difference = float(np.abs(_run(decoder, {"codes": codes.numpy()})[0] - codec.decode(codes).numpy()).max())
    if not difference <= _MAX_DIFFERENCE:
        raise CheckpointError(f"the exported decoder gives maps that differ by up to {difference:.2g}")


def _run(model: bytes, inputs: dict[str, np.ndarray]) -> list[Any]:
    import onnxruntime

    return list(onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, inputs))
