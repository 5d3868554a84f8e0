"""Reading lessons: a depth block, points in words, and a conclusion that follows from the block alone.

There is no image and no vision tower: the block of a true map is given, and a language model learns to read it. The
value of a point is the mean nearness of its cell in the decoded map, so that all names of a point tell the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

import perceptok as pt
from perceptok.data import Marker
from perceptok.files import atomic_write
from perceptok.scenes import ProceduralDepthMaps

LETTERS = "ABCDE"
SIDE = 336
GRID = 10
CUE = " point"
"""The word before the letter of the conclusion, as in AURORA's "Since point B has a higher pixel value"."""
_CHUNK = 64
_GAP = 20 / 255


@dataclass(frozen=True)
class Form:
    """The text of a lesson.

    Attributes:
        block: "plain", 100 codes; or "keyed", before each code a token that names its cell, <PIXEL_0> .. <PIXEL_99>, so
            that a cell can be found by its name instead of its position.
        naming: The place of a point: "index", the token that names its cell; "cell", row and column of the cell as
            digits; "pixel", x and y as PIXEL tokens; "xy", x and y as digits; "none", only letters: a control, since
            nothing can be read.
        evidence: What is written for each point between block and conclusion: "none"; "code", the code of its cell;
            "digits", its nearness, 00..99; "bins", its nearness in ten steps; "code_digits", both.
        order: "block_points", the points follow the block, each with its evidence beside its place; "block_question",
            a question with the points follows the block, and then the evidence; "question_block", the question
            precedes the block, as in AURORA's chain of thought.
        restated: With a question: the place of a point is written again beside its evidence.
        leader: After the evidence of each point the letter of the nearest point so far, as a running total: the
            conclusion is the last of them, and each is a comparison of two values.
        wording: "short", or the texts of AURORA's chain of thought around the same facts.
    """

    block: Literal["plain", "keyed"] = "plain"
    naming: Literal["index", "cell", "pixel", "xy", "none"] = "index"
    evidence: Literal["none", "code", "digits", "bins", "code_digits"] = "code"
    order: Literal["block_points", "block_question", "question_block"] = "block_points"
    restated: bool = True
    leader: bool = False
    wording: Literal["short", "aurora"] = "short"


@dataclass(frozen=True)
class Piece:
    """A piece of a lesson's text.

    Attributes:
        text: The text.
        is_given: It is given to the model, which is not trained to write it.
        cell: The cell whose code it quotes; -1 for none.
    """

    text: str
    is_given: bool = False
    cell: int = -1


@dataclass(frozen=True, eq=False)
class Lessons:
    """Blocks that questions are drawn about.

    Attributes:
        codes: (N, 100) int64, row-major blocks.
        soft: (N, 100, 128) float16, the codec's probabilities of each cell.
        values: (N, 100) float32, mean nearness of each cell of the decoded map.
    """

    codes: NDArray[np.int64]
    soft: NDArray[np.float16]
    values: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def levels(self) -> NDArray[np.float64]:
        """(128,) mean value of the cells of each code; NaN for codes that no block has."""
        counts = np.bincount(self.codes.ravel(), minlength=128)
        sums = np.bincount(self.codes.ravel(), weights=self.values.ravel(), minlength=128)
        return np.divide(sums, counts, out=np.full(128, np.nan), where=counts > 0)


def find_nearest(points: Sequence[Marker]) -> str:
    """The letter of the nearest point by the block."""
    return max(points, key=lambda point: point.level or 0.0).letter


def find_cell(point: Marker) -> int:
    """The row-major index, 0..99, of the grid cell that a point lies in."""
    return int(point.y) * GRID // SIDE * GRID + int(point.x) * GRID // SIDE


