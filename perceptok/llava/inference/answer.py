"""Parses generated token ids into an answer: text, depth map, boxes and points in the image's pixels, problems."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from perceptok.boxes import BoxCodec, ImageFrame
from perceptok.decoding import AnswerReading, Generation, parse_generation, read_answer, to_plain_text
from perceptok.depth import DepthCodec, DepthMap
from perceptok.errors import InferenceError, VocabularyError
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
from perceptok.llava.inference.questions import Ask
from perceptok.vocabulary import PerceptionVocabulary

__all__ = [
    "AnswerSpan",
    "PerceptionAnswer",
    "parse_answer",
    "read_final_answer",
    "read_served_answer",
    "resample_to_image",
    "sample_frame_nearness",
]


def resample_to_image(nearness: np.ndarray, frame: ImageFrame, max_side: int | None = None) -> DepthMap:
    """Resample a decoded map of the frame to the depth map of the image.

    Each pixel takes the nearest value of the map, so that the depths of two surfaces are not mixed.

    Args:
        nearness: (S, S) float32 in [0, 1] of the whole frame.
        frame: The image's frame.
        max_side: Maximum side of the map in pixels, in the image's proportions; None for the image's size.

    Returns:
        An inverse map of the image's size, 1 = nearest; invalid where the frame did not show the image (a crop).
    """
    shrink = 1.0 if max_side is None else min(1.0, max_side / max(frame.image_size))
    width, height = (max(1, round(length * shrink)) for length in frame.image_size)
    rows, seen_rows = _index_axis(frame, 1, nearness.shape[0], height)
    columns, seen_columns = _index_axis(frame, 0, nearness.shape[1], width)
    values = np.ascontiguousarray(nearness[np.ix_(rows, columns)], dtype=np.float32)
    return DepthMap(values, np.outer(seen_rows, seen_columns), "inverse")


def sample_frame_nearness(nearness: np.ndarray, frame: ImageFrame, points: np.ndarray) -> np.ndarray:
    """Sample nearness (N,) float32 at points (N, 2) of the frame as x, y; NaN where a point lies outside the frame."""
    points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    inside = ((points >= 0) & (points <= frame.size)).all(axis=1)
    values = np.full(len(points), np.nan, dtype=np.float32)
    if inside.any():
        rows, columns = frame.to_depth_map(points[inside], len(nearness))
        values[inside] = nearness[rows, columns]
    return values


def _index_axis(frame: ImageFrame, axis: int, side: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The map's index at `count` even steps along an axis of the image, and whether the frame shows it there."""
    centres = (np.arange(count) + 0.5) * (frame.image_size[axis] / count)
    positions = (centres * frame.scale[axis] + frame.origin[axis]) * (side / frame.size)
    indices = np.floor(positions).astype(np.int64)
    return np.clip(indices, 0, side - 1), (indices >= 0) & (indices < side)


_SINGLE_LETTER = re.compile(r"\W*([A-Z])\W*")
_SINGLE_NUMBER = re.compile(r"\W*\d+\W*")


def read_final_answer(text: str, choices: Sequence[str], letters: Sequence[str], *, boxes: bool) -> AnswerReading:
    """Read the final answer of a text, or None and the reason.

    Args:
        text: The generated text.
        choices: The allowed answers, letters or numbers; if given, one of them is read.
        letters: Letters of the points in question and answer: without choices, one of them is read.
        boxes: Whether the text contains boxes: without choices and letters, a count is read.

    Returns:
        Without any of the three, the whole text where it is a single letter or number.
    """
    if choices or letters:
        return read_answer(text, choices or tuple(dict.fromkeys(letters)))
    plain = to_plain_text(text)
    if match := _SINGLE_LETTER.fullmatch(plain):
        return AnswerReading(match[1], "the text is a letter")
    if boxes or _SINGLE_NUMBER.fullmatch(plain):
        return read_answer(text)
    return AnswerReading(None, "without choices, points or boxes, only a single letter or number is an answer")


class AnswerSpan(NamedTuple):
    """A span of the text, from character `start` to `end`; `codes` are those of a "depth" or "box" span."""

    kind: Literal["text", "depth", "box"]
    start: int
    end: int
    codes: np.ndarray | None


