"""Boxes of many images, exact or as codes, with their labels; codes in a file of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from perceptok.boxes.arrays import check_codes
from perceptok.boxes.codec import BoxCodec
from perceptok.boxes.datasets.entry_ids import EntryId, parse_id, sort_ids
from perceptok.boxes.frames import FrameMode, ImageFrame
from perceptok.boxes.text import BoxForm, boxes_from_text, boxes_to_text
from perceptok.errors import BoxError, ConfigError, MalformedBoxError
from perceptok.files import parse_json

__all__ = ["BoxFailure", "BoxLabels", "BoxRecord", "ImageBoxes", "number_lines", "read_box_records"]

_FRAMES = {"squash": ImageFrame.squash, "letterbox": ImageFrame.letterbox, "center_crop": ImageFrame.center_crop}
_ID_COLUMNS = ("category_ids", "annotation_ids", "negative_category_ids", "not_exhaustive_category_ids")
_PER_BOX = ("category_ids", "crowd", "annotation_ids", "areas", "scores")


class BoxFailure(NamedTuple):
    """An item that was left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class BoxLabels:
    """What a data set says about one image's boxes besides their coordinates; the first five are empty or N long.

    Attributes:
        category_ids: The data set's own ids, integers or text.
        crowd: Whether a box is around a crowd rather than one object.
        annotation_ids: The data set's own ids of the boxes.
        areas: Areas of the objects' masks, in pixels of the image.
        scores: Confidence of detections, 0..1.
        negative_category_ids: Categories that are known not to be in the image (LVIS); None in other data sets.
        not_exhaustive_category_ids: Categories with objects that may have no box (LVIS); None in other data sets.
        categories: Id -> name, at least of the categories above.
    """

    category_ids: tuple[EntryId, ...] = ()
    crowd: tuple[bool, ...] = ()
    annotation_ids: tuple[EntryId, ...] = ()
    areas: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    negative_category_ids: tuple[EntryId, ...] | None = None
    not_exhaustive_category_ids: tuple[EntryId, ...] | None = None
    categories: Mapping[EntryId, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The category of each box by name; empty where boxes have no category."""
        return tuple(self.categories[number] for number in self.category_ids)

    def select(self, indices: Sequence[int]) -> BoxLabels:
        """The labels of some of the boxes."""
        columns = {name: getattr(self, name) for name in _PER_BOX}
        selected: dict[str, Any] = {
            name: tuple(column[index] for index in indices) for name, column in columns.items() if column
        }
        return replace(self, **selected)

    def check(self, count: int) -> None:
        """Raises BoxError unless the labels fit that number of boxes and every category has a name."""
        for name in _PER_BOX:
            length = len(getattr(self, name))
            if length not in (0, count):
                raise BoxError(f"{name} is empty or has one entry for each of {count} boxes; got {length}")
        used = {*self.category_ids, *(self.negative_category_ids or ()), *(self.not_exhaustive_category_ids or ())}
        unnamed = used - self.categories.keys()
        if unnamed:
            raise BoxError(f"category {sort_ids(unnamed)[0]} has no name in `categories`")
        for number, name in self.categories.items():
            if not isinstance(name, str):
                raise BoxError(f"the name of category {number} is text; got {name!r:.60}")


@dataclass(frozen=True, eq=False)
class ImageBoxes:
    """The boxes of one image as a data set gives them.

    Attributes:
        name: The image's relative file name.
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        boxes: (N, 4) float64, x1, y1, x2, y2 in pixels; edges are continuous, the right edge of the image is x = width.
        labels: What else is known about them.
        image_id: The data set's own id, an integer or text.
        folder: Folder of the image in the address that the data set gives (LVIS 1.0: "val2017"); empty for none.
    """

    name: str
    width: int
    height: int
    boxes: np.ndarray
    labels: BoxLabels = BoxLabels()
    image_id: EntryId | None = None
    folder: str = ""

    def __post_init__(self) -> None:
        for side in ("width", "height"):
            length = getattr(self, side)
            if isinstance(length, bool) or not isinstance(length, Integral) or length < 1:
                raise BoxError(f"{self.name}: {side} is a number of pixels, an integer from 1; got {length!r:.40}")
        self.labels.check(len(self.boxes))


@dataclass(frozen=True)
class BoxRecord:
    """The codes of one image's boxes, with all that decodes them to pixels and relates them to the data set.

    Attributes:
        name: The image's relative file name.
        frame: The frame that the codes lie in; it has the image's size.
        codec: The codec that made the codes.
        codes: N times four integers in the codec's order.
        labels: What else is known about the boxes.
        image_id: The data set's own id, an integer or text.
    """

    name: str
    frame: ImageFrame
    codec: BoxCodec
    codes: tuple[tuple[int, ...], ...]
    labels: BoxLabels = BoxLabels()
    image_id: EntryId | None = None

    @classmethod
    def from_boxes(
        cls,
        image: ImageBoxes,
        codec: BoxCodec,
        *,
        frame: ImageFrame | FrameMode = "squash",
        min_visible: float = 0.0,
        failures: list[BoxFailure] | None = None,
    ) -> BoxRecord:
        """Encode an image's boxes.

        Args:
            image: The boxes.
            codec: Its policies decide on boxes outside the image and without area.
            frame: The frame that the model sees, or its mode, in the codec's size.
            min_visible: Drop boxes of which the frame shows a smaller fraction.
            failures: A list to which boxes that the codec refuses are added; without it they raise.

        Raises:
            BoxError: The codec refuses a box.
            ConfigError: `frame` is not a valid mode.
        """
        if isinstance(frame, str):
            if frame not in _FRAMES:
                raise ConfigError(f"frames are {', '.join(_FRAMES)}; got {frame!r}")
            frame = _FRAMES[frame]((image.width, image.height), codec.size)
        try:
            codes, indices = codec.encode_with_indices(image.boxes, frame=frame, min_visible=min_visible)
        except BoxError:
            if failures is None:
                raise
            accepted = _find_accepted(image, codec, frame, min_visible, failures)
            codes, indices = codec.encode_with_indices(image.boxes[accepted], frame=frame, min_visible=min_visible)
            indices = accepted[indices]
        as_tuples = tuple(tuple(box) for box in codes.tolist())
        return cls(image.name, frame, codec, as_tuples, image.labels.select(indices.tolist()), image.image_id)

    @property
    def array(self) -> np.ndarray:
        """The codes as (N, 4) int64; raises MalformedBoxError for invalid codes."""
        return check_codes(list(self.codes), size=self.codec.size, order=self.codec.order, error=MalformedBoxError)

    def decode(self) -> ImageBoxes:
        """The boxes in pixels of the image, as exact as the codec's bins."""
        width, height = self.frame.image_size
        boxes = self.codec.decode(self.array, frame=self.frame)
        return ImageBoxes(self.name, width, height, boxes, self.labels, self.image_id)

    def to_text(self, form: BoxForm = "aurora") -> str:
        """The boxes as tokens, in one of the forms of `boxes_to_text`."""
        return boxes_to_text(self.array, form=form, order=self.codec.order, size=self.codec.size)

    def to_json(self, *, form: BoxForm | None = None) -> str:
        """One line of JSON; with a form, the text of the boxes beside the codes."""
        labels = {field.name: getattr(self.labels, field.name) for field in fields(self.labels)}
        if any(isinstance(number, str) for number in self.labels.categories):  # a key of JSON is text, also of 7
            labels["categories"] = [*self.labels.categories.items()]
        values = {
            "name": self.name,
            "image_id": self.image_id,
            "frame": self.frame.to_dict(),
            "codec": self.codec.to_dict(),
            "codes": self.codes,
            **{name: value for name, value in labels.items() if value is not None and (value or name not in _PER_BOX)},
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
            text, codes = values.pop("text", None), values.pop("codes", None)
            if codes is None and not isinstance(text, str):
                raise KeyError("codes")
            if codes is None:
                codes = boxes_from_text(text, size=codec.size, order=codec.order).tolist()
            name, image_id = values.pop("name"), values.pop("image_id", None)
            if not isinstance(name, str) or not name:
                raise TypeError(f"name is the image's file name; got {name!r}")
            categories = values.pop("categories", {})
            if isinstance(categories, dict):
                categories = [(int(number), label) for number, label in categories.items()]
            columns = {key: tuple(value) for key, value in values.items()}
            columns |= {key: tuple(map(_check_id, columns[key])) for key in _ID_COLUMNS if key in columns}
            labels = BoxLabels(**columns, categories={_check_id(number): label for number, label in categories})
            labels.check(len(codes))
            image_id = None if image_id is None else _check_id(image_id)
            record = cls(name, frame, codec, tuple(tuple(box) for box in codes), labels, image_id)
            _ = record.array
        except MalformedBoxError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            known = [
                "name",
                "image_id",
                "frame",
                "codec",
                "codes or text",
                *(field.name for field in fields(BoxLabels)),
            ]
            reason = f"{type(error).__name__}: {error}"
            raise MalformedBoxError(f"not a record ({reason}); expected JSON with {', '.join(known)}") from error
        return record


def read_box_records(lines: Iterable[str], where: str) -> Iterator[BoxRecord | BoxFailure]:
    """Records of JSON lines, one at a time; an invalid line becomes a `BoxFailure` with its number.

    Blank lines at the end and a byte order mark at the beginning are ignored.
    """
    for number, line in number_lines(lines):
        try:
            yield BoxRecord.from_json(line)
        except MalformedBoxError as error:
            yield BoxFailure(f"{where}, line {number}", str(error))


def number_lines(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Lines by number from 1, without a byte order mark at the beginning and blank lines at the end."""
    blank: list[tuple[int, str]] = []
    for number, line in enumerate(lines, 1):
        text = line.removeprefix("\ufeff") if number == 1 else line
        if not text.strip():
            blank.append((number, text))
            continue
        yield from blank
        blank = []
        yield number, text


def _check_id(value: object) -> EntryId:
    entry = parse_id(value)
    if entry is None:
        raise TypeError(f"ids are integers or text; got {value!r:.60}")
    return entry


def _find_accepted(
    image: ImageBoxes, codec: BoxCodec, frame: ImageFrame, min_visible: float, failures: list[BoxFailure]
) -> np.ndarray:
    """The indices of the boxes that the codec accepts, int64; the others become failures."""
    accepted = []
    for index, box in enumerate(image.boxes):
        try:
            codec.encode(box[None], frame=frame, min_visible=min_visible)
        except BoxError as error:
            ids = image.labels.annotation_ids
            failures.append(
                BoxFailure(f"{image.name}, {f'annotation {ids[index]}' if ids else f'box {index}'}", str(error))
            )
        else:
            accepted.append(index)
    return np.array(accepted, dtype=np.int64)
