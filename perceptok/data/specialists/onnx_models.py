"""Specialists in ONNX files, run by onnxruntime: monocular depth, and the detector YOLOX."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from perceptok.boxes import BoxLabels, ImageBoxes, ImageFrame, compute_iou
from perceptok.data.specialists.specialist import Device, hash_file_and_settings, make_test_image, require_rgb
from perceptok.depth import DepthMap, Kind, Unit
from perceptok.errors import MissingExtraError, SpecialistError, quote_error

__all__ = ["OnnxDepth", "YoloxOnnx"]

_STRIDES = (8, 16, 32)

_MAX_INPUT = 2**26
"""Values of a batch: one image of 4,700 x 4,700 pixels."""

_ASPECT_TOLERANCE = 0.02
"""Relative difference between the aspect ratios of a network's input and its depth map, for rounded sides."""


class _OnnxFile:
    """A session that is opened and checked on first use, so that the specialist itself can be pickled."""

    def __init__(self, path: str | Path, device: Device, threads: int) -> None:
        self.path, self.device, self.threads = Path(path), device, threads
        if device not in ("cpu", "cuda"):
            raise SpecialistError(f"device is cpu or cuda; got {device!r}")

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("session", "_input_size")}

    @cached_property
    def session(self) -> Any:
        """The session, checked with a test image.

        Raises:
            SpecialistError: The file is not valid ONNX, its inputs or outputs are not those of such a network, or the
                device is not available.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("onnxruntime", "specialist", "a specialist in an ONNX file") from error
        options = onnxruntime.SessionOptions()
        # By default one thread: worker processes already use all cores.
        options.intra_op_num_threads = options.inter_op_num_threads = self.threads
        options.log_severity_level = 3
        provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[self.device]
        if provider not in onnxruntime.get_available_providers():
            raise SpecialistError(f"this onnxruntime has no {provider}; install onnxruntime-gpu, or set device: cpu")
        if not self.path.is_file():
            raise SpecialistError(f"{self.path}: file not found")
        try:
            session = onnxruntime.InferenceSession(str(self.path), options, providers=[provider])
        except Exception as error:
            raise SpecialistError(f"{self.path}: not an ONNX file that runs here ({quote_error(error)})") from error
        self._check_inputs(session)
        pixels = _make_test_pixels(session)
        self._input_size = pixels.shape[3], pixels.shape[2]
        self.check_output(self._run(session, pixels), len(pixels))
        return session

    def _check_inputs(self, session: Any) -> None:
        inputs = session.get_inputs()
        shape = inputs[0].shape
        is_image = len(shape) == 4 and all(isinstance(side, int) for side in shape[2:]) and shape[1] == 3
        if len(inputs) != 1 or not is_image or inputs[0].type != "tensor(float)":
            found = ", ".join(f"{entry.name} {entry.type} {entry.shape}" for entry in inputs)
            raise SpecialistError(
                f"{self.path}: expected one input (batch, 3, height, width) of float32 and fixed size, got {found}"
            )
        sizes = [side for side in shape if isinstance(side, int)]
        if min(sizes) < 1 or math.prod(sizes) > _MAX_INPUT:
            raise SpecialistError(f"{self.path}: its input is {shape}; at most {_MAX_INPUT} values are given to it")

    def check_output(self, output: np.ndarray, count: int) -> None:
        """Raise SpecialistError unless the first output, for that number of images, is that of such a network."""
        raise NotImplementedError

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height of the network's input."""
        _ = self.session
        return self._input_size

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """Compute the first output for (B, 3, H, W) float32, in batches of the size that the file fixes, if it does.

        Raises:
            SpecialistError: onnxruntime cannot run the network, or the output is not that of such a network.
        """
        output = self._run(self.session, pixels)
        self.check_output(output, len(pixels))
        return output

    def _run(self, session: Any, pixels: np.ndarray) -> np.ndarray:
        entry = session.get_inputs()[0]
        batch_size = entry.shape[0] if isinstance(entry.shape[0], int) else len(pixels)
        batches = [pixels[start : start + batch_size] for start in range(0, len(pixels), batch_size)]
        try:
            outputs = [np.asarray(session.run(None, {entry.name: batch})[0]) for batch in batches]
            return np.concatenate(outputs)
        except Exception as error:  # onnxruntime's exceptions have no common class
            raise SpecialistError(f"{self.path}: cannot be run on an image ({quote_error(error)})") from error


