"""Specialists of transformers: any depth estimator and any object detector that its auto classes load."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from perceptok.boxes import BoxLabels, ImageBoxes
from perceptok.data.specialists.specialist import Device, require_rgb
from perceptok.depth import DepthMap, Kind, Unit
from perceptok.errors import SpecialistError

__all__ = ["TransformersBoxes", "TransformersDepth"]

_METRIC_ONLY = ("zoedepth",)


class _Pretrained:
    """A model and its image processor, loaded on first use, so that the specialist itself can be pickled."""

    auto_class: str

    def __init__(self, model: str | Path, device: Device, batch_size: int) -> None:
        if batch_size < 1:
            raise SpecialistError(f"batch_size is a number of pictures from 1; got {batch_size}")
        self.place, self.device, self.batch_size = str(model), device, batch_size

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("loaded", "fingerprint")}

    @cached_property
    def loaded(self) -> tuple[Any, Any]:
        """Model and image processor; raises SpecialistError where they cannot be loaded."""
        import transformers

        try:
            model = getattr(transformers, self.auto_class).from_pretrained(self.place, dtype=torch.float32)
            processor = transformers.AutoImageProcessor.from_pretrained(self.place)  # type: ignore[no-untyped-call]
            return model.eval().to(self.device), processor
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise SpecialistError(f"{self.place}: cannot be loaded as {self.auto_class} ({error})") from error

    def hashed(self, settings: str) -> str:
        """Of every weight, the processor's settings and ours."""
        model, processor = self.loaded
        digest = hashlib.sha256(
            f"{processor.to_json_string()} {model.config.to_json_string(False)} {settings}".encode()
        )
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def outputs(self, pictures: Sequence[Image.Image]) -> Iterator[tuple[list[int], Any]]:
        """Of pictures of one size at a time: their indices and the model's output."""
        require_rgb(pictures)
        model, processor = self.loaded
        groups: dict[tuple[int, int], list[int]] = {}
        for index, picture in enumerate(pictures):
            groups.setdefault(picture.size, []).append(index)
        for group in groups.values():
            for first in range(0, len(group), self.batch_size):
                batch = group[first : first + self.batch_size]
                inputs = processor(images=[pictures[index] for index in batch], return_tensors="pt").to(self.device)
                with torch.inference_mode():
                    yield batch, model(**inputs)


class TransformersDepth(_Pretrained):
    """Depth Anything V2, DPT, ZoeDepth and every other `AutoModelForDepthEstimation`.

    Args:
        model: A folder or a hub id.
        kind: What its output says: "inverse" (larger = nearer) or "metric" (larger = farther). Never guessed; one that
            contradicts what the model's config says is refused.
        unit: Of a metric output; these models write metres.
        device: "cpu" or "cuda".
        batch_size: Pictures of one size that go through at once. Maps of another batch size differ by rounding.

    Raises:
        SpecialistError: A kind that is none.
    """

    auto_class = "AutoModelForDepthEstimation"

    def __init__(
        self,
        model: str | Path,
        *,
        kind: Kind,
        unit: Unit | None = None,
        device: Device = "cpu",
        batch_size: int = 1,
    ) -> None:
        super().__init__(model, device, batch_size)
        if kind not in ("inverse", "metric"):
            raise SpecialistError(f"kind is inverse or metric: what the network's numbers mean; got {kind!r}")
        self.kind: Kind = kind
        self.unit: Unit | None = unit or ("m" if kind == "metric" else None)

    @cached_property
    def fingerprint(self) -> str:
        """Of weights, processor and settings."""
        return self.hashed(f"depth {self.kind} {self.unit} {self.batch_size}")

    def estimate(self, pictures: Sequence[Image.Image]) -> list[DepthMap]:
        """A map of each RGB picture, in its own size.

        Raises:
            SpecialistError: The declared kind contradicts the model's config.
        """
        if not pictures:
            return []
        model, processor = self.loaded
        said = "metric" if model.config.model_type in _METRIC_ONLY else None
        said = {"relative": "inverse", "metric": "metric"}.get(
            getattr(model.config, "depth_estimation_type", None) or "", said
        )
        if said not in (None, self.kind):
            raise SpecialistError(f"{self.place} writes {said} depth, says its config; kind is declared as {self.kind}")
        maps: list[DepthMap | None] = [None] * len(pictures)
        for batch, output in self.outputs(pictures):
            sizes = [(pictures[index].height, pictures[index].width) for index in batch]
            if model.config.model_type == "zoedepth":
                padded = zip(output.predicted_depth, sizes, strict=True)
                results = [_remove_padding(one, size, processor.do_pad) for one, size in padded]
            else:
                found = processor.post_process_depth_estimation(output, target_sizes=sizes)
                results = [result["predicted_depth"] for result in found]
            for index, one in zip(batch, results, strict=True):
                values = one.float().cpu().numpy()
                maps[index] = DepthMap.from_array(
                    # Interpolation overshoots at edges; a metric depth below zero is not valid.
                    values.clip(min=0) if self.kind == "metric" else values,
                    kind=self.kind,
                    unit=self.unit,
                )
        return [depth_map for depth_map in maps if depth_map is not None]


