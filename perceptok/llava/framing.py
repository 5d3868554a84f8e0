"""How images reach the model: one rule for every image of a project, recorded with what was trained on it.

perceptok brings every image into the frame by its own arithmetic, which has an exact inverse, before the model's
processor gets it. A processor that makes one square image is set to do no more than resize it, so that a serving engine
without perceptok squashes images as training did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from PIL import Image

from perceptok.boxes import ImageFrame, infer_frame
from perceptok.config import config_from_dict
from perceptok.errors import BoxError, ConfigError
from perceptok.tokens import PIXEL

__all__ = ["FrameRule", "Framing", "Interpolation"]

Framing = Literal["squash", "letterbox", "processor"]
"""AURORA's squash to a square; the whole image padded to a square; or whatever the model's own image processor does."""

Interpolation = Literal["nearest", "bilinear", "bicubic"]
"""How pixels are resized: by Pillow's filter of that name. AURORA's images are resized by "nearest"."""

_TILING = ("image_grid_pinpoints", "do_image_splitting", "crop_to_patches", "do_pan_and_scan", "merge_size")
"""Attributes of image processors that make several tiles, or patches, of an image."""


@dataclass(frozen=True)
class FrameRule:
    """How any image gets its `ImageFrame`.

    Attributes:
        mode: "squash" resizes the whole image to a square, as AURORA does; "letterbox" pads it to a square; "processor"
            leaves images to the model's own processor, whose frame is read from it.
        size: Side of the frame in pixels: the coordinates of boxes and points, 336 for the PIXEL tokens.
        interpolation: How images are resized: "nearest" as AURORA does, "bilinear" or "bicubic". The mode "processor"
            leaves it to the processor.

    Raises:
        ConfigError: An unknown mode or interpolation, or a size below 1.
    """

    mode: Framing = "squash"
    size: int = PIXEL.size
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        if self.mode not in get_args(Framing):
            raise ConfigError(f"a frame is one of {', '.join(get_args(Framing))}; got {self.mode!r}")
        if self.interpolation not in get_args(Interpolation):
            known = ", ".join(get_args(Interpolation))
            raise ConfigError(f"a frame's interpolation is one of {known}; got {self.interpolation!r}")
        if self.mode == "processor" and self.interpolation != "bicubic":
            raise ConfigError(
                f"a frame of the mode 'processor' is resized by the model's processor, not by {self.interpolation!r}; "
                "set the processor's resample, or use squash or letterbox"
            )
        if self.size < 1:
            raise ConfigError(f"a frame has a side of at least 1 pixel; got {self.size}")

    @classmethod
    def parse(cls, frame: str | FrameRule | Mapping[str, Any]) -> FrameRule:
        """A rule from its mode's name, or from `to_dict`'s mapping; a rule is returned as it is."""
        if isinstance(frame, FrameRule):
            return frame
        return cls(mode=frame) if isinstance(frame, str) else config_from_dict(cls, frame)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, for `parse`."""
        return asdict(self)

    def make_frame(self, image_size: tuple[int, int], processor: Any = None) -> ImageFrame:
        """The frame of an image of this width and height.

        Args:
            image_size: Width and height in pixels.
            processor: The model's processor, required by the mode "processor".

        Raises:
            BoxError: An image without area, or a processor whose images have no square frame.
            ConfigError: The mode "processor" without a processor.
        """
        if self.mode == "squash":
            return ImageFrame.squash(image_size, self.size, resample=self.interpolation)
        if self.mode == "letterbox":
            return ImageFrame.letterbox(image_size, self.size, resample=self.interpolation)
        if processor is None:
            raise ConfigError("a frame of the mode 'processor' is read from the model's processor; pass it")
        return infer_frame(processor, image_size)

    def apply(self, image: Image.Image) -> Image.Image:
        """The image for the model's processor, in RGB: the frame's square, or the whole image ("processor")."""
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        return rgb if self.mode == "processor" else self.make_frame(rgb.size).apply(rgb)

    def configure(self, processor: Any) -> None:
        """Set a processor that makes one square image to resize with this interpolation and do nothing else, in place.

        Processors that make several tiles of an image stay as they are: they get the framed square. So do all under
        the mode "processor".

        Raises:
            BoxError: The image processor still does something else to an image.
            ConfigError: The mode "processor", and a processor whose images have no frame that is known: a model
                could be trained so, and never asked.
        """
        inner = getattr(processor, "image_processor", None)
        if self.mode == "processor" and inner is not None:
            try:
                self.make_frame((self.size, self.size), processor)
            except BoxError as error:
                raise ConfigError(
                    f"the frame 'processor' cannot be used with this model ({error}); choose squash or letterbox"
                ) from error
        if self.mode == "processor" or inner is None or any(getattr(inner, name, None) for name in _TILING):
            return
        side = _find_side(inner, default=self.size)
        inner.size = {"height": side, "width": side}
        for attribute in ("do_center_crop", "do_pad"):
            if hasattr(inner, attribute):
                setattr(inner, attribute, False)
        if hasattr(inner, "max_image_size"):  # Idefics3 pads the number of images of a batch's samples, not an image
            inner.do_pad = True
        inner.do_resize = True
        inner.resample = Image.Resampling[self.interpolation.upper()]
        # transformers has kept sizes as dicts and as its own type; it turns one into the other as it saves.
        found = infer_frame(processor, (self.size, self.size))
        if found.mode != "squash":
            raise BoxError(f"{type(inner).__name__} cannot be set to resize and nothing else; it gives {found}")


def _find_side(inner: Any, default: int) -> int:
    """The side of the image that an image processor makes: of its crop where it crops, else of its size."""
    for name in ("crop_size", "size") if getattr(inner, "do_center_crop", False) else ("size",):
        size = getattr(inner, name, None)
        if isinstance(size, int):
            return size
        sides = dict(size.items() if isinstance(size, Mapping) else iter(size)) if size is not None else {}
        for key in ("height", "shortest_edge"):
            if sides.get(key):
                return int(sides[key])
    return default
