"""The frame of a Hugging Face image processor: read from its attributes, then verified on a test image.

The steps and their rounding are those of the Pillow and torchvision backends of transformers 5.23: pad to a square
(LLaVA), resize, crop or pad around the middle, pad at the bottom and right; or resize to whole patches (Qwen2-VL).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from perceptok.boxes.frames import RESAMPLING, FrameMode, ImageFrame, check_image_size
from perceptok.errors import BoxError

__all__ = ["infer_frame"]

_TILING = ("image_grid_pinpoints", "do_image_splitting", "crop_to_patches", "do_pan_and_scan")
"""Attributes of processors that make several images, or patches, of an image."""

_MAX_DEVIATION = 0.01
"""Mean deviation of a channel of the test image, as a fraction of its range: a shift by one pixel gives 0.03."""

_WAVELENGTH = 32
"""Of the test image's waves, in pixels of the frame."""


def infer_frame(processor: Any, image_size: tuple[int, int], *, verify: bool = True) -> ImageFrame:
    """The frame of a Hugging Face image processor for images of one size.

    Args:
        processor: One that makes a single square image of an image by resizing, cropping and padding, such as those of
            CLIP, SigLIP, ViT or LLaVA-1.5, or one that cuts it into patches after a resize, such as those of Qwen2-VL,
            Qwen2.5-VL and Qwen3-VL, or a processor that has one as `image_processor`.
        image_size: Width and height of the original in pixels.
        verify: Send a test image of this size through the processor and compare it with `ImageFrame.apply`; some 10 ms
            for 640x480. Only this finds processors that do not do what their attributes say.

    Raises:
        BoxError: The processor makes several tiles of an image, or an image that is not square (and not patches), or
            does something else than its attributes say.
    """
    processor = getattr(processor, "image_processor", processor)
    name = type(processor).__name__
    tiling = [attribute for attribute in _TILING if getattr(processor, attribute, None)]
    if tiling:
        raise BoxError(f"{name} makes several tiles of an image ({', '.join(tiling)}); a frame needs one image")
    makes_patches = bool(getattr(processor, "merge_size", None))
    read = _read_patches if makes_patches else _read_single_image
    frame = read(processor, name, check_image_size(image_size))
    if verify:
        (_verify_patches if makes_patches else _verify_single_image)(processor, name, frame)
    return frame


def _read_single_image(processor: Any, name: str, image_size: tuple[int, int]) -> ImageFrame:
    mode: FrameMode = "squash"
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    fill: tuple[int, ...] = (0,)
    do_pad = bool(getattr(processor, "do_pad", False))
    if do_pad and hasattr(processor, "pad_to_square"):
        mode, do_pad = "letterbox", False
        side = max(image_size)
        left, top = (side - image_size[0]) // 2, (side - image_size[1]) // 2
        padding = (left, top, side - image_size[0] - left, side - image_size[1] - top)
        fill = tuple(int(mean * 255) for mean in getattr(processor, "image_mean", None) or (0,))
    shape = (image_size[0] + padding[0] + padding[2], image_size[1] + padding[1] + padding[3])
    if getattr(processor, "do_resize", False):
        shape = _compute_resized(_read_size(getattr(processor, "size", None)), shape, name)
    frame_shape, offset = shape, (0, 0)
    if getattr(processor, "do_center_crop", False):
        mode = "center_crop" if mode == "squash" else mode
        frame_shape = _read_width_height(getattr(processor, "crop_size", None), name)
        torchvision = getattr(processor, "backend", "pil") == "torchvision"
        offset = (_center(shape[0], frame_shape[0], torchvision), _center(shape[1], frame_shape[1], torchvision))
    if do_pad and getattr(processor, "pad_size", None):
        mode = "letterbox" if mode == "squash" else mode
        if getattr(processor, "do_normalize", False):  # the zeros are added after normalisation
            fill = tuple(round(mean * 255) for mean in processor.image_mean)
        frame_shape = _read_width_height(processor.pad_size, name)
    if frame_shape[0] != frame_shape[1]:
        raise BoxError(
            f"{name} makes an image of {frame_shape} (width, height) of an image of {image_size}; a frame is square: "
            "set the processor's size to one height and width, or let it crop or pad to a square"
        )
    resample = _read_resample(getattr(processor, "resample", None))
    return ImageFrame(mode, image_size, frame_shape[0], shape, offset, padding, fill, resample)


def _read_patches(processor: Any, name: str, image_size: tuple[int, int]) -> ImageFrame:
    """The frame of a processor that resizes to whole patches, which it then takes apart, as Qwen2-VL's does."""
    size, patch = _read_size(getattr(processor, "size", None)), getattr(processor, "patch_size", None)
    if size.keys() != {"shortest_edge", "longest_edge"} or not isinstance(patch, int):
        raise BoxError(
            f"{name} makes patches of an image with {size or 'no size'}; a frame can be read from patch_size, "
            "merge_size and a size with shortest_edge and longest_edge (areas in pixels, as Qwen2-VL has them)"
        )
    resample = _read_resample(getattr(processor, "resample", None))
    if not getattr(processor, "do_resize", False):
        return ImageFrame("squash", image_size, image_size[0], image_size, resample=resample, size_y=image_size[1])
    return ImageFrame.smart_resize(
        image_size,
        factor=patch * int(processor.merge_size),
        min_pixels=size["shortest_edge"],
        max_pixels=size["longest_edge"],
        resample=resample,
    )


def _read_size(size: Any) -> dict[str, int]:
    """A size as transformers keeps it (a dict, its own SizeDict, or a number), without what is not set."""
    if size is None:
        return {}
    if isinstance(size, int):
        return {"height": size, "width": size}
    pairs = size.items() if isinstance(size, Mapping) else iter(size)
    return {key: int(value) for key, value in pairs if value is not None}


