"""What a model answered: text, depth, boxes and points in the image's own pixels, and what is wrong with it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from perceptok.boxes import BoxCodec, ImageFrame
from perceptok.decoding import AnswerReading, Generation, parse_generation, read_answer, to_plain_text
from perceptok.depth import DepthCodec, DepthMap
from perceptok.errors import EvaluationError, InferenceError, VocabularyError
from perceptok.images import ImageSource, open_image
from perceptok.llava.framing import FrameRule
from perceptok.llava.inference.overlay import (
    FramePoint,
    ImagePoint,
    OverlayContent,
    draw_overlay,
    find_points,
    write_image,
)
from perceptok.vocabulary import PerceptionVocabulary

if TYPE_CHECKING:
    from perceptok.depth import DepthCodec

__all__ = [
    "AnswerSpan",
    "PerceptionAnswer",
    "check_choices",
    "parse_answer",
    "read_final_answer",
    "read_served_answer",
    "resample_to_image",
    "sample_frame_nearness",
]


def resample_to_image(nearness: np.ndarray, frame: ImageFrame) -> DepthMap:
    """A decoded map of the frame -> the depth map of the image, pixel for pixel.

    Each pixel takes the value of the map's pixel that its centre falls into; surfaces are not blended.

    Args:
        nearness: (S, S) float32 in [0, 1] of the whole frame.
        frame: How the image lay in it.

    Returns:
        An inverse map of the image's size, 1 = nearest; not valid where the frame did not show the image (a crop).
    """
    rows, seen_rows = _index_axis(frame, 1, nearness.shape[0])
    columns, seen_columns = _index_axis(frame, 0, nearness.shape[1])
    values = np.ascontiguousarray(nearness[np.ix_(rows, columns)], dtype=np.float32)
    return DepthMap(values, np.outer(seen_rows, seen_columns), "inverse")


def sample_frame_nearness(nearness: np.ndarray, frame: ImageFrame, points: np.ndarray) -> np.ndarray:
    """Nearness at points (N, 2) of the frame, as x, y: (N,) float32; NaN where a point lies outside the frame."""
    points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    inside = ((points >= 0) & (points <= frame.size)).all(axis=1)
    found = np.full(len(points), np.nan, dtype=np.float32)
    if inside.any():
        rows, columns = frame.to_depth_map(points[inside], len(nearness))
        found[inside] = nearness[rows, columns]
    return found


def _index_axis(frame: ImageFrame, axis: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The map's index of each pixel along an axis of the image, and whether the frame shows it."""
    centres = np.arange(frame.image_size[axis]) + 0.5
    places = (centres * frame.scale[axis] + frame.origin[axis]) * (side / frame.size)
    indices = np.floor(places).astype(np.int64)
    return np.clip(indices, 0, side - 1), (indices >= 0) & (indices < side)


_LONE_LETTER = re.compile(r"\W*([A-Z])\W*")
_LONE_NUMBER = re.compile(r"\W*\d+\W*")


def read_final_answer(text: str, choices: Sequence[str], letters: Sequence[str], *, boxes: bool) -> AnswerReading:
    """What a text finally answers, or None and why.

    Args:
        text: All that the model wrote.
        choices: Letters or numbers that the answer may be; they decide what is read.
        letters: Of the points that question or answer are about: without choices, one of them is read.
        boxes: Whether the text holds boxes: without choices and letters, a count is read.

    Returns:
        Without any of the three, the text itself where it is a letter or a number alone.
    """
    if choices or letters:
        return read_answer(text, choices or tuple(dict.fromkeys(letters)))
    plain = to_plain_text(text)
    if lone := _LONE_LETTER.fullmatch(plain):
        return AnswerReading(lone[1], "the text is a letter")
    if boxes or _LONE_NUMBER.fullmatch(plain):
        return read_answer(text)
    return AnswerReading(None, "neither choices, points nor boxes say what is asked")


def check_choices(choices: Sequence[str]) -> None:
    """Raise InferenceError unless choices are what `read_answer` takes."""
    try:
        read_answer("?", choices)
    except EvaluationError as error:
        raise InferenceError(str(error)) from error


class AnswerSpan(NamedTuple):
    """A part of the text: characters start to end, "text", "depth" or "box", with the codes of the last two."""

    kind: Literal["text", "depth", "box"]
    start: int
    end: int
    codes: np.ndarray | None