@dataclass(frozen=True, eq=False, repr=False)
class PerceptionAnswer:
    """One answer to one question about one image.

    Attributes:
        question: The question as it was asked.
        text: The generated text with its perception tokens, without the end of sequence.
        answer: The final answer, such as "B" or "4": found in the text by `read_answer`, or, by the way to ask, read
            off the map ("depth") or counted ("boxes"); None where there is none.
        spans: The text split into text, blocks and boxes, in order and without gaps.
        image: The image in RGB.
        frame: Maps the image to the model's input.
        nearness: (320, 320) float32 in [0, 1] of the whole frame, decoded from the last block; None without a block.
        codes: (10, 10) int64 of the last depth block; None without one.
        blocks: The codes of all depth blocks.
        boxes: (N, 4) float64: x1, y1, x2, y2 in the image's pixels; they may reach into the padding of a letterbox.
        box_codes: (N, 4) int64, as generated.
        labels: The text before each box on its line, "" for none.
        points: Points that the text locates, in the image's pixels.
        markers: Points that were given with the question, in the image's pixels.
        problems: Descriptions of what is malformed, missing or contradictory.
        ended: Whether the model ended the answer; False where the token budget or the context ended it.
        tokens: Number of generated tokens.
        constrained: Whether generation was constrained to the grammar.
        codec: Fingerprint of the depth codec.
        overruled: How often a consistency constraint changed the token that the model would have generated.
        name: The caller's name for the question, used in file names and on pages.
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
        """Whether the answer has no problems."""
        return not self.problems

    @cached_property
    def depth(self) -> DepthMap | None:
        """The depth map in the image's pixels: inverse, 1 = nearest; None without a block."""
        return None if self.nearness is None else resample_to_image(self.nearness, self.frame)

    def depth_within(self, max_side: int) -> DepthMap | None:
        """The depth map in the image's proportions, with sides of at most so many pixels; None without a block."""
        return None if self.nearness is None else resample_to_image(self.nearness, self.frame, max_side)

    @cached_property
    def plain(self) -> str:
        """The text with `[depth map]` for a block and `[N]` for box number N."""
        parts: list[str] = []
        boxes = 0
        for span in self.spans:
            boxes += span.kind == "box"
            replacements = {"text": self.text[span.start : span.end], "depth": "[depth map]", "box": f"[{boxes}]"}
            parts.append(replacements[span.kind])
        return re.sub(r"\((\[\d+\])\)", r"\1", "".join(parts))

    def save_depth(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the depth map as nearness in the format of the suffix; a PNG has 16 bits.

        Raises:
            InferenceError: The answer has no depth block.
            DepthMapError: The format cannot mark pixels as invalid, and a crop hid a part of the image (use .npz).
            OutputError: The file exists, or cannot be written.
        """
        if self.depth is None:
            raise InferenceError("the answer has no complete depth block, so there is no depth map to save")
        self.depth.write(path, force=force)

    def overlay_content(self) -> OverlayContent:
        """The content of `overlay`: the question's markers, and the text's points of other letters."""
        letters = {marker.letter for marker in self.markers}
        points = [*self.markers, *(point for point in self.points if point.letter not in letters)]
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
        """Draw the image with boxes and points, its depth map beside it, question and answer below."""
        return draw_overlay(self.overlay_content())

    def save_overlay(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write `overlay()` as PNG or JPEG, by the suffix; raises InferenceError for another one, and OutputError."""
        write_image(self.overlay(), path, force=force)

    def to_dict(self) -> dict[str, Any]:
        """The answer as JSON types: one line of the output of `perceptok llava infer`."""
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
            "points": [_point_to_dict(point) for point in self.points],
            "markers": [_point_to_dict(marker) for marker in self.markers],
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
    ask: Ask = "published",
    choices: Sequence[str] = (),
    markers: Mapping[str, tuple[float, float]] | None = None,
    name: str = "",
) -> PerceptionAnswer:
    """Parse the token ids that a model generated.

    Args:
        ids: Token ids of the answer, without prompt, end of sequence and padding.
        ended: Whether the end of sequence followed.
        question: The question as it was asked.
        image: The image in RGB.
        frame: Maps the image to the model's input.
        vocab: Perception tokens of the model.
        tokenizer: The model's tokenizer.
        codec: Decodes depth blocks; None leaves them as codes.
        box_codec: Decodes boxes.
        constrained: Whether generation was constrained to the grammar.
        ask: How the question was worded: "depth" reads the answer off the decoded map at the markers, "boxes" takes
            the number of boxes, anything else reads the text.
        choices: The allowed answers; empty for any.
        markers: Letter -> x, y in the image's pixels, of points that the question is about.
        name: The caller's name for the question.
    """
    parsed = parse_generation(ids, vocab)
    text, spans = _locate_spans(ids, parsed, tokenizer)
    blocks = tuple(parsed.blocks)
    nearness = codec.decode(blocks[-1])[0] if blocks and codec is not None else None
    box_codes = parsed.boxes
    boxes = box_codec.decode(box_codes, frame=frame)
    text_points = find_points(text)
    points, outside = _locate_points(text_points, frame, nearness)
    problems = [f"{problem.message} (tokens {problem.start} to {problem.end})" for problem in parsed.problems]
    problems += [] if ended else ["the answer was cut off at the maximum number of tokens"]
    if len(blocks) > 1:
        problems.append(f"{len(blocks)} depth blocks of one image; depth and codes are those of the last")
    problems += [f"point {point.letter} lies outside the frame: x = {point.x:g} y = {point.y:g}" for point in outside]
    problems += _describe_boxes_outside(boxes, image.size, box_codec, frame)
    located_markers = _locate_markers(markers or {}, frame, nearness)
    if ask == "depth":
        answer, reason = _find_nearest_marker(located_markers, has_map=nearness is not None)
    elif ask == "boxes":
        answer, reason = AnswerReading(str(len(box_codes)), "the number of boxes")
    else:
        letters = [*(markers or {}), *(point.letter for point in text_points)]
        answer, reason = read_final_answer(text, choices, letters, boxes=len(box_codes) > 0)
    if answer is not None and choices and answer not in choices:
        answer, reason = None, f"the answer is {answer}, {reason}"
    if answer is None and (choices or (ask == "depth" and markers)):
        among = f" among {', '.join(choices)}" if choices else ""
        problems.append(f"no answer{among}: {reason}")
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
        markers=located_markers,
        problems=tuple(problems),
        ended=ended,
        tokens=len(ids),
        constrained=constrained,
        codec=None if codec is None else codec.fingerprint,
        name=name,
    )


