"""Specialists in ONNX files, run by onnxruntime: monocular depth, and YOLOX's detector."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from perceptok.boxes import BoxLabels, ImageBoxes, ImageFrame, compute_iou
from perceptok.data.specialists.specialist import Device, file_fingerprint, require_rgb
from perceptok.depth import DepthMap, Kind, Unit
from perceptok.errors import MissingExtraError, SpecialistError

__all__ = ["OnnxDepth", "YoloxOnnx"]


_STRIDES = (8, 16, 32)


class _OnnxFile:
    """A session that is opened on first use, so that the specialist itself can be pickled."""

    def __init__(self, path: str | Path, device: Device, threads: int) -> None:
        self.path, self.device, self.threads = Path(path), device, threads
        if device not in ("cpu", "cuda"):
            raise SpecialistError(f"device is cpu or cuda; got {device!r}")

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "session"}

    @cached_property
    def session(self) -> Any:
        """The session; raises SpecialistError for a file that is none or a device that is not there."""
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("onnxruntime", "specialist", "a specialist in an ONNX file") from error
        options = onnxruntime.SessionOptions()
        # More threads would be in the way of worker processes.
        options.intra_op_num_threads = options.inter_op_num_threads = self.threads
        options.log_severity_level = 3
        wanted = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[self.device]
        if wanted not in onnxruntime.get_available_providers():
            raise SpecialistError(f"this onnxruntime has no {wanted}; install onnxruntime-gpu, or say device: cpu")
        if not self.path.is_file():
            raise SpecialistError(f"{self.path}: file not found")
        try:
            return onnxruntime.InferenceSession(str(self.path), options, providers=[wanted])
        except Exception as error:
            raise SpecialistError(f"{self.path}: not an ONNX file that runs here ({str(error)[:200]})") from error

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height of the picture that the network wants; raises SpecialistError where it is not fixed."""
        shape = self.session.get_inputs()[0].shape
        if len(shape) != 4 or not all(isinstance(side, int) for side in shape[2:]) or shape[1] != 3:
            raise SpecialistError(
                f"{self.path}: expected one input (batch, 3, height, width) of fixed size, got {shape}"
            )
        return shape[3], shape[2]

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """The first output of (B, 3, H, W) float32; one picture at a time where the file has room for one only."""
        entry = self.session.get_inputs()[0]
        step = entry.shape[0] if isinstance(entry.shape[0], int) else len(pixels)
        parts = [self.session.run(None, {entry.name: pixels[at : at + step]})[0] for at in range(0, len(pixels), step)]
        return np.concatenate(parts)


class OnnxDepth(_OnnxFile):
    """A depth network in an ONNX file: one picture in, resized to its input; one map out.

    Args:
        path: The file; its input is (1 or batch, 3, height, width) float32.
        kind: What its output says: "inverse" (larger = nearer) or "metric" (larger = farther). Never guessed.
        unit: Of a metric output.
        mean: Subtracted from red, green and blue in 0..255, before division by `std`. TCMonoDepth wants raw 0..255.
        std: See `mean`.
        device: "cpu" or "cuda".
        threads: Of onnxruntime.

    Raises:
        SpecialistError: A kind that is none.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        kind: Kind,
        unit: Unit | None = None,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        device: Device = "cpu",
        threads: int = 1,
    ) -> None:
        super().__init__(path, device, threads)
        if kind not in ("inverse", "metric"):
            raise SpecialistError(f"kind is inverse or metric: what the network's numbers mean; got {kind!r}")
        if kind == "metric" and unit is None:
            raise SpecialistError("a metric network has a unit; say unit: m (or mm, ...)")
        self.kind: Kind = kind
        self.unit = unit
        self.mean, self.std = tuple(mean), tuple(std)

    @cached_property
    def fingerprint(self) -> str:
        """Of the file's bytes and of what is done around it."""
        return file_fingerprint(self.path, f"depth {self.kind} {self.unit} {self.mean} {self.std}")

    def estimate(self, pictures: Sequence[Image.Image]) -> list[DepthMap]:
        """A map of each RGB picture, in the network's own size; raises SpecialistError for an output of other shape."""
        require_rgb(pictures)
        if not pictures:
            return []
        size = self.input_size
        resized = [np.asarray(picture.resize(size, Image.Resampling.BILINEAR)) for picture in pictures]
        mean, std = (np.array(values, dtype=np.float32) for values in (self.mean, self.std))
        pixels = (np.stack(resized).astype(np.float32) - mean) / std
        maps = self.run(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32))
        if maps.ndim == 4 and maps.shape[1] == 1:
            maps = maps[:, 0]
        if maps.ndim != 3 or len(maps) != len(pictures):
            raise SpecialistError(f"{self.path}: expected maps (batch, height, width), got {maps.shape}")
        return [DepthMap.from_array(depth_map, kind=self.kind, unit=self.unit) for depth_map in maps]


