"""The frame of a Hugging Face image processor: read from its attributes, then checked on a test picture.

The steps and their rounding are those of the Pillow and torchvision backends of transformers 5.23: pad to a square
(LLaVA), resize, cut out or pad around the middle, pad at the bottom and right; or resize to whole patches (Qwen2-VL).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from perceptok.boxes.frames.picture import RESAMPLING, framed_picture
from perceptok.boxes.frames.placement import Mode, Placement, checked_image_size, patched_size
from perceptok.errors import BoxError

__all__ = ["frame_of_processor"]

_TILING = ("image_grid_pinpoints", "do_image_splitting", "crop_to_patches", "do_pan_and_scan")
"""Attributes of processors that make several pictures, or patches, of an image."""

_ALLOWED_DEVIATION = 0.01
"""Mean deviation of a channel of the test picture, as a share of its range: a shift by one pixel gives 0.03."""

_WAVE = 32
"""Length of the test picture's waves, in pixels of the frame."""


Frame = TypeVar("Frame", bound=Placement)


def frame_of_processor(
    make: Callable[..., Frame], processor: Any, image_size: tuple[int, int], *, verify: bool = True
) -> Frame:
    """See `ImageFrame.from_image_processor`; `make` is `ImageFrame`."""
    processor = getattr(processor, "image_processor", processor)
    name = type(processor).__name__
    tiling = [attribute for attribute in _TILING if getattr(processor, attribute, None)]
    if tiling:
        raise BoxError(f"{name} makes several pieces of an image ({', '.join(tiling)}); a frame needs one picture")
    if getattr(processor, "merge_size", None):
        frame = _read_patches(make, processor, name, checked_image_size(image_size))
        if verify:
            _verify_patches(processor, name, frame)
        return frame
    frame = _read(make, processor, name, checked_image_size(image_size))
    if verify:
        _verify(processor, name, frame)
    return frame


def _read(make: Callable[..., Frame], processor: Any, name: str, image_size: tuple[int, int]) -> Frame:
    mode: Mode = "squash"
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    fill: tuple[int, ...] = (0,)
    do_pad = bool(getattr(processor, "do_pad", False))
    if do_pad and hasattr(processor, "pad_to_square"):
        mode, do_pad = "letterbox", False
        padding = _to_square(image_size)
        fill = tuple(int(mean * 255) for mean in getattr(processor, "image_mean", None) or (0,))
    shape = (image_size[0] + padding[0] + padding[2], image_size[1] + padding[1] + padding[3])
    if getattr(processor, "do_resize", False):
        shape = _resized(_sizes(getattr(processor, "size", None)), shape, name)
    frame_shape, offset = shape, (0, 0)
    if getattr(processor, "do_center_crop", False):
        mode = "center_crop" if mode == "squash" else mode
        frame_shape = _width_height(getattr(processor, "crop_size", None), name)
        torchvision = getattr(processor, "backend", "pil") == "torchvision"
        offset = (_centred(shape[0], frame_shape[0], torchvision), _centred(shape[1], frame_shape[1], torchvision))
    if do_pad and getattr(processor, "pad_size", None):
        mode = "letterbox" if mode == "squash" else mode
        if getattr(processor, "do_normalize", False):  # the zeros are added to what is normalised already
            fill = tuple(round(mean * 255) for mean in processor.image_mean)
        frame_shape = _width_height(processor.pad_size, name)
    if frame_shape[0] != frame_shape[1]:
        raise BoxError(
            f"{name} makes a picture of {frame_shape} (width, height) of an image of {image_size}; a frame is square: "
            "set the processor's size to one height and width, or let it crop or pad to a square"
        )
    resample = _resample_name(getattr(processor, "resample", None))
    return make(mode, image_size, frame_shape[0], shape, offset, padding, fill, resample)


def _read_patches(make: Callable[..., Frame], processor: Any, name: str, image_size: tuple[int, int]) -> Frame:
    """Of a processor that resizes to whole patches, which it then takes apart, as Qwen2-VL's."""
    sizes, patch = _sizes(getattr(processor, "size", None)), getattr(processor, "patch_size", None)
    if sizes.keys() != {"shortest_edge", "longest_edge"} or not isinstance(patch, int):
        raise BoxError(
            f"{name} makes patches of an image by {sizes or 'no size'}; a frame can be read of patch_size, merge_size "
            "and a size with shortest_edge and longest_edge (areas in pixels, as Qwen2-VL has them)"
        )
    shape = image_size
    if getattr(processor, "do_resize", False):
        factor = patch * int(processor.merge_size)
        shape = patched_size(image_size, factor, sizes["shortest_edge"], sizes["longest_edge"])
    resample = _resample_name(getattr(processor, "resample", None))
    return make("squash", image_size, shape[0], shape, resample=resample, size_y=shape[1])


def _sizes(size: Any) -> dict[str, int]:
    """A size as transformers keeps it (a dict, its own SizeDict, or a number), without what is not set."""
    if size is None:
        return {}
    if isinstance(size, int):
        return {"height": size, "width": size}
    pairs = size.items() if isinstance(size, Mapping) else iter(size)
    return {key: int(value) for key, value in pairs if value is not None}


def _width_height(size: Any, name: str) -> tuple[int, int]:
    sizes = _sizes(size)
    if sizes.keys() != {"height", "width"}:
        raise BoxError(f"{name} cuts or pads to {sizes or 'no size'}; a frame can be read of height and width")
    return sizes["width"], sizes["height"]


def _to_square(image_size: tuple[int, int]) -> tuple[int, int, int, int]:
    side = max(image_size)
    left, top = (side - image_size[0]) // 2, (side - image_size[1]) // 2
    return left, top, side - image_size[0] - left, side - image_size[1] - top