def _locate_spans(ids: Sequence[int], parsed: Generation, tokenizer: Any) -> tuple[str, tuple[AnswerSpan, ...]]:
    """Decode the ids to the text, and locate each span of the ids in it.

    Text is decoded up to each border, never a part by itself: SentencePiece drops a part's leading space.
    """

    def decode(end: int) -> str:
        return str(tokenizer.decode(list(ids[:end]), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    text = decode(len(ids))
    borders = {0: 0, len(ids): len(text)}
    for span in parsed.spans[:-1]:
        before = decode(span.end)
        borders[span.end] = len(before) if text.startswith(before) else min(len(before), len(text))
    return text, tuple(
        AnswerSpan(span.kind, borders[span.start], borders[span.end], span.codes) for span in parsed.spans
    )


def _read_labels(text: str, spans: Sequence[AnswerSpan]) -> tuple[str, ...]:
    """The text before each box on its line."""
    labels: list[str] = []
    end = 0
    for span in spans:
        if span.kind == "box":
            before = text[end : span.start].rpartition("\n")[2].strip().removesuffix("(").strip()
            labels.append(before.removesuffix(":").strip(" \t,;-*)."))
        end = end if span.kind == "text" else span.end
    return tuple(labels)


def _locate_points(
    points: Sequence[FramePoint], frame: ImageFrame, nearness: np.ndarray | None
) -> tuple[tuple[ImagePoint, ...], list[FramePoint]]:
    """Points of the frame in the image's pixels, and those that lie outside the frame."""
    inside = [point for point in points if max(point.x, point.y) <= frame.size]
    coordinates = np.array([(point.x, point.y) for point in inside]).reshape(-1, 2)
    located = _make_points(
        [point.letter for point in inside], frame.to_image(coordinates), coordinates, frame, nearness
    )
    return located, [point for point in points if point not in inside]


def _locate_markers(
    markers: Mapping[str, tuple[float, float]], frame: ImageFrame, nearness: np.ndarray | None
) -> tuple[ImagePoint, ...]:
    image = np.array(list(markers.values()), dtype=np.float64).reshape(-1, 2)
    return _make_points(list(markers), image, frame.to_frame(image), frame, nearness)


def _find_nearest_marker(markers: Sequence[ImagePoint], *, has_map: bool) -> AnswerReading:
    """The marker with the largest nearness; None and the reason where not every marker has one."""
    if not has_map:
        return AnswerReading(None, "there is no complete depth block to read it from")
    if not markers:
        return AnswerReading(None, "there are no markers at which to read the depth map")
    outside = [marker.letter for marker in markers if marker.nearness is None]
    if outside:
        return AnswerReading(None, f"marker {outside[0]} lies outside the part of the image that the model sees")
    nearest = max(markers, key=lambda marker: marker.nearness or 0.0)
    return AnswerReading(nearest.letter, "the nearest marker on the decoded map")


def _make_points(
    letters: Sequence[str], in_image: np.ndarray, in_frame: np.ndarray, frame: ImageFrame, nearness: np.ndarray | None
) -> tuple[ImagePoint, ...]:
    """Points (N, 2) with the nearness at each; None without a map or outside the frame."""
    values = np.full(len(letters), np.nan) if nearness is None else sample_frame_nearness(nearness, frame, in_frame)
    return tuple(
        ImagePoint(letter, float(x), float(y), None if np.isnan(value) else float(value))
        for letter, (x, y), value in zip(letters, in_image, values, strict=True)
    )


def _describe_boxes_outside(
    boxes: np.ndarray, image_size: tuple[int, int], box_codec: BoxCodec, frame: ImageFrame
) -> list[str]:
    """Describe boxes that reach out of the image by more than one bin of the box codec."""
    bin_side = np.tile(frame.size / box_codec.size / np.asarray(frame.scale), 2)
    low, high = -bin_side, np.tile(np.asarray(image_size, dtype=np.float64), 2) + bin_side
    out = ((boxes < low) | (boxes > high)).any(axis=1)
    return [f"box {index + 1} reaches out of the image into the padding" for index in np.flatnonzero(out)]


def _point_to_dict(point: ImagePoint) -> dict[str, Any]:
    nearness = None if point.nearness is None else round(point.nearness, 4)
    return {"letter": point.letter, "x": round(point.x, 3), "y": round(point.y, 3), "nearness": nearness}


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
    ask: Ask = "published",
    choices: Sequence[str] = (),
    markers: Mapping[str, tuple[float, float]] | None = None,
) -> PerceptionAnswer:
    """Parse the text that a serving engine returned as `PerceptionPipeline` would parse it.

    Args:
        text: The generated text.
        image: The original image, not framed.
        question: The question as it was asked.
        vocab: Perception tokens of the served model: `PerceptionVocabulary.from_pretrained(folder)`.
        tokenizer: The served model's tokenizer.
        codec: The served model's depth codec.
        frame: The frame of the image: "squash", "letterbox", or a `FrameRule` of these modes.
        ended: Whether the model ended the answer (`finish_reason` is "stop").
        constrained: Whether the request was constrained to the grammar.
        ask: How the question was worded, as in `build_question`.
        choices: The allowed answers; empty for any.
        markers: Letter -> x, y in the image's pixels, of points that the question is about.

    Raises:
        ImageError: The image cannot be read.
        VocabularyError: The model's DEPTH tokens are of another codec.
    """
    if vocab.codec_fingerprint not in (None, codec.fingerprint):
        raise VocabularyError(
            f"the model's DEPTH tokens mean codes of the codec {vocab.codec_fingerprint}, this codec is "
            f"{codec.fingerprint}; load the codec that was saved with the model"
        )
    opened = open_image(image)
    return parse_answer(
        tokenizer.encode(text, add_special_tokens=False),
        ended=ended,
        question=question,
        image=opened,
        frame=FrameRule.parse(frame).make_frame(opened.size),
        vocab=vocab,
        tokenizer=tokenizer,
        codec=codec,
        box_codec=BoxCodec(decode="center"),
        constrained=constrained,
        ask=ask,
        choices=choices,
        markers=markers,
    )
