"""Folders of maps through codecs on a Ray cluster: the records are those of one process, in the same order."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

from perceptok.cluster import RayEngine
from perceptok.depth.codec import DepthCodec
from perceptok.depth.folders.collection import MapFile
from perceptok.depth.folders.jobs import encode_maps
from perceptok.depth.folders.records import DepthRecord, Failure

__all__ = ["ray_encoder"]


def ray_encoder(
    codec: DepthCodec, *, batch_size: int = 16, workers: int = 2, address: str | None = None
) -> Callable[[Sequence[MapFile]], Iterator[DepthRecord | Failure]]:
    """What `encode_files` takes as its engine: an actor pool in which every worker holds the codec.

    Args:
        codec: Sent to each worker once; on a GPU, each worker has one of its own.
        batch_size: Maps that go through the networks at once.
        workers: Actors.
        address: Of a running cluster; see `RayEngine`.

    Raises:
        ConfigError: Fewer than one worker.
        MissingExtraError: Ray is not installed (when the first map is asked for).
        ClusterError: The cluster cannot be reached, or a worker died again and again.
    """
    device = str(codec.device)
    engine = RayEngine(workers, address, gpus=1.0 if device.startswith("cuda") else 0.0)

    def encode(maps: Sequence[MapFile]) -> Iterator[DepthRecord | Failure]:
        # Weights cross in main memory: a machine may have no GPU of that number.
        sent = copy.deepcopy(codec).to("cpu")
        settings = {"codec": sent, "device": "cuda" if engine.gpus else device, "batch_size": batch_size}
        return engine.run(_Encoder, settings, maps, batch_size=batch_size)

    return encode


class _Encoder:
    """One worker: a codec, and files as they come."""

    def __init__(self, codec: DepthCodec, device: str, batch_size: int) -> None:
        self._codec, self._batch_size = codec.to(device), batch_size

    def __call__(self, maps: list[MapFile]) -> list[DepthRecord | Failure]:
        return list(encode_maps(self._codec, maps, batch_size=self._batch_size))
