"""Entries of LLaVA's and of chat form -> records; what AURORA's released samples say is read out of their text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from perceptok.boxes.text.parsing import parse_boxes
from perceptok.data.records.record import IMAGE_TAG, Evidence, PerceptionRecord, Regime, Task, Turn
from perceptok.depth.blocks import block_from_text
from perceptok.errors import MalformedBlockError, RecordError
from perceptok.tokens import DEPTH, PIXEL

__all__ = ["record_from_chat", "record_from_llava"]

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
_BLOCK = re.compile(f"{DEPTH.start}.*?{DEPTH.end}", re.DOTALL)
_ATOMIC_DEPTH = re.compile(rf"(The depth map (for|of) the image is )?{_BLOCK.pattern}\.?", re.DOTALL)
_NONE = re.compile(r"There are no (.+?) in the image\.( We conclude there are 0 .+\.)?")
_LISTED = re.compile(r"(Here are|Based on the analysis, here are) the bounding boxes for the (.+?):")
_COUNT = re.compile(r"we conclude there are ([0-9]+) ")
_CLOSEST = re.compile(r"point (\w+) is closer to the camera")


def record_from_llava(
    entry: object, name: str = "entry", *, task: Task | None = None, regime: Regime | None = None
) -> PerceptionRecord:
    """A record of one entry of a LLaVA JSON file: `id`, `image`, `conversations` with `from` and `value`.

    What `PerceptionRecord.to_llava` wrote comes back whole. Of other entries task, regime, evidence and answer are read
    out of the text where it is in one of AURORA's forms (arXiv 2412.03548); the frame stays unknown.

    Args:
        entry: The entry as JSON types.
        name: Where it comes from, for messages.
        task: Of entries whose text is in no known form.
        regime: As `task`.

    Raises:
        RecordError: Not such an entry; or task and regime are neither known nor said.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("conversations"), list):
        raise RecordError(f"{name}: expected an object with `conversations`, got {entry!r:.60}")
    turns = []
    for index, turn in enumerate(entry["conversations"]):
        place = f"{name}: conversations[{index}]"
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise RecordError(f"{place}: expected an object with `from` and `value`, got {turn!r:.60}")
        role = _ROLES.get(str(turn.get("from")))
        if role is None:
            raise RecordError(f"{place}.from: expected one of {', '.join(_ROLES)}, got {turn.get('from')!r}")
        turns.append({"role": role, "text": turn["value"]})
    image = entry.get("image", [])
    images = image if isinstance(image, list) else [image]
    if turns:
        turns[0]["text"] = _without_tags(turns[0]["text"], len(images), name)
    return _record(entry, turns, images, name, task, regime)


def record_from_chat(
    entry: object, name: str = "entry", *, task: Task | None = None, regime: Regime | None = None
) -> PerceptionRecord:
    """A record of one row of chat form: `messages` and `images`; as `record_from_llava` otherwise."""
    if not isinstance(entry, dict) or not isinstance(entry.get("messages"), list):
        raise RecordError(f"{name}: expected an object with `messages`, got {entry!r:.60}")
    turns, tags = [], 0
    for index, message in enumerate(entry["messages"]):
        place = f"{name}: messages[{index}]"
        if not isinstance(message, dict):
            raise RecordError(f"{place}: expected an object with `role` and `content`, got {message!r:.60}")
        content = message.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise RecordError(f"{place}.content: expected text or a list of parts, got {content!r:.60}")
        texts = [part.get("text") for part in parts if part.get("type") == "text"]
        tags += sum(part.get("type") == "image" for part in parts)
        if len(texts) != 1 or not isinstance(texts[0], str):
            raise RecordError(f"{place}.content: expected one text, got {len(texts)}")
        turns.append({"role": message.get("role"), "text": texts[0]})
    images = entry.get("images", [])
    if not isinstance(images, list) or len(images) != tags:
        raise RecordError(f"{name}: images: the messages show {tags} images, the entry names {images!r:.60}")
    return _record(entry, turns, images, name, task, regime)