def draw_points(values: NDArray[np.float32], count: int, rng: np.random.Generator) -> tuple[Marker, ...]:
    """Draw points in different cells whose values are at least 20 of 255 grey levels apart.

    Args:
        values: (100,) nearness of the block's cells.
        count: Number of points, 2 to 5; fewer where the block does not have as many levels.
        rng: The generator.
    """
    chosen: list[int] = []
    for cell in rng.permutation(len(values)).tolist():
        if all(abs(values[cell] - values[other]) >= _GAP for other in chosen):
            chosen.append(cell)
        if len(chosen) == count:
            break
    points = []
    for letter, cell in zip(LETTERS, chosen, strict=False):
        row, column = divmod(cell, GRID)
        y, x = (int(rng.integers(-(-place * SIDE // GRID), -(-(place + 1) * SIDE // GRID))) for place in (row, column))
        points.append(Marker(letter, x, y, float(np.clip(values[cell], 0, 1))))
    return tuple(points)


def make_lessons(maps: Sequence[NDArray[np.float32]], codec: pt.DepthCodec) -> Lessons:
    """Encode nearness maps, (320, 320) float32; blocks whose values span less than 100 grey levels are left out."""
    codes, soft, values = [], [], []
    for start in range(0, len(maps), _CHUNK):
        chunk = np.stack(maps[start : start + _CHUNK])
        blocks = codec.encode(chunk)
        means = codec.decode(blocks).reshape(len(chunk), GRID, 32, GRID, 32).mean((2, 4)).reshape(len(chunk), -1)
        is_varied = np.ptp(means, axis=1) > 5 * _GAP
        codes.append(blocks.reshape(len(chunk), -1)[is_varied])
        values.append(means[is_varied])
        probabilities = np.asarray(codec.encode_soft(chunk, temperature=0.02))
        soft.append(probabilities.reshape(len(chunk), GRID**2, -1)[is_varied].astype(np.float16))
    return Lessons(np.concatenate(codes), np.concatenate(soft), np.concatenate(values))


def procedural_lessons(seed: int, count: int, codec: pt.DepthCodec, cache: Path) -> Lessons:
    """Lessons on procedural maps and their mirror images, made once and then read from the folder `cache`."""
    path = cache / f"lessons-{seed}-{count}.npz"
    if not path.is_file():
        maps = [nearness for nearness, _ in ProceduralDepthMaps(seed, count)]
        lessons = make_lessons([*maps, *(nearness[:, ::-1].copy() for nearness in maps)], codec)
        cache.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, force=True) as file:
            np.savez(file, codes=lessons.codes, soft=lessons.soft, values=lessons.values)
    with np.load(path) as stored:
        return Lessons(stored["codes"], stored["soft"], stored["values"])


def measure_rule(lessons: Lessons, levels: NDArray[np.float64], questions: int = 5) -> tuple[float, float]:
    """Share of conclusions that are right by a rule that knows only each code's mean value; and by guessing."""
    rng = np.random.default_rng(0)
    right, chance, count = 0, 0.0, 0
    for codes, values in zip(lessons.codes, lessons.values, strict=True):
        for _ in range(questions):
            points = draw_points(values, int(rng.integers(2, 6)), rng)
            guess = max(points, key=lambda point: np.nan_to_num(levels[codes[find_cell(point)]]))
            right += guess.letter == find_nearest(points)
            chance += 1 / len(points)
            count += 1
    return right / count, chance / count


def write_place(point: Marker, form: Form) -> list[str]:
    """The place of a point, in pieces; empty for the naming "none"."""
    row, column = divmod(find_cell(point), GRID)
    pieces = {
        "index": [f"<PIXEL_{find_cell(point)}>"],
        "cell": [" ", str(row), " ", str(column)],
        "pixel": [f"<PIXEL_{point.x}>", f"<PIXEL_{point.y}>"],
        "xy": [" ", *str(point.x), " ", *str(point.y)],
        "none": [],
    }[form.naming]
    if form.wording == "aurora" and form.naming == "xy":
        return [" (x", " =", " ", *str(point.x), " y", " =", " ", *str(point.y), ")"]
    return pieces


def write_block(codes: NDArray[np.int64], form: Form) -> list[str]:
    """The block, in pieces."""
    pieces = ["<DEPTH_START>"]
    for cell, code in enumerate(codes.tolist()):
        pieces += [f"<PIXEL_{cell}>"] if form.block == "keyed" else []
        pieces.append(f"<DEPTH_{code}>")
    return [*pieces, "<DEPTH_END>"]


def write_question(points: Sequence[Marker], form: Form) -> list[str]:
    """The question with its points, in pieces; empty where the points are named beside their evidence."""
    if form.order == "block_points":
        return []
    pieces: list[str] = []
    if form.wording == "aurora":
        pieces.append("Which point is the closest to the camera?")
    for number, point in enumerate(points):
        if form.wording == "aurora":
            pieces += [", Point" if number else " Point", f" {point.letter}", " is located at"]
            pieces += write_place(point, form)
        else:
            pieces += [f" {point.letter}", *write_place(point, form)]
    return [*pieces, "." if form.wording == "aurora" else "?"]


def write_evidence(point: Marker, code: int, form: Form) -> list[Piece]:
    """The place and the evidence of one point; empty where neither is written."""
    tens, units = map(str, divmod(int(min(0.999, max(0.0, point.level or 0.0)) * 100), 10))
    quote = Piece(f"<DEPTH_{code}>", cell=find_cell(point))
    values = {
        "none": [],
        "code": [quote],
        "digits": [Piece(tens), Piece(units)],
        "bins": [Piece(tens)],
        "code_digits": [quote, Piece(tens), Piece(units)],
    }[form.evidence]
    is_given = form.order == "block_points"
    if not values and not is_given:
        return []
    place = write_place(point, form) if is_given or form.restated else []
    return [Piece(text, is_given) for text in (f" {point.letter}", *place)] + values


def write_answer(points: Sequence[Marker], codes: NDArray[np.int64], form: Form) -> list[Piece]:
    """The evidence of each point, and the conclusion, whose letter is the last piece."""
    pieces = []
    for number, point in enumerate(points, 1):
        pieces += write_evidence(point, int(codes[find_cell(point)]), form)
        if form.leader:
            pieces += [Piece(":", is_given=True), Piece(f" {find_nearest(points[:number])}")]
    pieces += [Piece(text, is_given=True) for text in (".", " Since") if text == "." or form.wording == "aurora"]
    return [*pieces, Piece(CUE, is_given=True), Piece(f" {find_nearest(points)}")]