def _make_test_pixels(session: Any) -> np.ndarray:
    """A batch of equal test images, (B, 3, H, W) float32 in 0..255."""
    batch, _, height, width = session.get_inputs()[0].shape
    image = np.asarray(make_test_image((width, height)), dtype=np.float32).transpose(2, 0, 1)
    return np.tile(image, (batch if isinstance(batch, int) else 1, 1, 1, 1))


class OnnxDepth(_OnnxFile):
    """A depth network in an ONNX file: takes images resized to its input and gives a map of each.

    Args:
        path: The file; its input is (1 or batch, 3, height, width) float32.
        kind: Kind of its output: "inverse" (larger = nearer) or "metric" (larger = farther). Never guessed.
        unit: Unit of a metric output.
        mean: Subtracted from red, green and blue in 0..255. TCMonoDepth takes 0..255 as they are.
        std: Red, green and blue are divided by it after the subtraction.
        device: "cpu" or "cuda".
        threads: Threads of onnxruntime.

    Raises:
        SpecialistError: An unknown kind or device, or a metric kind without a unit.
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
            raise SpecialistError(f"kind is inverse or metric, what the network's numbers mean; got {kind!r}")
        if kind == "metric" and unit is None:
            raise SpecialistError("a metric network has a unit; set unit: m (or mm, ...)")
        self.kind: Kind = kind
        self.unit = unit
        self.mean, self.std = tuple(mean), tuple(std)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the file's bytes and the settings."""
        return hash_file_and_settings(self.path, f"depth {self.kind} {self.unit} {self.mean} {self.std}")

    def estimate(self, images: Sequence[Image.Image]) -> list[DepthMap]:
        """Estimate a map of each RGB image, in the network's own resolution.

        Raises:
            SpecialistError: An image is not RGB, or the network's output is not (batch, height, width), or not of the
                aspect ratio of its input.
        """
        require_rgb(images)
        if not images:
            return []
        size = self.input_size
        resized = [np.asarray(image.resize(size, Image.Resampling.BILINEAR)) for image in images]
        mean, std = (np.array(values, dtype=np.float32) for values in (self.mean, self.std))
        pixels = (np.stack(resized).astype(np.float32) - mean) / std
        maps = self.run(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32))
        maps = maps[:, 0] if maps.ndim == 4 else maps
        return [DepthMap.from_array(depth_map, kind=self.kind, unit=self.unit) for depth_map in maps]

    def check_output(self, output: np.ndarray, count: int) -> None:
        """Raise SpecialistError unless an output is that of a depth network.

        Args:
            output: (count, H, W) or (count, 1, H, W) of floats, of the input's aspect ratio.
            count: Number of images.
        """
        maps = output[:, 0] if output.ndim == 4 and output.shape[1] == 1 else output
        if maps.ndim != 3 or len(maps) != count or maps.dtype.kind != "f":
            raise SpecialistError(
                f"{self.path}: expected maps (batch, height, width) of floats, got {maps.dtype} {maps.shape}; is this "
                "a network that estimates depth?"
            )
        (rows, columns), (width, height) = maps.shape[1:], self._input_size
        if abs(rows * width - columns * height) > _ASPECT_TOLERANCE * max(rows * width, columns * height):
            raise SpecialistError(
                f"{self.path}: expected maps of the shape of the input, {height}x{width} (height x width) or the same "
                f"in another resolution, got {maps.shape}; is this a network that estimates depth?"
            )
        if not np.isfinite(maps).any():
            raise SpecialistError(f"{self.path}: its maps have no finite number; do mean and std fit the network?")


