"""What every benchmark is made of: items, each a question with its answer."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from perceptok.data.records.record import Evidence
from perceptok.errors import EvaluationError
from perceptok.evaluation.answers import Reading, read_answer

__all__ = ["Benchmark", "Item"]


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        id: Unique in its benchmark.
        question: In words.
        answer: The right one: a letter of the choices, or a count in digits.
        choices: Letter -> what it stands for (which may be nothing); empty: a count is asked for.
        image: The picture, a file or its bytes; None where it is not at hand.
        groups: How scores are broken down: name -> value, such as "markers" -> "5".
        markers: Letter -> x, y in pixels of the picture, where they are known.
        evidence: What the right answer rests on, where it is known.
    """

    id: str
    question: str
    answer: str
    choices: Mapping[str, str] = field(default_factory=dict)
    image: Path | bytes | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    markers: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    evidence: Evidence | None = None

    def __post_init__(self) -> None:
        fine = self.answer in self.choices if self.choices else self.answer.isdecimal()
        if not fine:
            expected = f"one of {', '.join(self.choices)}" if self.choices else "a count in digits"
            raise EvaluationError(f"item {self.id}: its answer is {self.answer!r}; expected {expected}")

    def read(self, text: str) -> Reading:
        """What a text answers; see `read_answer`."""
        return read_answer(text, self.choices)

    def picture(self) -> bytes | None:
        """The picture's bytes; raises EvaluationError where its file cannot be read."""
        if not isinstance(self.image, Path):
            return self.image
        try:
            return self.image.read_bytes()
        except OSError as error:
            raise EvaluationError(f"item {self.id}: {self.image} cannot be read ({error.strerror})") from error

    def opened(self) -> Image.Image:
        """The picture in RGB; raises EvaluationError where there is none, or it cannot be read."""
        data = self.picture()
        if data is None:
            raise EvaluationError(f"item {self.id} has no picture; name the benchmark's images")
        with self._reading(), Image.open(io.BytesIO(data)) as opened:
            return opened.convert("RGB")

    def size(self) -> tuple[int, int] | None:
        """Width and height of the picture, None where there is none; raises EvaluationError where it cannot be read."""
        data = self.picture()
        if data is None:
            return None
        with self._reading(), Image.open(io.BytesIO(data)) as opened:
            return opened.size

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise EvaluationError(f"item {self.id}: its picture cannot be read ({error})") from error


@dataclass(frozen=True)
class Benchmark:
    """A named set of items.

    Attributes:
        name: As in the catalogue, such as "hardblink-5".
        items: In their published order.
        published: System -> accuracy in percent, as its authors report it.

    Raises:
        EvaluationError: No items, or an id that stands twice.
    """

    name: str
    items: tuple[Item, ...]
    published: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.items:
            raise EvaluationError(f"{self.name} has no items")
        twice = [name for name, count in Counter(item.id for item in self.items).items() if count > 1]
        if twice:
            raise EvaluationError(f"{self.name}: {len(twice)} ids stand more than once, such as {twice[0]!r}")

    def __len__(self) -> int:
        return len(self.items)

    def by_id(self) -> dict[str, Item]:
        """Items by their id."""
        return {item.id: item for item in self.items}


def image_of(value: Any, folder: Path | None) -> Path | bytes | None:
    """The picture of a row: bytes, a Pillow image, the struct of `datasets`, or a name in the folder of images.

    A name whose file has another suffix is found by its stem: HardBLINK's questions say .png of what may be .jpg.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, Image.Image):
        out = io.BytesIO()
        value.save(out, "PNG")
        return out.getvalue()
    if isinstance(value, bytes) or value is None:
        return value
    if folder is None:
        return None
    path = folder / str(value)
    if not path.is_file():
        path = next(iter(sorted(path.parent.glob(f"{_escaped(path.stem)}.*"))), path)
    return path


def _escaped(stem: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in stem)
