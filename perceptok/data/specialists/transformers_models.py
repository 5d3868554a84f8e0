"""Specialists from transformers: any depth estimator and any object detector that its auto classes load."""

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
from perceptok.checkpoints import check_checkpoint_folder
from perceptok.data.specialists.specialist import Device, make_test_image, require_rgb
from perceptok.depth import DepthMap, Kind, Unit
from perceptok.errors import CheckpointError, SpecialistError, quote_error
from perceptok.hub import download_checkpoint, is_hub_id

__all__ = ["TransformersBoxes", "TransformersDepth"]

_METRIC_ONLY = ("zoedepth",)


class _Pretrained:
    """A model and its image processor, loaded on first use, so that the specialist itself can be pickled.

    Attributes:
        auto_class: The class of transformers that loads the model.
        post_process: The method of its image processor that converts the model's output.
    """

    auto_class: str
    post_process: str

    def __init__(self, model: str | Path, device: Device, batch_size: int) -> None:
        if batch_size < 1:
            raise SpecialistError(f"batch_size is 1 or more images; got {batch_size}")
        self.name_or_path, self.device, self.batch_size = str(model), device, batch_size

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("model_and_processor", "fingerprint")}

    @cached_property
    def model_and_processor(self) -> tuple[Any, Any]:
        """The model and its image processor, checked with a test image.

        Code that comes with a model is never run, and there is no option to run it.

        Raises:
            SpecialistError: They cannot be loaded, are of another task, or do not fit each other.
        """
        import transformers

        auto_model = getattr(transformers, self.auto_class)
        auto_processor: Any = transformers.AutoImageProcessor
        options = {"trust_remote_code": False, "local_files_only": True}
        try:
            source = self.name_or_path
            folder = download_checkpoint(source) if is_hub_id(source) else Path(source)
            check_checkpoint_folder(folder, self.auto_class)
            model, loaded = auto_model.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **options)
            processor = auto_processor.from_pretrained(folder, **options)
            model = model.eval().to(self.device)
        except CheckpointError as error:
            raise SpecialistError(str(error)) from error
        except Exception as error:  # a damaged configuration can make transformers raise anything
            raise SpecialistError(
                f"{self.name_or_path}: cannot be loaded as {self.auto_class} ({quote_error(error)}); use a model of a "
                "class that transformers has, since code that comes with a model is never run"
            ) from error
        self._check_task(model, processor, sorted(loaded["missing_keys"]))
        self._check_test_image(model, processor)
        return model, processor

    def _check_task(self, model: Any, processor: Any, missing_weights: list[str]) -> None:
        """Raise SpecialistError for a checkpoint or an image processor of another task."""
        name = type(model).__name__
        if missing_weights:
            raise SpecialistError(
                f"{self.name_or_path}: {len(missing_weights)} weights of {name} are missing, such as "
                f"{missing_weights[0]}; this is a checkpoint of another task"
            )
        architectures = model.config.architectures or [name]
        task = self.auto_class.removeprefix("AutoModel")
        if not any(architecture.endswith(task) for architecture in architectures):
            raise SpecialistError(
                f"{self.name_or_path} is a checkpoint of {', '.join(architectures)} according to its config, not of a "
                f"model {task}; use a checkpoint of {name}"
            )
        if not hasattr(processor, self.post_process):
            raise SpecialistError(
                f"{self.name_or_path}: its image processor {type(processor).__name__} has no {self.post_process}; it "
                "is that of another task: save the model's own image processor with it"
            )
        self.check_config(model.config)

    def check_config(self, config: Any) -> None:
        """Raise SpecialistError where the model's config contradicts the settings."""

    def _check_test_image(self, model: Any, processor: Any) -> None:
        """Raise SpecialistError unless the model's output for a test image is that of its task."""
        output = self._run(model, processor, [make_test_image()])
        if problem := self.find_problem(output, model.config):
            raise SpecialistError(f"{self.name_or_path}: for a test image, {problem}")

    def find_problem(self, output: Any, config: Any) -> str:
        """Say why a model's output for one image is not that of its task; empty where it is."""
        raise NotImplementedError

    def _run(self, model: Any, processor: Any, images: Sequence[Image.Image]) -> Any:
        try:
            inputs = processor(images=list(images), return_tensors="pt").to(self.device)
            with torch.inference_mode():
                return model(**inputs)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
            width, height = images[0].size
            raise SpecialistError(
                f"{self.name_or_path}: {type(model).__name__} cannot be run on an image of {width}x{height} pixels "
                f"with its {type(processor).__name__} ({quote_error(error)})"
            ) from error

    def compute_fingerprint(self, settings: str) -> str:
        """Hash every weight, the processor's settings and ours."""
        model, processor = self.model_and_processor
        digest = hashlib.sha256(
            f"{processor.to_json_string()} {model.config.to_json_string(False)} {settings}".encode()
        )
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def run_batches(self, images: Sequence[Image.Image]) -> Iterator[tuple[list[int], Any]]:
        """Run the model on batches of images of one size; yields their indices and the model's output."""
        require_rgb(images)
        model, processor = self.model_and_processor
        groups: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(images):
            groups.setdefault(image.size, []).append(index)
        for group in groups.values():
            for start in range(0, len(group), self.batch_size):
                batch = group[start : start + self.batch_size]
                yield batch, self._run(model, processor, [images[index] for index in batch])