def _resized(size: dict[str, int], shape: tuple[int, int], name: str) -> tuple[int, int]:
    width, height = shape
    short, long = min(shape), max(shape)
    match sorted(size):
        case ["height", "width"]:
            return size["width"], size["height"]
        case ["shortest_edge"]:
            edges = size["shortest_edge"], int(size["shortest_edge"] * long / short)
        case ["longest_edge", "shortest_edge"]:
            edges = _between(size["shortest_edge"], size["longest_edge"], short, long)
        case ["max_height", "max_width"]:
            factor = min(size["max_height"] / height, size["max_width"] / width)
            return int(width * factor), int(height * factor)
        case _:
            raise BoxError(
                f"{name} resizes by {size or 'no size'}; a frame can be read of height and width, or shortest_edge"
            )
    return edges if width <= height else (edges[1], edges[0])


def _between(shortest: int, longest: int, short: int, long: int) -> tuple[int, int]:
    """The shortest edge as asked for, unless the longest would grow beyond its limit."""
    if long / short * shortest <= longest:
        return shortest, int(shortest * long / short)
    exact = longest * short / long
    return round(exact), int(exact * long / short)


def _centred(length: int, frame: int, torchvision: bool) -> int:
    """Where the middle puts an edge: an odd pixel is cut off behind; of padding Pillow's backend puts it in front."""
    if torchvision and length < frame:
        return (frame - length) // 2
    return -((length - frame) // 2)


def _resample_name(resample: Any) -> str:
    if resample is None:
        return "bilinear"
    value = getattr(resample, "value", resample)
    name = value if isinstance(value, str) else Image.Resampling(value).name.lower()
    if name not in RESAMPLING:
        raise BoxError(f"the image processor resizes with {resample!r}; expected one of {', '.join(RESAMPLING)}")
    return name


def _verify(processor: Any, name: str, frame: Placement) -> None:
    """Compare what the processor makes of a test picture with what it makes of the frame's picture as it stands."""
    picture = _test_picture(frame)
    untouched = {"do_resize": False, "do_center_crop": False, "do_pad": False}
    try:
        got = np.asarray(processor(picture, return_tensors="np")["pixel_values"], np.float64)
        as_it_stands = processor(framed_picture(picture, frame), return_tensors="np", **untouched)
        expected = np.asarray(as_it_stands["pixel_values"], np.float64)
    except Exception as error:  # whatever a processor of any project raises
        raise BoxError(
            f"{name} makes no pixel_values of a picture of {frame.image_size} ({type(error).__name__}: {error}); "
            "build the frame by hand"
        ) from error
    if got.shape != expected.shape:
        raise BoxError(
            f"{name} makes {got.shape} of an image of {frame.image_size}, its attributes say {expected.shape}; "
            "a frame needs one picture"
        )
    left, top, right, bottom = frame.window  # padding has a colour, but no geometry
    shown = np.s_[
        ..., round(top) : max(round(bottom), round(top) + 1), round(left) : max(round(right), round(left) + 1)
    ]
    deviations = np.abs(got - expected)[shown].mean(axis=(-2, -1))
    deviation = float(deviations.max() / max(float(np.ptp(expected)), 1e-12))
    if deviation > _ALLOWED_DEVIATION:
        raise BoxError(
            f"{name} does not do what its attributes say: its picture of an image of {frame.image_size} deviates from "
            f"that of {frame} by {deviation:.1%}; build the frame by hand"
        )


def _verify_patches(processor: Any, name: str, frame: Placement) -> None:
    """The same for patches: their numbers tell the shape, and those of the frame's picture hold the same."""
    picture = _test_picture(frame)
    try:
        made = processor(picture, return_tensors="np")
        expected = processor(framed_picture(picture, frame), return_tensors="np", do_resize=False)
        grids = [np.asarray(one["image_grid_thw"]).reshape(-1).tolist() for one in (made, expected)]
        got, wanted = (np.asarray(one["pixel_values"], np.float64) for one in (made, expected))
    except Exception as error:  # whatever a processor of any project raises
        raise BoxError(
            f"{name} makes no patches of a picture of {frame.image_size} ({type(error).__name__}: {error}); build the "
            "frame by hand (ImageFrame.smart_resize)"
        ) from error
    rows, columns = (side // processor.patch_size for side in frame.shape[::-1])
    deviation = np.abs(got - wanted).mean() / max(float(np.ptp(wanted)), 1e-12) if got.shape == wanted.shape else 1.0
    if grids[0] != grids[1] or grids[0][-2:] != [rows, columns] or deviation > _ALLOWED_DEVIATION:
        raise BoxError(
            f"{name} does not do what its attributes say: it makes patches {grids[0]} of an image of "
            f"{frame.image_size}, its attributes say {[1, rows, columns]}; build the frame by hand"
        )


def _test_picture(frame: Placement) -> Image.Image:
    """Triangle waves on a ramp, along x in red and along y in green, on full blue."""
    width, height = frame.image_size
    picture = np.full((height, width, 3), 255, dtype=np.uint8)
    picture[..., 0] = _waves(width, frame.scale[0])[None, :]
    picture[..., 1] = _waves(height, frame.scale[1])[:, None]
    return Image.fromarray(picture)


def _waves(length: int, scale: float) -> np.ndarray:
    phase = (np.arange(length) + 0.5) / max(_WAVE / scale, 4.0) % 1
    # The ramp tells the ends apart, and one wave from the next.
    return np.asarray(127 * np.abs(2 * phase - 1) + np.linspace(0, 127, length)).astype(np.uint8)