def _record(
    entry: Mapping[str, Any],
    turns: list[dict[str, Any]],
    images: list[Any],
    name: str,
    task: Task | None,
    regime: Regime | None,
) -> PerceptionRecord:
    identity = entry.get("id")
    values: dict[str, Any] = {
        "id": str(identity) if isinstance(identity, int) else identity,
        "images": images,
        "turns": turns,
    }
    if "perceptok" in entry:
        rest = entry["perceptok"]
        if not isinstance(rest, dict):
            raise RecordError(f"{name}: perceptok: expected an object, got {rest!r:.60}")
        return PerceptionRecord.from_dict({**rest, **values}, name)
    if not turns or turns[-1]["role"] != "assistant":
        raise RecordError(f"{name}: expected a conversation that ends with an answer")
    known, kind, answer, evidence = _read_answer(turns[-1]["text"], name)
    if (task or known) is None or (regime or kind) is None:
        raise RecordError(
            f"{name}: the answer {turns[-1]['text']!r:.60} is in none of AURORA's forms; say task= and regime="
        )
    try:
        return PerceptionRecord(
            values["id"],
            tuple(images),
            tuple(Turn(turn["role"], turn["text"]) for turn in turns),
            task or known,  # type: ignore[arg-type]
            regime or kind,  # type: ignore[arg-type]
            answer=answer,
            evidence=evidence,
            provenance={"read_from": "LLaVA form"},
        )
    except RecordError as error:
        raise RecordError(f"{name}, record {identity!r}: {error}") from error


def _without_tags(text: str, count: int, name: str) -> str:
    """The first turn's text without its image tags, which may stand before or behind it."""
    rest, found = text, 0
    while rest.startswith(IMAGE_TAG):
        rest, found = rest.removeprefix(IMAGE_TAG).removeprefix("\n"), found + 1
    while rest.endswith(IMAGE_TAG):
        rest, found = rest.removesuffix(IMAGE_TAG).removesuffix("\n"), found + 1
    if found != count or IMAGE_TAG in rest:
        raise RecordError(
            f"{name}: conversations[0].value: expected {IMAGE_TAG} once for each of {count} images, before or behind "
            f"the question; got {text!r:.60}"
        )
    return rest


def _read_answer(text: str, name: str) -> tuple[Task | None, Regime | None, str | None, Evidence]:
    """Task, regime, answer and evidence, as far as the text is in one of AURORA's forms."""
    blocks = _BLOCK.findall(text)
    if len(blocks) == 1:
        try:
            codes = tuple(int(code) for code in block_from_text(blocks[0]).ravel())
        except MalformedBlockError as error:
            raise RecordError(f"{name}: the answer's depth block: {error}") from error
        atomic = _ATOMIC_DEPTH.fullmatch(text) is not None
        closest = _CLOSEST.search(text)
        return "depth", "atomic" if atomic else "cot", closest and closest[1], Evidence(codes)
    if none := _NONE.fullmatch(text):
        cot = none[2] is not None
        return "counting", "cot" if cot else "atomic", "0" if cot else None, Evidence(boxes=(), plural=none[1])
    if listed := _LISTED.match(text):
        parsed = parse_boxes(text, size=PIXEL.size)
        if parsed.malformed:
            raise RecordError(f"{name}: the answer's boxes: {parsed.malformed[0].error()}")
        boxes: tuple[Any, ...] = tuple(tuple(box) for box in parsed.boxes.tolist())
        count = _COUNT.search(text)
        regime: Regime = "atomic" if listed[1] == "Here are" else "cot"
        return "counting", regime, count and count[1], Evidence(boxes=boxes, plural=listed[2])
    if re.fullmatch(r"\([A-Z]\)", text):
        return "depth", "direct", text[1], Evidence()
    if re.fullmatch(r"[0-9]+", text):
        return "counting", "direct", text, Evidence()
    return None, None, None, Evidence()