class TransformersDepth(_Pretrained):
    """Depth Anything V2, DPT, ZoeDepth and every other `AutoModelForDepthEstimation`.

    Args:
        model: A folder or a hub id.
        kind: Kind of its output: "inverse" (larger = nearer) or "metric" (larger = farther). Never guessed; one that
            contradicts the model's config is refused.
        unit: Unit of a metric output; default: metres, which these models give.
        device: "cpu" or "cuda".
        batch_size: Images of one size in a batch. Maps made with other batch sizes differ by rounding.

    Raises:
        SpecialistError: An unknown kind, or a batch size below 1.
    """

    auto_class = "AutoModelForDepthEstimation"
    post_process = "post_process_depth_estimation"

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
            raise SpecialistError(f"kind is inverse or metric, what the network's numbers mean; got {kind!r}")
        self.kind: Kind = kind
        self.unit: Unit | None = unit or ("m" if kind == "metric" else None)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of weights, processor and settings."""
        return self.compute_fingerprint(f"depth {self.kind} {self.unit} {self.batch_size}")

    def find_problem(self, output: Any, config: Any) -> str:  # noqa: ARG002
        """Say why a model's output for one image is not a depth map; empty where it is."""
        depth = getattr(output, "predicted_depth", None)
        if depth is None or depth.ndim != 3 or len(depth) != 1 or min(depth.shape) < 1:
            shape = None if depth is None else tuple(depth.shape)
            return f"expected `predicted_depth` (batch, height, width); got {shape}"
        if not depth.isfinite().any():
            return "its depth map has no finite number; are the weights damaged?"
        return ""

    def estimate(self, images: Sequence[Image.Image]) -> list[DepthMap]:
        """Estimate a map of each RGB image, in the image's size.

        Raises:
            SpecialistError: The declared kind contradicts the model's config, or the model cannot be loaded or run.
            DepthMapError: The numbers of a map are not depth of the declared kind.
        """
        if not images:
            return []
        model, processor = self.model_and_processor
        maps: list[DepthMap | None] = [None] * len(images)
        for batch, output in self.run_batches(images):
            sizes = [(images[index].height, images[index].width) for index in batch]
            if model.config.model_type == "zoedepth":
                padded = zip(output.predicted_depth, sizes, strict=True)
                results = [_remove_padding(depth, size, processor.do_pad) for depth, size in padded]
            else:
                processed = processor.post_process_depth_estimation(output, target_sizes=sizes)
                results = [result["predicted_depth"] for result in processed]
            for index, depth in zip(batch, results, strict=True):
                values = depth.float().cpu().numpy()
                maps[index] = DepthMap.from_array(
                    # Interpolation overshoots at edges; a metric depth below zero is not valid.
                    values.clip(min=0) if self.kind == "metric" else values,
                    kind=self.kind,
                    unit=self.unit,
                )
        return [depth_map for depth_map in maps if depth_map is not None]

    def check_config(self, config: Any) -> None:
        """Raise SpecialistError where the model's config states another kind than the declared one."""
        by_type = "metric" if config.model_type in _METRIC_ONLY else None
        stated = {"relative": "inverse", "metric": "metric"}.get(
            getattr(config, "depth_estimation_type", None) or "", by_type
        )
        if stated not in (None, self.kind):
            raise SpecialistError(
                f"{self.name_or_path} gives {stated} depth according to its config, but kind is declared as "
                f"{self.kind}; declare kind: {stated}, or use a model of {self.kind} depth"
            )


