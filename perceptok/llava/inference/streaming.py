"""An answer while it is written: text, rows of the depth map as they fill, boxes, and the whole answer at last."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import StoppingCriteria

from perceptok.boxes import BoxCodec, ImageFrame
from perceptok.decoding import StreamEvent, TokenStream
from perceptok.depth import DepthMap
from perceptok.llava.inference.answer import PerceptionAnswer, depth_of_image
from perceptok.tokens import DEPTH_GRID
from perceptok.vocabulary import PerceptionVocabulary

if TYPE_CHECKING:
    from perceptok.depth import DepthCodec

__all__ = ["Update", "partial_depth", "stream_updates"]


@dataclass(frozen=True, eq=False, repr=False)
class Update:
    """One thing that became known.

    Attributes:
        kind: "text", "row" (a row of the open block is complete), "depth" (the block is), "box", "problem", or at last
            "answer".
        text: Of "text" what is new, a block in one piece: together they are the answer's text. Of "problem" what is
            wrong.
        row: Of "row": its number, 0..9.
        codes: Of "row" (10,), of "depth" (10, 10), of "box" (4,), int64.
        depth: Of "row" and "depth": the image's depth map so far, in its own pixels; not valid where rows are to come.
        box: Of "box": x1, y1, x2, y2 in the image's pixels, (4,) float64.
        answer: Of "answer".
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


def partial_depth(codec: DepthCodec, codes: np.ndarray, frame: ImageFrame) -> DepthMap:
    """The image's depth map of a block that is not complete.

    A cell that is to come is decoded as a copy of the last known row's, so that no edge appears that nobody wrote; the
    mask says which pixels are known.

    Args:
        codec: The model's.
        codes: (10, 10) int64 with -1 for what is to come, from the first row on; a row counts once it is whole.
        frame: How the image lay in what the model saw.
    """
    known = int((codes >= 0).all(axis=1).argmin()) if (codes < 0).any() else len(codes)
    filled = codes.copy()
    filled[known:] = codes[known - 1]
    nearness = codec.decode(filled)[0]
    depth = depth_of_image(nearness, frame)
    rows = np.floor((np.arange(frame.image_size[1]) + 0.5) * frame.scale[1] + frame.origin[1])
    return DepthMap(depth.values, depth.valid & (rows < known * frame.size / DEPTH_GRID[0])[:, None], "inverse")


def stream_updates(
    run: Callable[[StoppingCriteria], PerceptionAnswer],
    prompt_length: int,
    vocab: PerceptionVocabulary,
    tokenizer: Any,
    ends: Sequence[int],
    codec: DepthCodec,
    frame: ImageFrame,
    box_codec: BoxCodec,
) -> Iterator[Update]:
    """Run a generation in a thread and tell what its tokens complete; an error in it is raised here.

    Args:
        run: Generates with the stopping criteria given, and makes the answer.
        prompt_length: Ids of the prompt.
        vocab: What the ids mean.
        tokenizer: Ids -> text.
        ends: Ids that end a sequence.
        codec: Decodes rows.
        frame: How the image lay in what the model saw.
        box_codec: Decodes boxes.
    """
    watch = _Watch(prompt_length)

    def work() -> None:
        try:
            watch.tell(run(watch))
        except BaseException as error:  # noqa: BLE001 - raised again where the caller is
            watch.tell(error)

    thread = threading.Thread(target=work, name="perceptok-stream", daemon=True)
    thread.start()
    reader = _Reader(vocab, tokenizer, frozenset(ends), codec, frame, box_codec)
    try:
        while True:
            told = watch.told.get()
            if isinstance(told, BaseException):
                raise told
            if isinstance(told, PerceptionAnswer):
                yield from reader.close()
                yield Update("answer", answer=told)
                return
            yield from reader.read(told)
    finally:
        watch.stop.set()
        thread.join()


class _Watch(StoppingCriteria):
    """Hands each new id to the reading side, and ends the generation when nobody listens any more."""

    def __init__(self, seen: int) -> None:
        self.told: queue.SimpleQueue[int | PerceptionAnswer | BaseException] = queue.SimpleQueue()
        self.stop = threading.Event()
        self._seen = seen

    def tell(self, what: int | PerceptionAnswer | BaseException) -> None:
        self.told.put(what)

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Any:  # noqa: ARG002 - transformers' call
        new = input_ids[0, self._seen :].tolist()
        self._seen = input_ids.shape[1]
        for one in new:
            self.tell(one)
        return torch.full((len(input_ids),), self.stop.is_set(), dtype=torch.bool, device=input_ids.device)


class _Reader:
    """Ids -> updates."""

    def __init__(
        self,
        vocab: PerceptionVocabulary,
        tokenizer: Any,
        ends: frozenset[int],
        codec: DepthCodec,
        frame: ImageFrame,
        box_codec: BoxCodec,
    ) -> None:
        self._stream = TokenStream(vocab, skip_prompt=False)
        self._tokenizer, self._ends = tokenizer, ends
        self._codec, self._frame, self._box_codec = codec, frame, box_codec
        self._ids: list[int] = []
        self._text = ""

    def read(self, token_id: int) -> Iterator[Update]:
        if token_id in self._ends:
            return
        self._ids.append(token_id)
        for event in self._stream.feed(token_id):
            yield from self._told(event)
        yield from self._new_text(last=False)

    def close(self) -> Iterator[Update]:
        for event in self._stream.close():
            yield from self._told(event)
        yield from self._new_text(last=True)

    def _told(self, event: StreamEvent) -> Iterator[Update]:
        if event.kind == "row":
            partial = self._stream.partial
            assert partial is not None
            yield Update(
                "row", row=event.row, codes=event.codes, depth=partial_depth(self._codec, partial, self._frame)
            )
        elif event.kind == "depth" and event.codes is not None:
            depth = depth_of_image(self._codec.decode(event.codes)[0], self._frame)
            yield Update("depth", codes=event.codes, depth=depth)
        elif event.kind == "box" and event.codes is not None:
            box = self._box_codec.decode(event.codes[None], frame=self._frame)[0]
            yield Update("box", codes=event.codes, box=box)
        elif event.kind == "problem":
            yield Update("problem", text=event.message)

    def _new_text(self, *, last: bool) -> Iterator[Update]:
        """What is new in the text; an open block waits for its end, half a character for its other half."""
        if self._stream.partial is not None and not last:
            return
        text = str(self._tokenizer.decode(self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        if len(text) > len(self._text) and (last or not text.endswith("\ufffd")):
            yield Update("text", text=text[len(self._text) :])
            self._text = text