class YoloxOnnx(_OnnxFile):
    """A YOLOX detector (Megvii, Apache-2.0) in an ONNX file: BGR 0..255, letterboxed to the top left with 114.

    Args:
        path: The file; its output is (batch, anchors, 5 + classes), not yet decoded.
        classes: Name of each class.
        score_threshold: Minimum confidence of a box, in (0, 1].
        iou_threshold: For non-maximum suppression within a class, in (0, 1].
        device: "cpu" or "cuda".
        threads: Threads of onnxruntime.

    Raises:
        SpecialistError: A threshold out of range, or an unknown device.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        classes: Sequence[str],
        score_threshold: float = 0.5,
        iou_threshold: float = 0.45,
        device: Device = "cpu",
        threads: int = 1,
    ) -> None:
        super().__init__(path, device, threads)
        if not (0 < score_threshold <= 1 and 0 < iou_threshold <= 1):
            raise SpecialistError(
                f"score_threshold and iou_threshold lie in (0, 1]; got {score_threshold} and {iou_threshold}"
            )
        self.classes = tuple(classes)
        self.score_threshold, self.iou_threshold = score_threshold, iou_threshold

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the file's bytes and the settings."""
        return hash_file_and_settings(self.path, f"yolox {self.classes} {self.score_threshold} {self.iou_threshold}")

    def detect(self, images: Sequence[Image.Image], names: Sequence[str]) -> list[ImageBoxes]:
        """Detect the boxes of each RGB image, the highest score first.

        Raises:
            SpecialistError: An image is not RGB, or the output does not fit `classes`.
        """
        require_rgb(images)
        if not images:
            return []
        side = self.input_size[0]
        frames = [
            ImageFrame.letterbox(image.size, side, fill=114, align="start", resample="bilinear") for image in images
        ]
        framed = [np.asarray(frame.apply(image)) for frame, image in zip(frames, images, strict=True)]
        pixels = np.stack(framed)[..., ::-1].transpose(0, 3, 1, 2)
        raw = self.run(np.ascontiguousarray(pixels, dtype=np.float32))
        grid, stride = _make_anchors(side)
        centre, length = (raw[..., :2] + grid) * stride, np.exp(raw[..., 2:4]) * stride
        corners = np.concatenate([centre - length / 2, centre + length / 2], axis=-1).astype(np.float64)
        scores = raw[..., 4:5] * raw[..., 5:]
        return [
            self._select_boxes(name, image.size, frame.to_image(boxes), confidence)
            for name, image, frame, boxes, confidence in zip(names, images, frames, corners, scores, strict=True)
        ]

    def check_output(self, output: np.ndarray, count: int) -> None:
        """Raise SpecialistError unless an output is that of a YOLOX network.

        Args:
            output: (count, anchors, 5 + classes) of floats, the confidences in 0..1.
            count: Number of images.
        """
        width, height = self._input_size
        expected = (count, len(_make_anchors(width)[0]), 5 + len(self.classes))
        if width != height or output.shape != expected:
            raise SpecialistError(
                f"{self.path}: expected {expected} (batch, anchors, 5 + classes) for a square input, got "
                f"{output.shape} for {width}x{height}; is this a YOLOX network, and are `classes` its own?"
            )
        confidences = output[..., 4:]
        if not (np.isfinite(output).all() and confidences.min() >= 0 and confidences.max() <= 1):
            raise SpecialistError(f"{self.path}: its confidences do not lie in 0..1; is this a YOLOX network?")

    def _select_boxes(self, name: str, size: tuple[int, int], boxes: np.ndarray, scores: np.ndarray) -> ImageBoxes:
        """Apply the threshold, and non-maximum suppression within each class, to one image's anchors."""
        classes = scores.argmax(axis=1)
        confidence = scores[np.arange(len(scores)), classes]
        clipped = np.clip(boxes, 0, np.array([*size, *size], dtype=np.float64))
        has_area = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
        candidates = np.flatnonzero(has_area & (confidence >= self.score_threshold)).tolist()
        accepted: list[int] = []
        for anchor in sorted(candidates, key=lambda index: -confidence[index]):
            same_class = [other for other in accepted if classes[other] == classes[anchor]]
            if not same_class or compute_iou(clipped[[anchor]], clipped[same_class]).max() <= self.iou_threshold:
                accepted.append(anchor)
        labels = BoxLabels(
            category_ids=tuple(int(classes[anchor]) for anchor in accepted),
            scores=tuple(float(confidence[anchor]) for anchor in accepted),
            categories=dict(enumerate(self.classes)),
        )
        return ImageBoxes(name, *size, clipped[accepted], labels)


def _make_anchors(side: int) -> tuple[np.ndarray, np.ndarray]:
    """The cell of each anchor (A, 2) as x, y, and its stride (A, 1)."""
    cells, strides = [], []
    for stride in _STRIDES:
        rows, columns = np.mgrid[: side // stride, : side // stride]
        cells.append(np.stack([columns.ravel(), rows.ravel()], axis=1))
        strides.append(np.full((rows.size, 1), stride))
    return np.concatenate(cells), np.concatenate(strides)
