"""The front door: the same names in three places, each opening its room, and nothing heavy behind it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import perceptok

_MEASURE = """
import json, sys, time
import perceptok
heavy = sorted({"torch", "transformers", "numpy"} & sys.modules.keys())
del sys.modules["perceptok"]
import torch
start = time.perf_counter()
import perceptok
print(json.dumps({"heavy": heavy, "seconds": time.perf_counter() - start}))
"""


def type_checking_imports() -> dict[str, str]:
    tree = ast.parse(Path(perceptok.__file__).read_text(encoding="utf-8"))
    blocks = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    assert len(blocks) == 1
    imports = [node for node in blocks[0].body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: str(node.module) for node in imports for alias in node.names}


def test_three_lists_of_names_agree() -> None:
    assert set(perceptok.__all__) == perceptok._HOMES.keys()
    assert type_checking_imports() == perceptok._HOMES


def test_lists_are_sorted() -> None:
    # As ruff sorts __all__: constants, then classes, then functions.
    kind = {name: 0 if name.isupper() else 1 if name[0].isupper() else 2 for name in perceptok.__all__}
    assert list(perceptok.__all__) == sorted(perceptok.__all__, key=lambda name: (kind[name], name))
    assert list(perceptok._HOMES) == sorted(perceptok._HOMES)


@pytest.mark.parametrize("name", perceptok.__all__)
def test_every_name_opens_its_room(name: str) -> None:
    room = import_module(perceptok._HOMES[name])
    assert getattr(perceptok, name) is getattr(room, name)
    assert name in dir(perceptok)
    assert name in getattr(room, "__all__", ())


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'DepthMop'"):
        _ = perceptok.DepthMop


def test_importing_costs_next_to_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", _MEASURE], capture_output=True, text=True, check=True, timeout=120)
    measured = json.loads(done.stdout)
    assert measured["heavy"] == []
    assert measured["seconds"] < 0.3