def _remove_padding(depth: torch.Tensor, size: tuple[int, int], padded: bool) -> torch.Tensor:
    """ZoeDepth's map (h, w) of a picture that its processor had reflected beyond its edges, brought to the picture.

    As its own `post_process_depth_estimation` does, which needs torchvision: 3 sqrt(side / 2) pixels at each edge.
    """
    rows, columns = (int(math.sqrt(side / 2) * 3) if padded else 0 for side in size)
    whole = (size[0] + 2 * rows, size[1] + 2 * columns)
    resized = torch.nn.functional.interpolate(depth[None, None], whole, mode="bicubic", align_corners=False)[0, 0]
    return resized[rows : rows + size[0], columns : columns + size[1]]


class TransformersBoxes(_Pretrained):
    """DETR, RT-DETR, YOLOS and every other `AutoModelForObjectDetection`.

    Args:
        model: A folder or a hub id.
        score: Least confidence of a box, 0..1.
        device: "cpu" or "cuda".
        batch_size: As for `TransformersDepth`.

    Raises:
        SpecialistError: A threshold out of range.
    """

    auto_class = "AutoModelForObjectDetection"

    def __init__(self, model: str | Path, *, score: float = 0.5, device: Device = "cpu", batch_size: int = 1) -> None:
        super().__init__(model, device, batch_size)
        if not 0 < score <= 1:
            raise SpecialistError(f"score lies in (0, 1]; got {score}")
        self.score = score

    @cached_property
    def fingerprint(self) -> str:
        """Of weights, processor and settings."""
        return self.hashed(f"boxes {self.score} {self.batch_size}")

    def detect(self, pictures: Sequence[Image.Image], names: Sequence[str]) -> list[ImageBoxes]:
        """The boxes of each RGB picture, cut at its edges, best first."""
        if not pictures:
            return []
        model, processor = self.loaded
        categories = {int(number): str(name) for number, name in model.config.id2label.items()}
        found: list[ImageBoxes | None] = [None] * len(pictures)
        for batch, output in self.outputs(pictures):
            sizes = [(pictures[index].height, pictures[index].width) for index in batch]
            results = processor.post_process_object_detection(output, threshold=self.score, target_sizes=sizes)
            for index, one in zip(batch, results, strict=True):
                width, height = pictures[index].size
                boxes = one["boxes"].double().cpu()
                boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([width, height, width, height]).double())
                area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
                order = torch.argsort(-one["scores"].cpu(), stable=True)
                order = order[area[order]]
                labels = BoxLabels(
                    category_ids=tuple(one["labels"].cpu()[order].tolist()),
                    scores=tuple(one["scores"].cpu()[order].tolist()),
                    categories=categories,
                )
                found[index] = ImageBoxes(names[index], width, height, boxes[order].numpy(), labels)
        return [result for result in found if result is not None]