class YoloxOnnx(_OnnxFile):
    """A YOLOX detector (Megvii, Apache-2.0) in an ONNX file: BGR 0..255, letterboxed to the top left with 114.

    Args:
        path: The file; its output is (batch, anchors, 5 + classes), not yet decoded.
        classes: Name of each class.
        score: Least confidence of a box, 0..1.
        iou: Boxes of one class that overlap a better one by more are dropped.
        device: "cpu" or "cuda".
        threads: Of onnxruntime.

    Raises:
        SpecialistError: Thresholds out of range.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        classes: Sequence[str],
        score: float = 0.5,
        iou: float = 0.45,
        device: Device = "cpu",
        threads: int = 1,
    ) -> None:
        super().__init__(path, device, threads)
        if not (0 < score <= 1 and 0 < iou <= 1):
            raise SpecialistError(f"score and iou lie in (0, 1]; got {score}, {iou}")
        self.classes, self.score, self.iou = tuple(classes), score, iou

    @cached_property
    def fingerprint(self) -> str:
        """Of the file's bytes and of what is done around it."""
        return file_fingerprint(self.path, f"yolox {self.classes} {self.score} {self.iou}")

    def detect(self, pictures: Sequence[Image.Image], names: Sequence[str]) -> list[ImageBoxes]:
        """The boxes of each RGB picture, best first; raises SpecialistError for an output of other shape."""
        require_rgb(pictures)
        if not pictures:
            return []
        side = self.input_size[0]
        frames = [
            ImageFrame.letterbox(picture.size, side, fill=114, align="start", resample="bilinear")
            for picture in pictures
        ]
        boxed = [np.asarray(frame.apply(picture)) for frame, picture in zip(frames, pictures, strict=True)]
        pixels = np.stack(boxed)[..., ::-1].transpose(0, 3, 1, 2)
        raw = self.run(np.ascontiguousarray(pixels, dtype=np.float32))
        grid, stride = _anchors(side)
        if raw.ndim != 3 or raw.shape[1:] != (len(grid), 5 + len(self.classes)):
            raise SpecialistError(
                f"{self.path}: expected {(len(pictures), len(grid), 5 + len(self.classes))} (batch, anchors, "
                f"5 + classes), got {raw.shape}; are `classes` those of this network?"
            )
        centre, length = (raw[..., :2] + grid) * stride, np.exp(raw[..., 2:4]) * stride
        corners = np.concatenate([centre - length / 2, centre + length / 2], axis=-1).astype(np.float64)
        scores = raw[..., 4:5] * raw[..., 5:]
        return [
            self._select_boxes(name, picture.size, frame.to_image(boxes), confidence)
            for name, picture, frame, boxes, confidence in zip(names, pictures, frames, corners, scores, strict=True)
        ]

    def _select_boxes(self, name: str, size: tuple[int, int], boxes: np.ndarray, scores: np.ndarray) -> ImageBoxes:
        """What is left of one picture's anchors after the threshold and non-maximum suppression by class."""
        best = scores.argmax(axis=1)
        confidence = scores[np.arange(len(scores)), best]
        inside = np.clip(boxes, 0, np.array([*size, *size], dtype=np.float64))
        seen = (confidence >= self.score) & (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])
        kept: list[int] = []
        for at in sorted(np.flatnonzero(seen).tolist(), key=lambda index: -confidence[index]):
            rivals = [other for other in kept if best[other] == best[at]]
            if not rivals or compute_iou(inside[[at]], inside[rivals]).max() <= self.iou:
                kept.append(at)
        labels = BoxLabels(
            category_ids=tuple(int(best[at]) for at in kept),
            scores=tuple(float(confidence[at]) for at in kept),
            categories=dict(enumerate(self.classes)),
        )
        return ImageBoxes(name, *size, inside[kept], labels)


def _anchors(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each anchor the cell (A, 2) as x, y, and the stride (A, 1)."""
    cells, strides = [], []
    for stride in _STRIDES:
        rows, columns = np.mgrid[: side // stride, : side // stride]
        cells.append(np.stack([columns.ravel(), rows.ravel()], axis=1))
        strides.append(np.full((rows.size, 1), stride))
    return np.concatenate(cells), np.concatenate(strides)
