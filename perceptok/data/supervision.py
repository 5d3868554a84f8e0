"""Answers of records against the grammar of perception tokens and against the record's own evidence."""

from __future__ import annotations

import re
from collections.abc import Iterator

from perceptok.boxes import parse_boxes
from perceptok.data.records import PerceptionRecord
from perceptok.depth import block_from_text
from perceptok.errors import MalformedBlockError
from perceptok.tokens import DEPTH, DEPTH_GRID, PIXEL

__all__ = ["find_supervision_problems"]

_DEPTH_TOKEN = re.compile(rf"<{DEPTH.name}_[^<>\s]*>")
_CODES = DEPTH_GRID[0] * DEPTH_GRID[1]
_NUMERALS = re.compile(rf"[0-9]+(?: [0-9]+){{{_CODES // 2},}}")
"""A block in numerals, whole or not."""
_COUNT = re.compile(r"[Ww]e conclude there are ([0-9]+) ")
_CLOSEST = re.compile(r"point (\w+) is closer to the camera")
_NEAREST = re.compile(r"\b(?:closest|closer|nearest|nearer)\b")
_DIRECT = re.compile(r"\(?([A-Z])\)?\.?|([0-9]+)\.?")
_POINT = re.compile(r"Point (\w+) is located at \(x = ([0-9]+) y = ([0-9]+)\)")
_NONE = re.compile(r"There are no (.+?) in the image\.")
_PLURALS = (
    _NONE,
    re.compile(r"bounding boxes for the (.+?):\n"),
    re.compile(r"[Ww]e conclude there are [0-9]+ (.+?)\."),
)

_Boxes = list[tuple[int, ...]]


def find_supervision_problems(record: PerceptionRecord) -> list[str]:
    """Find what a model must not be taught: malformed answers, and answers that contradict `evidence` or `answer`.

    Depth tokens have to form whole blocks, coordinate tokens whole boxes with x1 <= x2 and y1 <= y2. The blocks and
    boxes that are written have to be those of the evidence, boxes in its order, and so have, where they are written in
    AURORA's forms, the places of points, the category and a count; an atomic answer has to have its block or boxes.
    `answer` has to be the number of boxes, and for a question about the nearest point the nearest by `level`. Only the
    assistant's turns are read: nothing else is supervised; for the regime "reading" also the question, which has to
    give the block of the evidence.

    Args:
        record: Any record; of a test record, which has no assistant's turn, `answer` and `evidence` alone are compared.

    Returns:
        The problems, each with the turn, and the character where it begins; empty for a valid record.
    """
    answers = {index: turn.text for index, turn in enumerate(record.turns) if turn.role == "assistant"}
    problems: list[str] = []
    if record.regime == "reading":
        problems += _check_given_block(record)
    blocks: list[list[tuple[int, ...]]] = []
    boxes: list[_Boxes] = []
    for index, text in answers.items():
        turn_blocks, turn_boxes = [], []
        for found in _read_blocks(text):
            if isinstance(found, str):
                problems.append(f"turns.{index}.text: {found}")
            else:
                turn_blocks.append(found)
        for box in _read_boxes(text, record.evidence.boxes is not None):
            if isinstance(box, str):
                problems.append(f"turns.{index}.text: {box}")
            else:
                turn_boxes.append(box)
        blocks.append(turn_blocks)
        boxes.append(turn_boxes)
    if answers and not problems:
        problems += _compare_codes(record, blocks, list(answers.values()))
        problems += _compare_boxes(record, boxes)
        for index, turn in enumerate(record.turns):
            if turn.role == "assistant" or record.regime == "reading":
                problems += (f"turns.{index}.text: {problem}" for problem in _compare_names(record, turn.text))
        problems += _compare_answer(record, list(answers.values())[-1])
    return problems or list(_check_answer(record))


def _check_given_block(record: PerceptionRecord) -> Iterator[str]:
    """The problems of the block that the questions of a record give."""
    codes = record.evidence.codes
    given: list[tuple[int, ...]] = []
    for index, turn in enumerate(record.turns):
        for found in _read_blocks(turn.text) if turn.role == "user" else ():
            if isinstance(found, str):
                yield f"turns.{index}.text: {found}"
            else:
                given.append(found)
    if codes is not None and codes not in given:
        numerals = " ".join(map(str, codes))
        if given or not any(numerals in turn.text for turn in record.turns if turn.role == "user"):
            yield "evidence.codes: the question does not give this block, as the regime 'reading' does"


def _read_blocks(text: str) -> Iterator[tuple[int, ...] | str]:
    """The codes of every block of a text, row-major; for a malformed block or a stray token the problem."""
    tokens = list(_DEPTH_TOKEN.finditer(text))
    place = 0
    while place < len(tokens):
        first = place
        place += 1
        if tokens[first][0] != DEPTH.start:
            while place < len(tokens) and tokens[place][0] != DEPTH.start:
                place += 1
            count = place - first
            yield f"{count} depth token{'s' * (count > 1)} outside a block at character {tokens[first].start()}"
            continue
        while place < len(tokens) and tokens[place - 1][0] != DEPTH.end and tokens[place][0] != DEPTH.start:
            place += 1
        start, end = tokens[first].start(), tokens[place - 1].end()
        try:
            yield tuple(int(code) for code in block_from_text(text[start:end]).ravel())
        except MalformedBlockError as error:
            yield f"the block at character {start}: {error}"


