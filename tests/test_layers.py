"""Which room may import which: the plan of the house, held by walking every module's syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOUSE = ROOT / "perceptok"

EVERYWHERE = {"cluster", "configs", "errors", "files"}
"""Files of the ground floor that every room may import."""

FLOORS: dict[str, set[str]] = {
    "cluster": set(),
    "configs": set(),
    "errors": set(),
    "files": set(),
    "tokens": set(),
    "scenes": set(),
    "depth": {"tokens"},
    "boxes": {"tokens"},
    "vocabulary": {"tokens"},
    "decoding": {"tokens", "vocabulary"},
    "objectives": {"tokens", "vocabulary"},
    "data": {"tokens", "scenes", "depth", "boxes"},
    "evaluation": {"tokens", "depth", "boxes", "data", "decoding"},
    "llava": {
        "tokens",
        "scenes",
        "depth",
        "boxes",
        "vocabulary",
        "decoding",
        "objectives",
        "data",
        "evaluation",
    },
}
"""Room -> the rooms that it may import, beside EVERYWHERE."""

WITHOUT_TRANSFORMERS = {"cluster", "configs", "errors", "files", "tokens", "scenes", "depth", "boxes"}

SUBROOMS: dict[str, list[str]] = {
    "depth": ["maps", "networks", "folders", "scores", "training"],
    "depth/maps": ["formats"],
    "data": ["records", "specialists", "sources", "tasks", "recipes"],
    "boxes": ["frames", "text", "datasets", "scores"],
    "decoding": ["grammar", "reading", "engines"],
    "scenes": ["layouts", "pictures"],
    "evaluation": ["report", "benchmarks", "lmms_eval"],
    "vocabulary": ["alignment"],
    "llava": ["inference", "folders", "training", "ablation", "small"],
}
"""Room -> its sub-rooms from the ground up: each imports those before it, and none after it."""

MOST_FILES = 12
"""Of one folder, `__init__.py` not counted."""

MODULES = sorted(path for path in HOUSE.rglob("*.py"))
COMMANDS = sorted((ROOT / "perceptok_cli").rglob("*.py"))
FOLDERS = sorted({path.parent for path in MODULES})


def name_of(path: Path) -> str:
    """`perceptok.depth.codec`; a folder's `__init__.py` has the folder's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


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
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def module_imported(name: str, names: set[str]) -> str | None:
    """The module of ours that an imported name belongs to: itself, or the module that defines it."""
    return name if name in names else next((up for up in [name.rpartition(".")[0]] if up in names), None)


def import_graph(paths: list[Path]) -> dict[str, set[str]]:
    """Module -> the modules of the house that it imports, anywhere in its code."""
    names = {name_of(path) for path in paths}
    graph: dict[str, set[str]] = {}
    for path in paths:
        found = {module_imported(name, names) for _, name in imported(path)}
        graph[name_of(path)] = {name for name in found if name and name != name_of(path)}
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The names of one circle, or nothing."""
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def test_there_is_something_to_walk() -> None:
    assert {room_of(path) for path in MODULES} >= {"errors", "tokens", "depth", "scenes"}


def test_every_room_is_on_the_plan() -> None:
    assert {room_of(path) for path in MODULES} - {"__init__"} <= FLOORS.keys()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
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


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if folder != HOUSE], ids=lambda folder: folder.name)
def test_every_subroom_is_on_the_plan(folder: Path) -> None:
    below = {inner.name for inner in FOLDERS if inner.parent == folder}
    assert below == set(SUBROOMS.get(str(folder.relative_to(HOUSE)), []))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_subrooms_import_their_siblings_one_way(path: Path) -> None:
    for room, order in SUBROOMS.items():
        home = HOUSE / room
        if not path.is_relative_to(home):
            continue
        own = path.relative_to(home).parts[0]
        if own not in order:
            continue
        above = set(order[order.index(own) + 1 :])
        prefix = ["perceptok", *room.split("/")]
        for line, name in imported(path):
            parts = name.split(".")
            if parts[: len(prefix)] == prefix and len(parts) > len(prefix):
                assert parts[len(prefix)] not in above, f"{path}:{line}: {own} imports {name}, which lies above it"


def test_no_circle_of_files() -> None:
    assert circle(import_graph(MODULES)) == []


def test_a_circle_is_seen() -> None:
    """The check above can fail."""
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_room_is_seen_at_a_glance(folder: Path) -> None:
    files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= MOST_FILES, f"{folder} has {len(files)} files; give it sub-rooms"


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_command_line_enters_no_other_house(path: Path) -> None:
    tests_or_examples = [name for _, name in imported(path) if name.split(".")[0] in {"tests", "examples"}]
    assert not tests_or_examples


def test_no_cupboards() -> None:
    named = {path.stem for path in MODULES + COMMANDS}
    assert not named & {"utils", "helpers", "common"}
