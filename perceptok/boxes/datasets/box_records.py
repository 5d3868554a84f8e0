"""Boxes of many images, exact or as codes, with their labels; codes in a file of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from perceptok.boxes.codec import BoxCodec
from perceptok.boxes.frames import ImageFrame
from perceptok.boxes.text import Form, boxes_from_text, boxes_to_text, checked_boxes
from perceptok.errors import BoxError, ConfigError, MalformedBoxError
from perceptok.files import parse_json

__all__ = ["BoxFailure", "BoxLabels", "BoxRecord", "FrameKind", "ImageBoxes", "numbered_lines", "read_box_lines"]


FrameKind = Literal["squash", "letterbox", "center_crop"]

_FRAMES = {"squash": ImageFrame.squash, "letterbox": ImageFrame.letterbox, "center_crop": ImageFrame.center_crop}
_PER_BOX = ("category_ids", "crowd", "annotation_ids", "areas", "scores")


class BoxFailure(NamedTuple):
    """An item that was left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class BoxLabels:
    """What a data set says of one image's boxes besides where they are; each of the first five is empty or N long.

    Attributes:
        category_ids: The data set's own ids.
        crowd: Whether a box is around a crowd rather than one object.
        annotation_ids: The data set's own ids of the boxes.
        areas: Of the objects' masks, in pixels of the image.
        scores: Confidence of detections, 0..1.
        negative_category_ids: Categories that are known not to be in the image (LVIS); None where none is ever named.
        not_exhaustive_category_ids: Categories of which the image may show more than has a box (LVIS); None as above.
        categories: Id -> name, of the categories named above at least.
    """

    category_ids: tuple[int, ...] = ()
    crowd: tuple[bool, ...] = ()
    annotation_ids: tuple[int, ...] = ()
    areas: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    negative_category_ids: tuple[int, ...] | None = None
    not_exhaustive_category_ids: tuple[int, ...] | None = None
    categories: Mapping[int, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The category of each box by name; empty where boxes have no category."""
        return tuple(self.categories[number] for number in self.category_ids)

    def taken(self, indices: Sequence[int]) -> BoxLabels:
        """The labels of some of the boxes."""
        parts = {name: getattr(self, name) for name in _PER_BOX}
        taken: dict[str, Any] = {name: tuple(part[at] for at in indices) for name, part in parts.items() if part}
        return replace(self, **taken)

    def checked(self, count: int) -> BoxLabels:
        """Itself, if it fits so many boxes; raises BoxError."""
        for name in _PER_BOX:
            if len(getattr(self, name)) not in (0, count):
                raise BoxError(f"{name} is empty or has one for each of {count} boxes; got {len(getattr(self, name))}")
        named = {*self.category_ids, *(self.negative_category_ids or ()), *(self.not_exhaustive_category_ids or ())}
        if named - self.categories.keys():
            raise BoxError(f"category {min(named - self.categories.keys())} has no name in `categories`")
        return self


@dataclass(frozen=True, eq=False)
class ImageBoxes:
    """The boxes of one image as a data set gives them.

    Attributes:
        name: The image's relative file name.
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        boxes: (N, 4) float64, x1, y1, x2, y2 in pixels; edges are continuous, the right edge of the image is x = width.
        labels: What else is known of them.
        image_id: The data set's own id.
    """

    name: str
    width: int
    height: int
    boxes: np.ndarray
    labels: BoxLabels = BoxLabels()
    image_id: int | None = None

    def __post_init__(self) -> None:
        self.labels.checked(len(self.boxes))


@dataclass(frozen=True)
class BoxRecord:
    """The codes of one image's boxes, and what leads back to pixels and to the data set.

    Attributes:
        name: The image's relative file name.
        frame: The frame that the codes lie in; it knows the image's size.
        codec: What the codes mean there.
        codes: N times four integers in the codec's order.
        labels: What else is known of the boxes.
        image_id: The data set's own id.
    """

    name: str
    frame: ImageFrame
    codec: BoxCodec
    codes: tuple[tuple[int, ...], ...]
    labels: BoxLabels = BoxLabels()
    image_id: int | None = None

    @classmethod
    def of(
        cls,
        image: ImageBoxes,
        codec: BoxCodec,
        *,
        frame: ImageFrame | FrameKind = "squash",
        min_visible: float = 0.0,
        failures: list[BoxFailure] | None = None,
    ) -> BoxRecord:
        """Encode an image's boxes.

        Args:
            image: The boxes.
            codec: Its policies decide on boxes outside the image and without area.
            frame: The frame that the model sees, or its kind, in the codec's size.
            min_visible: Drop boxes of which the frame shows a smaller share.
            failures: Takes the boxes that the codec refuses, which are then left out; without it they raise.

        Raises:
            BoxError: The codec refuses a box.
            ConfigError: `frame` names no kind of frame.
        """
        if isinstance(frame, str):
            if frame not in _FRAMES:
                raise ConfigError(f"frames are {', '.join(_FRAMES)}; got {frame!r}")
            frame = _FRAMES[frame]((image.width, image.height), codec.size)
        try:
            codes, kept = codec.encode_with_kept(image.boxes, frame=frame, min_visible=min_visible)
        except BoxError:
            if failures is None:
                raise
            good = _accepted(image, codec, frame, min_visible, failures)
            codes, at = codec.encode_with_kept(image.boxes[good], frame=frame, min_visible=min_visible)
            kept = np.array(good, dtype=np.int64)[at]
        flat = tuple(tuple(box) for box in codes.tolist())
        return cls(image.name, frame, codec, flat, image.labels.taken(kept.tolist()), image.image_id)

    @property
    def array(self) -> np.ndarray:
        """The codes as (N, 4) int64; raises MalformedBoxError if they are none."""
        return checked_boxes(list(self.codes), size=self.codec.size, order=self.codec.order)

    def decoded(self) -> ImageBoxes:
        """The boxes in pixels of the image, as exact as the codec's bins."""
        width, height = self.frame.image_size
        boxes = self.codec.decode(self.array, frame=self.frame)
        return ImageBoxes(self.name, width, height, boxes, self.labels, self.image_id)

    def to_text(self, form: Form = "aurora") -> str:
        """The boxes as tokens; see `boxes_to_text`."""
        return boxes_to_text(self.array, form=form, order=self.codec.order, size=self.codec.size)

    def to_json(self, *, form: Form | None = None) -> str:
        """One line of JSON; with a form, the text of the boxes beside the codes."""
        empty: dict[str, object] = dict.fromkeys(_PER_BOX, ())
        said = {one.name: getattr(self.labels, one.name) for one in fields(self.labels)}
        labels = {name: value for name, value in said.items() if value != empty.get(name)}
        values = {
            "name": self.name,
            "image_id": self.image_id,
            "frame": self.frame.to_dict(),
            "codec": self.codec.to_dict(),
            "codes": self.codes,
            **labels,
        }
        if form is not None:
            values["text"] = self.to_text(form)
        return json.dumps(values, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> BoxRecord:
        """The inverse of `to_json`; a `text` may stand instead of `codes`. Raises MalformedBoxError."""
        try:
            values = parse_json(line, "not a record", MalformedBoxError)
            codec = BoxCodec.from_dict(values.pop("codec"))
            frame = ImageFrame.from_dict(values.pop("frame"))
            text = values.pop("text", None)
            codes = values.pop("codes", None)
            if codes is None and not isinstance(text, str):
                raise KeyError("codes")
            if codes is None:
                codes = boxes_from_text(text, size=codec.size, order=codec.order).tolist()
            name, image_id = values.pop("name"), values.pop("image_id", None)
            categories = {int(number): str(label) for number, label in values.pop("categories", {}).items()}
            labels = BoxLabels(**{key: tuple(value) for key, value in values.items()}, categories=categories)
            record = cls(name, frame, codec, tuple(tuple(box) for box in codes), labels.checked(len(codes)), image_id)
            if not isinstance(name, str) or not name:
                raise TypeError(f"name is the image's file name; got {name!r}")
            _ = record.array
        except MalformedBoxError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            known = ["name", "image_id", "frame", "codec", "codes or text", *(one.name for one in fields(BoxLabels))]
            reason = f"{type(error).__name__}: {error}"
            raise MalformedBoxError(f"not a record ({reason}); expected JSON with {', '.join(known)}") from error
        return record


def numbered_lines(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Lines by number from 1, without a byte order mark at the beginning and blank lines at the end."""
    blank: list[tuple[int, str]] = []
    for number, line in enumerate(lines, 1):
        said = line.removeprefix("\ufeff") if number == 1 else line
        if not said.strip():
            blank.append((number, said))
            continue
        yield from blank
        blank = []
        yield number, said


def read_box_lines(lines: Iterable[str], where: str) -> Iterator[BoxRecord | BoxFailure]:
    """Records of JSON lines, one at a time; a line that is none becomes a `BoxFailure` that names it.

    Blank lines at the end say nothing, and neither does a byte order mark at the beginning.
    """
    for number, line in numbered_lines(lines):
        try:
            yield BoxRecord.from_json(line)
        except MalformedBoxError as error:
            yield BoxFailure(f"{where}, line {number}", str(error))


def _accepted(
    image: ImageBoxes, codec: BoxCodec, frame: ImageFrame, min_visible: float, failures: list[BoxFailure]
) -> list[int]:
    """The indices of the boxes that the codec accepts; the others become failures."""
    good = []
    for index, box in enumerate(image.boxes):
        try:
            codec.encode(box[None], frame=frame, min_visible=min_visible)
        except BoxError as error:
            which = (
                f"annotation {image.labels.annotation_ids[index]}" if image.labels.annotation_ids else f"box {index}"
            )
            failures.append(BoxFailure(f"{image.name}, {which}", str(error)))
        else:
            good.append(index)
    return good
