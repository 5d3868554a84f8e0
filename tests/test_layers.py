"""Which room may import which: the plan of the house, held by walking every module's syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

EVERYWHERE = {"configs", "errors", "files"}
FLOORS: dict[str, set[str]] = {
    "configs": set(),
    "errors": set(),
    "files": set(),
    "tokens": set(),
    "depth": {"tokens"},
    "boxes": {"tokens"},
    "vocabulary": {"tokens"},
    "decoding": {"tokens", "vocabulary"},
    "objectives": {"tokens", "vocabulary"},
    "data": {"tokens", "depth", "boxes"},
    "evaluation": {"tokens", "depth", "boxes"},
    "llava": {"tokens", "depth", "boxes", "vocabulary", "decoding", "objectives", "data", "evaluation"},
}
WITHOUT_TRANSFORMERS = {"configs", "errors", "files", "tokens", "depth", "boxes", "data"}

LIBRARY = sorted((ROOT / "perceptok").rglob("*.py"))
COMMANDS = sorted((ROOT / "perceptok_cli").rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute name) of everything that a module imports, at any depth of its code."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "perceptok").parts[0].removesuffix(".py")


def test_there_is_something_to_walk() -> None:
    assert {room_of(path) for path in LIBRARY} >= {"errors", "tokens", "depth"}


def test_every_room_is_on_the_plan() -> None:
    assert {room_of(path) for path in LIBRARY} - {"__init__"} <= FLOORS.keys()


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_import_only_what_lies_below(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        pytest.skip("the front door opens every room")
    allowed = FLOORS[room] | EVERYWHERE | {room}
    for line, name in imported(path):
        top, *inner = name.split(".")
        assert top != "perceptok_cli", f"{path}:{line}: the library imports its command line"
        if top == "perceptok":
            # From the front door itself nothing may come: every name has a room.
            assert inner, f"{path}:{line}: imports the whole of perceptok"
            assert inner[0] in allowed, f"{path}:{line}: {room} imports {inner[0]}"
        if room in WITHOUT_TRANSFORMERS:
            assert top != "transformers", f"{path}:{line}: {room} imports transformers"


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_command_line_enters_no_other_house(path: Path) -> None:
    tests_or_examples = [name for _, name in imported(path) if name.split(".")[0] in {"tests", "examples"}]
    assert not tests_or_examples


def test_no_cupboards() -> None:
    named = {path.stem for path in LIBRARY + COMMANDS}
    assert not named & {"utils", "helpers", "common"}
