"""How pictures reach the model: one rule for every image of a project, recorded with what was trained on it.

Every picture is brought into the frame by perceptok's own arithmetic, which has an exact inverse, and only then handed
to the model's processor. Where that processor makes one square picture, it is set to do no more than resize it, so
that a serving engine that never heard of frames squashes as the training did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from perceptok.boxes import ImageFrame
from perceptok.config import config_from_dict
from perceptok.errors import BoxError, ConfigError
from perceptok.tokens import PIXEL

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["FrameRule", "Framing", "single_picture"]

Framing = Literal["squash", "letterbox", "processor"]
"""AURORA's squash to a square; the whole image padded to one; or whatever the model's own image processor does."""

_PIECES = ("image_grid_pinpoints", "do_image_splitting", "crop_to_patches", "do_pan_and_scan", "merge_size")
"""Attributes of image processors that make several pieces, or patches, of a picture."""


@dataclass(frozen=True)
class FrameRule:
    """Any image -> its `ImageFrame`.

    Attributes:
        mode: "squash" resizes the whole image to a square, as AURORA does; "letterbox" pads it to one; "processor"
            leaves images to the model's own processor, whose frame is read from it.
        size: Side of the frame in pixels: the coordinates of boxes and points, 336 for the PIXEL tokens.

    Raises:
        ConfigError: An unknown mode, or a size below 1.
    """

    mode: Framing = "squash"
    size: int = PIXEL.size

    def __post_init__(self) -> None:
        if self.mode not in get_args(Framing):
            raise ConfigError(f"a frame is one of {', '.join(get_args(Framing))}; got {self.mode!r}")
        if self.size < 1:
            raise ConfigError(f"a frame has a side of at least 1 pixel; got {self.size}")

    @classmethod
    def read(cls, frame: str | FrameRule | Mapping[str, Any]) -> FrameRule:
        """A rule by its mode's name, as recorded in JSON, or as it is."""
        if isinstance(frame, FrameRule):
            return frame
        return cls(mode=frame) if isinstance(frame, str) else config_from_dict(cls, frame)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types; the inverse is `read`."""
        return asdict(self)

    def frame_of(self, image_size: tuple[int, int], processor: Any = None) -> ImageFrame:
        """The frame of an image of this width and height.

        Args:
            image_size: Width and height in pixels.
            processor: The model's, which the mode "processor" is read from.

        Raises:
            BoxError: An image without area, or a processor whose pictures are no square frame.
            ConfigError: The mode "processor" without a processor.
        """
        if self.mode == "squash":
            return ImageFrame.squash(image_size, self.size)
        if self.mode == "letterbox":
            return ImageFrame.letterbox(image_size, self.size)
        if processor is None:
            raise ConfigError("a frame of the mode 'processor' is read from the model's processor; pass it")
        return ImageFrame.from_image_processor(processor, image_size)

    def apply(self, image: Image.Image) -> Image.Image:
        """The picture for the model's processor, in RGB: the frame's square, or the image itself ("processor")."""
        picture = image if image.mode == "RGB" else image.convert("RGB")
        if self.mode == "processor":
            return picture
        return self.frame_of(picture.size).apply(picture)

    def set_on(self, processor: Any) -> None:
        """Let a processor that makes one square picture resize and nothing else, in place.

        Processors that make several pieces of a picture stay as they are: they get the framed square. So do all under
        the mode "processor".

        Raises:
            BoxError: The image processor then still does something else to a picture.
        """
        inner = getattr(processor, "image_processor", None)
        if self.mode == "processor" or inner is None or not single_picture(processor):
            return
        side = _side(inner, self.size)
        inner.size = {"height": side, "width": side}
        for attribute in ("do_center_crop", "do_pad"):
            if hasattr(inner, attribute):
                setattr(inner, attribute, False)
        inner.do_resize = True
        # transformers has kept sizes as dicts and as its own type; it turns one into the other as it saves.
        found = ImageFrame.from_image_processor(processor, (self.size, self.size))
        if found.mode != "squash":
            raise BoxError(f"{type(inner).__name__} cannot be set to resize and nothing else; it gives {found}")


def single_picture(processor: Any) -> bool:
    """Whether a processor makes one square picture of an image, rather than several pieces or patches."""
    inner = getattr(processor, "image_processor", processor)
    return not any(getattr(inner, attribute, None) for attribute in _PIECES)


def _side(inner: Any, otherwise: int) -> int:
    """The side of the picture that a processor makes: of its crop where it crops, else of its size."""
    for name in ("crop_size", "size") if getattr(inner, "do_center_crop", False) else ("size",):
        size = getattr(inner, name, None)
        if isinstance(size, int):
            return size
        pairs = dict(size.items() if isinstance(size, Mapping) else iter(size)) if size is not None else {}
        for key in ("height", "shortest_edge"):
            if pairs.get(key):
                return int(pairs[key])
    return otherwise