@dataclass(frozen=True, eq=False, repr=False)
class PerceptionAnswer:
    """One answer to one question about one image.

    Attributes:
        question: As it was asked.
        text: All that the model wrote, perception tokens among it; without the end of sequence.
        answer: What the text finally answers, such as "B" or "4" (see `read_answer`); None where it does not say.
        spans: The text taken apart: in order, without gaps.
        image: The image in RGB, as it was asked about.
        frame: How the model saw it.
        nearness: (320, 320) float32 in [0, 1], decoded from the last block, of the whole frame; None without one.
        codes: (10, 10) int64 of the last depth block; None without one.
        blocks: The codes of all depth blocks.
        boxes: (N, 4) float64: x1, y1, x2, y2 in the image's pixels; of a padded image they can reach out of it.
        box_codes: (N, 4) int64, as written.
        labels: What the text calls each box, "" where it says nothing.
        points: Those that the text places, in the image's pixels.
        markers: Those that came with the question, in the image's pixels.
        problems: What is malformed, missing or contradictory, in words.
        ended: Whether the model ended its answer itself; False where the budget or the context cut it.
        tokens: How many tokens it wrote.
        constrained: Whether it was held to the grammar.
        codec: Fingerprint of the depth codec.
        overruled: How often consistency made the conclusion say what its evidence says, and the model would not have.
        name: What the caller calls it, for files and pages.
    """

    question: str
    text: str
    answer: str | None
    spans: tuple[AnswerSpan, ...]
    image: Image.Image
    frame: ImageFrame
    nearness: np.ndarray | None
    blocks: tuple[np.ndarray, ...]
    boxes: np.ndarray
    box_codes: np.ndarray
    labels: tuple[str, ...]
    points: tuple[ImagePoint, ...]
    markers: tuple[ImagePoint, ...]
    problems: tuple[str, ...]
    ended: bool
    tokens: int
    constrained: bool
    codec: str | None
    overruled: int = 0
    name: str = ""

    def __repr__(self) -> str:
        state = "valid" if self.valid else f"{len(self.problems)} problems"
        return f"PerceptionAnswer({self.answer!r}, {len(self.blocks)} blocks, {len(self.boxes)} boxes, {state})"

    @property
    def codes(self) -> np.ndarray | None:
        """The codes (10, 10) of the last depth block; None without one."""
        return self.blocks[-1] if self.blocks else None

    @property
    def valid(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.problems

    @cached_property
    def depth(self) -> DepthMap | None:
        """The depth map of the image in its own pixels: inverse, 1 = nearest; None without a block."""
        return None if self.nearness is None else resample_to_image(self.nearness, self.frame)

    @cached_property
    def plain(self) -> str:
        """The text with `[depth map]` and `[N]`, the number of a box, for what is no reading matter."""
        parts: list[str] = []
        boxes = 0
        for span in self.spans:
            boxes += span.kind == "box"
            shown = {"text": self.text[span.start : span.end], "depth": "[depth map]", "box": f"[{boxes}]"}
            parts.append(shown[span.kind])
        return re.sub(r"\((\[\d+\])\)", r"\1", "".join(parts))

    def save_depth(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the depth map in the format of the suffix: nearness, 16 bits in a PNG.

        Raises:
            InferenceError: The answer has no depth block.
            DepthMapError: A format that cannot say that a crop hid a part of the image (use .npz).
            OutputError: The file exists, or cannot be written.
        """
        if self.depth is None:
            raise InferenceError("the answer has no whole depth block, so that there is no depth map to save")
        self.depth.write(path, force=force)

    def overlay_content(self) -> OverlayContent:
        """What an overlay shows: the question's markers, and the text's points that are none of them."""
        known = {one.letter for one in self.markers}
        points = [*self.markers, *(one for one in self.points if one.letter not in known)]
        return OverlayContent(
            self.image,
            self.depth,
            self.boxes,
            self.labels,
            points,
            question=self.question,
            text=self.plain,
            answer=self.answer,
            problems=self.problems,
        )

    def overlay(self) -> Image.Image:
        """The image with boxes and points, its depth map beside it, question and answer below."""
        return draw_overlay(self.overlay_content())

    def save_overlay(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write `overlay()` as PNG or, with such a suffix, JPEG; raises OutputError and InferenceError."""
        write_image(self.overlay(), path, force=force)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types: a line of `perceptok llava infer`."""
        return {
            "name": self.name,
            "question": self.question,
            "text": self.text,
            "answer": self.answer,
            "valid": self.valid,
            "problems": list(self.problems),
            "ended": self.ended,
            "tokens": self.tokens,
            "constrained": self.constrained,
            "overruled": self.overruled,
            "image_size": list(self.image.size),
            "frame": self.frame.to_dict(),
            "codec": self.codec,
            "codes": None if self.codes is None else self.codes.ravel().tolist(),
            "boxes": self.boxes.round(3).tolist(),
            "box_codes": self.box_codes.tolist(),
            "labels": list(self.labels),
            "points": [_point_to_dict(one) for one in self.points],
            "markers": [_point_to_dict(one) for one in self.markers],
        }


def parse_answer(
    ids: Sequence[int],
    *,
    ended: bool,
    question: str,
    image: Image.Image,
    frame: ImageFrame,
    vocab: PerceptionVocabulary,
    tokenizer: Any,
    codec: DepthCodec | None,
    box_codec: BoxCodec,
    constrained: bool,
    choices: Sequence[str] = (),
    markers: Mapping[str, tuple[float, float]] | None = None,
    name: str = "",
) -> PerceptionAnswer:
    """Take apart what a model wrote.

    Args:
        ids: The answer alone, without the end of sequence and padding.
        ended: Whether the end of sequence followed.
        question: As asked.
        image: As asked about.
        frame: How the model saw it.
        vocab: What the ids mean.
        tokenizer: Ids -> text.
        codec: Decodes depth blocks; None leaves them codes.
        box_codec: Decodes boxes.
        constrained: For the report.
        choices: What the answer may be; empty for any.
        markers: Letter -> x, y in the image's pixels, as asked about.
        name: What the caller calls it.
    """
    parsed = parse_generation(ids, vocab)
    text, spans = _locate_spans(ids, parsed, tokenizer)
    blocks = tuple(parsed.blocks)
    nearness = codec.decode(blocks[-1])[0] if blocks and codec is not None else None
    box_codes = parsed.boxes
    boxes = box_codec.decode(box_codes, frame=frame)
    named = find_points(text)
    points, lost = _locate_points(named, frame, nearness)
    problems = [f"{one.message} (tokens {one.start} to {one.end})" for one in parsed.problems]
    problems += [] if ended else ["the answer was cut off: the budget of tokens is spent"]
    if len(blocks) > 1:
        problems.append(f"{len(blocks)} depth blocks of one image; depth and codes are those of the last")
    problems += [f"point {one.letter} lies outside the frame: x = {one.x:g} y = {one.y:g}" for one in lost]
    problems += _describe_boxes_outside(boxes, image.size, box_codec, frame)
    letters = [*(markers or {}), *(one.letter for one in named)]
    answer, reason = read_final_answer(text, choices, letters, boxes=len(box_codes) > 0)
    if choices and answer is None:
        problems.append(f"no answer among {', '.join(choices)}: {reason}")
    return PerceptionAnswer(
        question=question,
        text=text,
        answer=answer,
        spans=spans,
        image=image,
        frame=frame,
        nearness=nearness,
        blocks=blocks,
        boxes=boxes,
        box_codes=box_codes,
        labels=_read_labels(text, spans),
        points=points,
        markers=_locate_markers(markers or {}, frame, nearness),
        problems=tuple(problems),
        ended=ended,
        tokens=len(ids),
        constrained=constrained,
        codec=None if codec is None else codec.fingerprint,
        name=name,
    )


def _locate_spans(ids: Sequence[int], parsed: Generation, tokenizer: Any) -> tuple[str, tuple[AnswerSpan, ...]]:
    """The text, and where in it each span of the ids lies.

    Text is decoded up to each border, never a piece by itself: SentencePiece drops a piece's leading space.
    """

    def decoded(end: int) -> str:
        return str(tokenizer.decode(list(ids[:end]), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    text = decoded(len(ids))
    borders = {0: 0, len(ids): len(text)}
    for span in parsed.spans[:-1]:
        before = decoded(span.end)
        borders[span.end] = len(before) if text.startswith(before) else min(len(before), len(text))
    found = tuple(AnswerSpan(one.kind, borders[one.start], borders[one.end], one.codes) for one in parsed.spans)
    return text, found


def _read_labels(text: str, spans: Sequence[AnswerSpan]) -> tuple[str, ...]:
    """What stands before each box on its line."""
    labels: list[str] = []
    end = 0
    for span in spans:
        if span.kind == "box":
            before = text[end : span.start].rpartition("\n")[2].strip().removesuffix("(").strip()
            labels.append(before.removesuffix(":").strip(" \t,;-*)."))
        end = end if span.kind == "text" else span.end
    return tuple(labels)


def _locate_points(
    named: Sequence[FramePoint], frame: ImageFrame, nearness: np.ndarray | None
) -> tuple[tuple[ImagePoint, ...], list[FramePoint]]:
    """Points of the frame in the image's pixels, and those that lie outside the frame."""
    if not named:
        return (), []
    places = np.array([(one.x, one.y) for one in named])
    image = frame.to_image(places)
    near = np.full(len(named), np.nan) if nearness is None else sample_frame_nearness(nearness, frame, places)
    inside = [bool(one) for one in (places <= frame.size).min(axis=1)]
    seen = [_make_point(one.letter, image[index], near[index]) for index, one in enumerate(named) if inside[index]]
    return tuple(seen), [one for index, one in enumerate(named) if not inside[index]]


def _locate_markers(
    markers: Mapping[str, tuple[float, float]], frame: ImageFrame, nearness: np.ndarray | None
) -> tuple[ImagePoint, ...]:
    if not markers:
        return ()
    image = np.array(list(markers.values()), dtype=np.float64)
    places = frame.to_frame(image)
    near = np.full(len(image), np.nan) if nearness is None else sample_frame_nearness(nearness, frame, places)
    return tuple(_make_point(letter, image[index], near[index]) for index, letter in enumerate(markers))


def _make_point(letter: str, place: np.ndarray, nearness: float) -> ImagePoint:
    return ImagePoint(letter, float(place[0]), float(place[1]), None if np.isnan(nearness) else float(nearness))


def _describe_boxes_outside(
    boxes: np.ndarray, image_size: tuple[int, int], box_codec: BoxCodec, frame: ImageFrame
) -> list[str]:
    """Boxes that reach into what pads the image, by more than the bin that an edge is known to."""
    bin_side = np.tile(frame.size / box_codec.size / np.asarray(frame.scale), 2)
    low, high = -bin_side, np.tile(np.asarray(image_size, dtype=np.float64), 2) + bin_side
    out = ((boxes < low) | (boxes > high)).any(axis=1)
    return [f"box {index + 1} reaches out of the image, into its padding" for index in np.flatnonzero(out)]


def _point_to_dict(point: ImagePoint) -> dict[str, Any]:
    near = None if point.nearness is None else round(point.nearness, 4)
    return {"letter": point.letter, "x": round(point.x, 3), "y": round(point.y, 3), "nearness": near}


def read_served_answer(
    text: str,
    image: ImageSource,
    question: str,
    *,
    vocab: PerceptionVocabulary,
    tokenizer: Any,
    codec: DepthCodec,
    frame: str | FrameRule = "squash",
    ended: bool = True,
    constrained: bool = True,
    choices: Sequence[str] = (),
    markers: Mapping[str, tuple[float, float]] | None = None,
) -> PerceptionAnswer:
    """A served text as `PerceptionPipeline` would have read it.

    Args:
        text: What the engine returned.
        image: The one that it was asked about, as it is, not framed.
        question: As asked.
        vocab: Of the served model; `PerceptionVocabulary.from_pretrained(folder)`.
        tokenizer: Of the served model.
        codec: Of the served model.
        frame: How the image reached it; "squash" or "letterbox", or a rule of these.
        ended: Whether the engine says that the model stopped by itself (`finish_reason` "stop").
        constrained: Whether the request was held to the grammar.
        choices: What the answer may be; empty for anything.
        markers: Letter -> x, y in the image's pixels.

    Raises:
        InferenceError: An image that cannot be read.
        VocabularyError: The model's codes are another codec's.
    """
    if vocab.codec_fingerprint not in (None, codec.fingerprint):
        raise VocabularyError(
            f"the model's DEPTH tokens mean codes of the codec {vocab.codec_fingerprint}, this codec is "
            f"{codec.fingerprint}; load the codec that lies beside the model"
        )
    picture = open_image(image)
    return parse_answer(
        tokenizer.encode(text, add_special_tokens=False),
        ended=ended,
        question=question,
        image=picture,
        frame=FrameRule.parse(frame).make_frame(picture.size),
        vocab=vocab,
        tokenizer=tokenizer,
        codec=codec,
        box_codec=BoxCodec(decode="center"),
        constrained=constrained,
        choices=choices,
        markers=markers,
    )
