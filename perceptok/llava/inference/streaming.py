"""Streams an answer while it is generated: text, rows of the depth map, boxes, and finally the whole answer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from perceptok.boxes import BoxCodec, ImageFrame
from perceptok.decoding import StreamEvent, TokenStream
from perceptok.depth import DepthMap
from perceptok.llava.inference.answer import PerceptionAnswer, resample_to_image
from perceptok.tokens import DEPTH_GRID
from perceptok.vocabulary import PerceptionVocabulary

if TYPE_CHECKING:
    from perceptok.depth import DepthCodec

__all__ = ["Update", "UpdateReader", "decode_partial_block", "stream_updates"]


@dataclass(frozen=True, eq=False, repr=False)
class Update:
    """One update of a streamed answer.

    Attributes:
        kind: "text", "row" (a row of the open depth block is complete), "depth" (the block is), "box", "problem", or
            finally "answer".
        text: For "text", the new text, a block in one piece; the pieces joined are the answer's text. For "problem",
            what is wrong.
        row: For "row": its index, 0..9.
        codes: int64: (10,) for "row", (10, 10) for "depth", (4,) for "box".
        depth: For "row" and "depth": the depth map of the image so far, in its pixels; invalid where rows are missing.
        box: For "box": x1, y1, x2, y2 in the image's pixels, (4,) float64.
        answer: For "answer": the whole answer.
    """

    kind: Literal["text", "row", "depth", "box", "problem", "answer"]
    text: str = ""
    row: int = -1
    codes: np.ndarray | None = None
    depth: DepthMap | None = None
    box: np.ndarray | None = None
    answer: PerceptionAnswer | None = None

    def __repr__(self) -> str:
        return f"Update({self.kind!r}, {self.text!r}, row={self.row})"


def decode_partial_block(
    codec: DepthCodec, codes: np.ndarray, frame: ImageFrame, max_side: int | None = None
) -> DepthMap:
    """Decode an incomplete depth block to the depth map of the image.

    Missing rows are decoded as copies of the last complete row, so that no artificial edge appears; `valid` marks the
    pixels of complete rows.

    Args:
        codec: The model's codec.
        codes: (10, 10) int64, -1 for missing codes; at least the first row is complete.
        frame: Maps the image to the model's input.
        max_side: Maximum side of the map in pixels; None for the image's size.
    """
    known = int((codes >= 0).all(axis=1).argmin()) if (codes < 0).any() else len(codes)
    filled = codes.copy()
    filled[known:] = codes[known - 1]
    depth = resample_to_image(codec.decode(filled)[0], frame, max_side)
    height = len(depth.values)
    centres = (np.arange(height) + 0.5) * (frame.image_size[1] / height)
    rows = np.floor(centres * frame.scale[1] + frame.origin[1])
    return DepthMap(depth.values, depth.valid & (rows < known * frame.size / DEPTH_GRID[0])[:, None], "inverse")


def stream_updates(run: Callable[[Callable[[int], bool]], PerceptionAnswer], reader: UpdateReader) -> Iterator[Update]:
    """Generate in a thread and yield an update for whatever the new tokens complete.

    Args:
        run: Generates, and returns the answer. It calls the function that it is given with each token id, and stops
            where that returns True. What it raises is raised here.
        reader: Converts token ids to updates.
    """
    messages: queue.SimpleQueue[int | PerceptionAnswer | BaseException] = queue.SimpleQueue()
    stop = threading.Event()

    def watch(token_id: int) -> bool:
        messages.put(token_id)
        return stop.is_set()

    def work() -> None:
        try:
            messages.put(run(watch))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            messages.put(error)

    thread = threading.Thread(target=work, name="perceptok-stream", daemon=True)
    thread.start()
    try:
        while True:
            message = messages.get()
            if isinstance(message, BaseException):
                raise message
            if isinstance(message, PerceptionAnswer):
                yield from reader.close()
                yield Update("answer", answer=message)
                return
            yield from reader.read(message)
    finally:
        stop.set()
        thread.join()


class UpdateReader:
    """Converts the token ids of one answer to updates, as they come.

    Args:
        vocab: Perception tokens of the model.
        tokenizer: The model's tokenizer.
        ends: Ids that end a sequence.
        codec: Decodes rows of depth blocks.
        frame: Maps the image to the model's input.
        box_codec: Decodes boxes.
        max_side: Maximum side of the depth maps in pixels; None for the image's size, 0 decodes no maps.
    """

    def __init__(
        self,
        vocab: PerceptionVocabulary,
        tokenizer: Any,
        ends: frozenset[int],
        codec: DepthCodec,
        frame: ImageFrame,
        box_codec: BoxCodec,
        max_side: int | None = None,
    ) -> None:
        self._max_side = max_side
        self._stream = TokenStream(vocab, skip_prompt=False)
        self._tokenizer, self._ends = tokenizer, ends
        self._codec, self._frame, self._box_codec = codec, frame, box_codec
        self._ids: list[int] = []
        self._text = ""

    def read(self, token_id: int) -> Iterator[Update]:
        """Yield what the next token completes."""
        if token_id in self._ends:
            return
        self._ids.append(token_id)
        for event in self._stream.feed(token_id):
            yield from self._convert_event(event)
        yield from self._read_new_text(last=False)

    def close(self) -> Iterator[Update]:
        """Yield what is left at the end of the answer: held-back text, and the problems of an open block or box."""
        for event in self._stream.close():
            yield from self._convert_event(event)
        yield from self._read_new_text(last=True)

    def _convert_event(self, event: StreamEvent) -> Iterator[Update]:
        if event.kind == "row":
            partial = self._stream.partial
            assert partial is not None
            depth = None
            if self._max_side != 0:
                depth = decode_partial_block(self._codec, partial, self._frame, self._max_side)
            yield Update("row", row=event.row, codes=event.codes, depth=depth)
        elif event.kind == "depth" and event.codes is not None:
            depth = None
            if self._max_side != 0:
                depth = resample_to_image(self._codec.decode(event.codes)[0], self._frame, self._max_side)
            yield Update("depth", codes=event.codes, depth=depth)
        elif event.kind == "box" and event.codes is not None:
            box = self._box_codec.decode(event.codes[None], frame=self._frame)[0]
            yield Update("box", codes=event.codes, box=box)
        elif event.kind == "problem":
            yield Update("problem", text=event.message)

    def _read_new_text(self, *, last: bool) -> Iterator[Update]:
        """The new text; text of an open block or of an incomplete character is held back until it is complete."""
        if self._stream.partial is not None and not last:
            return
        text = str(self._tokenizer.decode(self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        if len(text) > len(self._text) and (last or not text.endswith("\ufffd")):
            yield Update("text", text=text[len(self._text) :])
            self._text = text
