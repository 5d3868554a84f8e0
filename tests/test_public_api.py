"""The public interfaces: a few names at the top, each package exporting its own, nothing heavy imported for them."""

from __future__ import annotations

import ast
import collections
import inspect
import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import perceptok

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = sorted(path.parent.name for path in (ROOT / "perceptok").glob("*/__init__.pyi"))
EXPORTS = {
    f"{package}.{name}": package for package in PACKAGES for name in import_module(f"perceptok.{package}").__all__
}
MAX_NAMES_AT_THE_TOP = 16

_COUNT_IMPORTS = """
import json, sys
before = set(sys.modules)
import perceptok
imported = set(sys.modules) - before
print(json.dumps({"heavy": sorted({"torch", "transformers", "numpy"} & imported), "count": len(imported)}))
"""


def names_at_the_top() -> list[str]:
    return [name for name in perceptok.__all__ if not inspect.ismodule(getattr(perceptok, name))]


def test_few_names_at_the_top() -> None:
    assert 10 < len(names_at_the_top()) <= MAX_NAMES_AT_THE_TOP


@pytest.mark.parametrize("name", perceptok.__all__)
def test_every_name_at_the_top_is_there(name: str) -> None:
    value = getattr(perceptok, name)
    assert name in dir(perceptok)
    if not inspect.ismodule(value) and value is not perceptok.PerceptokError:
        package = value.__module__.split(".")[1]
        assert value is getattr(import_module(f"perceptok.{package}"), name)


@pytest.mark.parametrize("dotted", EXPORTS)
def test_every_export_of_a_package_is_there_and_documented(dotted: str) -> None:
    package, name = dotted.split(".")
    module = import_module(f"perceptok.{package}")
    value = getattr(module, name)
    assert name in dir(module)
    assert not name.startswith("_")
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__module__.startswith(f"perceptok.{package}."), f"{dotted} is defined in {value.__module__}"
        assert inspect.getdoc(value), f"{dotted} has no docstring"


def test_no_two_exports_share_a_name() -> None:
    counts = collections.Counter(dotted.split(".")[1] for dotted in EXPORTS)
    assert [name for name, count in counts.items() if count > 1] == []


def test_no_two_public_definitions_share_a_name() -> None:
    homes: dict[str, set[str]] = collections.defaultdict(set)
    for path in (ROOT / "perceptok").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                homes[node.name].add(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", *(path for top in ("perceptok", "examples") for path in (ROOT / top).rglob("*.md"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_pages_name_no_deeper_module(page: Path) -> None:
    deeper = re.findall(r"(?:from|import) (perceptok(?:\.\w+){2,})", page.read_text(encoding="utf-8"))
    assert deeper == []


def test_examples_name_no_deeper_module() -> None:
    for path in (ROOT / "examples").rglob("*.py"):
        deeper = re.findall(r"(?:from|import) (perceptok(?:\.\w+){2,})", path.read_text(encoding="utf-8"))
        assert deeper == [], path


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="attribute DepthMop"):
        _ = perceptok.DepthMop
    with pytest.raises(AttributeError, match="attribute DepthMop"):
        _ = perceptok.depth.DepthMop


def test_importing_the_top_imports_few_modules() -> None:
    done = subprocess.run([sys.executable, "-c", _COUNT_IMPORTS], capture_output=True, text=True, check=True)
    imports = json.loads(done.stdout)
    assert imports["heavy"] == []
    assert imports["count"] < 100