def _read_boxes(text: str, numerals: bool) -> Iterator[tuple[int, ...] | str]:
    """The codes of every box of a text; for a malformed one the problem. Boxes in numerals are read where asked for."""
    has_tokens = f"<{PIXEL.name}_" in text
    if not has_tokens and not numerals:
        return
    parsed = parse_boxes(text)
    yield from map(tuple, parsed.boxes.tolist())
    if has_tokens:  # numbers in brackets may be prose
        yield from (str(piece.to_error()) for piece in parsed.malformed)


def _compare_codes(record: PerceptionRecord, blocks: list[list[tuple[int, ...]]], texts: list[str]) -> Iterator[str]:
    codes = record.evidence.codes
    if codes is None:
        return
    found = [block for turn in blocks for block in turn]
    found += [tuple(map(int, numerals[0].split())) for text in texts for numerals in _NUMERALS.finditer(text)]
    if codes in found:
        return
    if found and len(found[0]) != len(codes):
        yield f"evidence.codes: the answer has {len(found[0])} numerals in place of {len(codes)} codes"
    elif found:
        differing = sum(code != other for code, other in zip(found[0], codes, strict=True))
        yield f"evidence.codes: {differing} of {len(codes)} codes differ from the answer's block"
    elif record.regime == "atomic":
        yield "evidence.codes: the answer has no depth block, as the regime 'atomic' has"


def _compare_boxes(record: PerceptionRecord, boxes: list[_Boxes]) -> Iterator[str]:
    evidence = record.evidence.boxes
    if evidence is None:
        return
    expected = [tuple(box) for box in evidence]
    found = [box for turn in boxes for box in turn]
    if expected in (found, *boxes) or (record.regime != "atomic" and not found):
        return
    if sorted(found) == sorted(expected):
        yield "evidence.boxes: the answer's boxes are in another order"
    else:
        yield f"evidence.boxes: the answer's boxes differ: {len(found)} in the text, {len(expected)} in the evidence"


def _compare_names(record: PerceptionRecord, text: str) -> Iterator[str]:
    """The places of points and the category that a text states in AURORA's forms, against the evidence."""
    places = {marker.letter: (int(marker.x), int(marker.y)) for marker in record.evidence.markers}
    for letter, x, y in _POINT.findall(text) if places else ():
        if letter not in places:
            yield f"point {letter} is not a marker of the evidence"
        elif places[letter] != (int(x), int(y)):
            yield f"point {letter} is at ({x}, {y}), by the evidence at {places[letter]}"
    plural = record.evidence.plural
    for pattern in _PLURALS if plural is not None else ():
        if (match := pattern.search(text)) and match[1] != plural:
            yield f"it is about {match[1]!r:.40}, the evidence about {plural!r:.40}"


def _compare_answer(record: PerceptionRecord, text: str) -> Iterator[str]:
    """The answer that a text gives in one of AURORA's forms, against the record's; and a count against its boxes."""
    is_counting = record.task == "counting"
    match = _DIRECT.fullmatch(text.strip()) or (_COUNT if is_counting else _CLOSEST).search(text)
    written = None if match is None else next(group for group in match.groups() if group)
    if written is None and is_counting and _NONE.search(text):
        written = "0"
    if written is None:
        return
    boxes = record.evidence.boxes
    if record.answer not in (None, written):
        yield f"answer: the text says {written!r}, the record {record.answer!r}"
    elif is_counting and boxes is not None and written != str(len(boxes)):
        yield f"evidence.boxes: the text counts {written}, the evidence has {len(boxes)}"
    elif record.choices and written not in record.choices and not written.isdecimal():
        yield f"choices: the text says {written!r}, which is not one of {', '.join(record.choices)}"


def _check_answer(record: PerceptionRecord) -> Iterator[str]:
    """The answer of a record against its evidence, whatever its text says."""
    answer, boxes, markers = record.answer, record.evidence.boxes, record.evidence.markers
    if answer is None:
        return
    if record.task == "counting" and boxes is not None and answer.isdecimal() and int(answer) != len(boxes):
        yield f"answer: it is {answer!r}, the evidence has {len(boxes)} boxes"
    letters = [marker.letter for marker in markers]
    if markers and (unknown := [choice for choice in record.choices if choice not in letters]):
        yield f"choices: {unknown[0]!r} is not a marker of the evidence ({', '.join(letters)})"
    levels = {marker.letter: marker.level for marker in markers if marker.level is not None}
    if record.task == "depth" and len(levels) == len(markers) > 1 and answer in levels:
        nearest = max(levels, key=levels.__getitem__)
        if levels[answer] < levels[nearest] and _NEAREST.search(record.question):
            yield f"answer: it is {answer!r}, by the levels of the evidence {nearest!r} is nearest"