def _remove_padding(depth: torch.Tensor, size: tuple[int, int], padded: bool) -> torch.Tensor:
    """Remove from ZoeDepth's map (h, w) the reflected edges that its processor added, and resize it to the image.

    Its own `post_process_depth_estimation` does this with torchvision: 3 sqrt(side / 2) pixels at each edge.
    """
    rows, columns = (int(math.sqrt(side / 2) * 3) if padded else 0 for side in size)
    whole = (size[0] + 2 * rows, size[1] + 2 * columns)
    resized = torch.nn.functional.interpolate(depth[None, None], whole, mode="bicubic", align_corners=False)[0, 0]
    return resized[rows : rows + size[0], columns : columns + size[1]]


class TransformersBoxes(_Pretrained):
    """DETR, RT-DETR, YOLOS and every other `AutoModelForObjectDetection`.

    Args:
        model: A folder or a hub id.
        score_threshold: Minimum confidence of a box, in (0, 1].
        device: "cpu" or "cuda".
        batch_size: Images of one size in a batch. Boxes found with other batch sizes differ by rounding.

    Raises:
        SpecialistError: A threshold out of range, or a batch size below 1.
    """

    auto_class = "AutoModelForObjectDetection"
    post_process = "post_process_object_detection"

    def __init__(
        self, model: str | Path, *, score_threshold: float = 0.5, device: Device = "cpu", batch_size: int = 1
    ) -> None:
        super().__init__(model, device, batch_size)
        if not 0 < score_threshold <= 1:
            raise SpecialistError(f"score_threshold lies in (0, 1]; got {score_threshold}")
        self.score_threshold = score_threshold

    @cached_property
    def fingerprint(self) -> str:
        """Hash of weights, processor and settings."""
        return self.compute_fingerprint(f"boxes {self.score_threshold} {self.batch_size}")

    def find_problem(self, output: Any, config: Any) -> str:
        """Say why a model's output for one image is not that of a detector; empty where it is."""
        logits, boxes = getattr(output, "logits", None), getattr(output, "pred_boxes", None)
        if logits is None or boxes is None or logits.ndim != 3 or tuple(boxes.shape) != (*logits.shape[:2], 4):
            shapes = [None if values is None else tuple(values.shape) for values in (logits, boxes)]
            return f"expected `logits` (batch, queries, classes) and `pred_boxes` (batch, queries, 4); got {shapes}"
        classes = len(config.id2label)
        if logits.shape[2] not in (classes, classes + 1):  # with or without a class of no object
            return f"its logits are of {logits.shape[2]} classes, but its config names {classes} (id2label)"
        if not (logits.isfinite().all() and boxes.isfinite().all()):
            return "its logits or boxes are not finite; are the weights damaged?"
        return ""

    def detect(self, images: Sequence[Image.Image], names: Sequence[str]) -> list[ImageBoxes]:
        """Detect the boxes of each RGB image, clipped at its edges, the highest score first.

        Raises:
            SpecialistError: The model cannot be loaded or run.
        """
        if not images:
            return []
        model, processor = self.model_and_processor
        categories: dict[int | str, str] = {int(number): str(name) for number, name in model.config.id2label.items()}
        detected: list[ImageBoxes | None] = [None] * len(images)
        for batch, output in self.run_batches(images):
            sizes = [(images[index].height, images[index].width) for index in batch]
            results = processor.post_process_object_detection(
                output, threshold=self.score_threshold, target_sizes=sizes
            )
            for index, result in zip(batch, results, strict=True):
                width, height = images[index].size
                boxes = result["boxes"].double().cpu()
                boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([width, height, width, height]).double())
                has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
                order = torch.argsort(-result["scores"].cpu(), stable=True)
                order = order[has_area[order]]
                labels = BoxLabels(
                    category_ids=tuple(result["labels"].cpu()[order].tolist()),
                    scores=tuple(result["scores"].cpu()[order].tolist()),
                    categories=categories,
                )
                detected[index] = ImageBoxes(names[index], width, height, boxes[order].numpy(), labels)
        return [boxes for boxes in detected if boxes is not None]