def _read_width_height(size: Any, name: str) -> tuple[int, int]:
    sizes = _read_size(size)
    if sizes.keys() != {"height", "width"}:
        raise BoxError(f"{name} crops or pads to {sizes or 'no size'}; a frame can be read from height and width")
    return sizes["width"], sizes["height"]


def _compute_resized(size: dict[str, int], shape: tuple[int, int], name: str) -> tuple[int, int]:
    width, height = shape
    short, long = min(shape), max(shape)
    match sorted(size):
        case ["height", "width"]:
            return size["width"], size["height"]
        case ["shortest_edge"]:
            edges = size["shortest_edge"], int(size["shortest_edge"] * long / short)
        case ["longest_edge", "shortest_edge"]:
            shortest, longest = size["shortest_edge"], size["longest_edge"]
            edges = shortest, int(shortest * long / short)
            if long / short * shortest > longest:  # the longer edge would exceed its limit
                exact = longest * short / long
                edges = round(exact), int(exact * long / short)
        case ["max_height", "max_width"]:
            factor = min(size["max_height"] / height, size["max_width"] / width)
            return int(width * factor), int(height * factor)
        case _:
            raise BoxError(
                f"{name} resizes to {size or 'no size'}; a frame can be read from height and width, or shortest_edge"
            )
    return edges if width <= height else (edges[1], edges[0])


def _center(length: int, frame: int, torchvision: bool) -> int:
    """Offset of a centred edge: an odd pixel is cropped at the end; Pillow's backend pads it at the start."""
    if torchvision and length < frame:
        return (frame - length) // 2
    return -((length - frame) // 2)


def _read_resample(resample: Any) -> str:
    if resample is None:
        return "bilinear"
    value = getattr(resample, "value", resample)
    name = value if isinstance(value, str) else Image.Resampling(value).name.lower()
    if name not in RESAMPLING:
        raise BoxError(f"the image processor resizes with {resample!r}; expected one of {', '.join(RESAMPLING)}")
    return name


def _verify_single_image(processor: Any, name: str, frame: ImageFrame) -> None:
    """Compare the processor's output for a test image with its output for the framed test image, left as it is."""
    image = _make_test_image(frame)
    unchanged = {"do_resize": False, "do_center_crop": False, "do_pad": False}
    try:
        actual = np.asarray(processor(image, return_tensors="np")["pixel_values"], np.float64)
        framed = processor(frame.apply(image), return_tensors="np", **unchanged)
        expected = np.asarray(framed["pixel_values"], np.float64)
    except Exception as error:  # a processor of any project raises anything
        raise BoxError(
            f"{name} makes no pixel_values of an image of {frame.image_size} ({type(error).__name__}: {error}); "
            "build the frame by hand"
        ) from error
    if actual.shape != expected.shape:
        raise BoxError(
            f"{name} makes {actual.shape} of an image of {frame.image_size}, its attributes say {expected.shape}; "
            "a frame needs one image"
        )
    left, top, right, bottom = map(round, frame.window)  # padding has a colour, but no geometry
    shown = np.s_[..., top : max(bottom, top + 1), left : max(right, left + 1)]
    deviations = np.abs(actual - expected)[shown].mean(axis=(-2, -1))
    deviation = float(deviations.max() / max(float(np.ptp(expected)), 1e-12))
    if deviation > _MAX_DEVIATION:
        raise BoxError(
            f"{name} does not do what its attributes say: its output for an image of {frame.image_size} deviates from "
            f"that of {frame} by {deviation:.1%}; build the frame by hand"
        )


def _verify_patches(processor: Any, name: str, frame: ImageFrame) -> None:
    """Compare patches in the same way: their grid gives the shape, and those of the framed image have equal values."""
    image = _make_test_image(frame)
    try:
        outputs = (
            processor(image, return_tensors="np"),
            processor(frame.apply(image), return_tensors="np", do_resize=False),
        )
        grid, framed_grid = (np.asarray(output["image_grid_thw"]).reshape(-1).tolist() for output in outputs)
        actual, expected = (np.asarray(output["pixel_values"], np.float64) for output in outputs)
    except Exception as error:  # a processor of any project raises anything
        raise BoxError(
            f"{name} makes no patches of an image of {frame.image_size} ({type(error).__name__}: {error}); build the "
            "frame by hand (ImageFrame.smart_resize)"
        ) from error
    rows, columns = (side // processor.patch_size for side in frame.shape[::-1])
    deviation = 1.0
    if actual.shape == expected.shape:
        deviation = np.abs(actual - expected).mean() / max(float(np.ptp(expected)), 1e-12)
    if grid != framed_grid or grid[-2:] != [rows, columns] or deviation > _MAX_DEVIATION:
        raise BoxError(
            f"{name} does not do what its attributes say: it makes patches {grid} of an image of "
            f"{frame.image_size}, its attributes say {[1, rows, columns]}; build the frame by hand"
        )


def _make_test_image(frame: ImageFrame) -> Image.Image:
    """Triangle waves on a ramp, along x in red and along y in green, on full blue."""
    width, height = frame.image_size
    pixels = np.full((height, width, 3), 255, dtype=np.uint8)
    pixels[..., 0] = _make_waves(width, frame.scale[0])[None, :]
    pixels[..., 1] = _make_waves(height, frame.scale[1])[:, None]
    return Image.fromarray(pixels)


def _make_waves(length: int, scale: float) -> np.ndarray:
    phase = (np.arange(length) + 0.5) / max(_WAVELENGTH / scale, 4.0) % 1
    # The ramp distinguishes the ends, and one wave from the next.
    return np.asarray(127 * np.abs(2 * phase - 1) + np.linspace(0, 127, length)).astype(np.uint8)
