"""Which room may import which: the table of the design, held by reading the code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

GROUND = {"errors", "files", "tokens"}
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "tokens": {"errors"},
    "depth": GROUND,
    "boxes": GROUND,
    "vocabulary": GROUND,
    "decoding": GROUND | {"vocabulary"},
    "objectives": GROUND | {"vocabulary"},
    "data": GROUND | {"depth", "boxes"},
    "evaluation": GROUND | {"depth", "boxes"},
    "llava": GROUND | {"depth", "boxes", "vocabulary", "decoding", "objectives", "data", "evaluation"},
}
FILES = sorted((ROOT / "perceptok").rglob("*.py"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by full name"
            names.add(node.module or "")
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.name != "__init__.py" or path.parent.name != "perceptok"]
)
def test_rooms(path: Path) -> None:
    room = path.relative_to(ROOT / "perceptok").parts[0].removesuffix(".py")
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("perceptok.")}
    assert rooms - {room} <= ALLOWED[room]
    assert not any(name.startswith("perceptok_cli") for name in imported(path))
    if room not in {"vocabulary", "decoding", "objectives", "evaluation", "llava"}:
        assert not any(name.split(".")[0] == "transformers" for name in imported(path))


def test_no_room_without_a_subject() -> None:
    assert not {path.stem for path in FILES} & {"util", "utils", "helper", "helpers", "common", "misc"}
