"""Imports between packages go one way, by the syntax trees of all modules."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "perceptok"

GROUND = {
    *("checkpoints", "config", "endpoints", "errors", "files", "hub", "images", "jobs", "json_streams", "locks"),
    *("pages", "parquet", "precision", "tokens", "weights"),
}
"""Modules without knowledge of the domain, which every package may import."""

BELOW: dict[str, set[str]] = {
    "scenes": set(),
    "depth": set(),
    "boxes": set(),
    "vocabulary": set(),
    "decoding": {"vocabulary"},
    "losses": {"vocabulary"},
    "data": {"scenes", "depth", "boxes", "vocabulary"},
    "llava": {"scenes", "depth", "boxes", "vocabulary", "decoding", "losses", "data"},
    "evaluation": {"scenes", "depth", "boxes", "vocabulary", "decoding", "losses", "data", "llava"},
}
"""Package -> the packages that it may import, beside GROUND."""

WITHOUT_TRANSFORMERS = GROUND - {"checkpoints"} | {"scenes", "depth", "boxes"}

MODULES = sorted(LIBRARY.rglob("*.py"))
COMMANDS = sorted((ROOT / "perceptok_cli").rglob("*.py"))


def get_module_name(path: Path) -> str:
    """The dotted name, such as `perceptok.depth.codec`; a folder's `__init__.py` has the folder's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {get_module_name(path) for path in MODULES}


def list_imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute name) of everything that a module imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import; write the whole name"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def find_own_module(name: str) -> str | None:
    """The module of the library that an imported name is, or that defines it."""
    return name if name in NAMES else next((up for up in [name.rpartition(".")[0]] if up in NAMES), None)


def get_package(path: Path) -> str:
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def build_import_graph(paths: list[Path]) -> dict[str, set[str]]:
    """Module -> the modules of the library that it imports, anywhere in its code."""
    graph: dict[str, set[str]] = {}
    for path in paths:
        modules = {find_own_module(name) for _, name in list_imports(path)}
        graph[get_module_name(path)] = {name for name in modules if name and name != get_module_name(path)}
    return graph


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """The names of a cycle, or none."""
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_package_has_a_rule() -> None:
    assert {get_package(path) for path in MODULES} - {"__init__"} == BELOW.keys() | GROUND


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_packages_import_only_what_lies_below(path: Path) -> None:
    package = get_package(path)
    if package == "__init__":
        pytest.skip("the top of the package exports all others")
    allowed = BELOW.get(package, set()) | GROUND | {package}
    for line, name in list_imports(path):
        top, *inner = name.split(".")
        assert top != "perceptok_cli", f"{path}:{line}: the library imports its command line"
        if top == "perceptok":
            assert inner[0] in allowed, f"{path}:{line}: {package} imports {inner[0]}"
            if inner[0] not in GROUND | {package} or inner[0] == "pages" != package:
                assert len(inner) == 2, f"{path}:{line}: {name} goes past the public interface of {inner[0]}"
                assert name not in NAMES, f"{path}:{line}: {name} is a module, not a public name of {inner[0]}"
        if package in WITHOUT_TRANSFORMERS:
            assert top != "transformers", f"{path}:{line}: {package} imports transformers"


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_command_line_uses_public_interfaces(path: Path) -> None:
    for line, name in list_imports(path):
        top, *inner = name.split(".")
        assert top not in {"tests", "examples"}, f"{path}:{line}: imports {name}"
        if top == "perceptok":
            assert len(inner) <= 2, f"{path}:{line}: {name} goes past the public interface of {inner[0]}"
            is_exported = len(inner) == 2 and inner[1] in import_module(f"perceptok.{inner[0]}").__all__
            assert name not in NAMES or len(inner) == 1 or is_exported, f"{path}:{line}: {name} is not a public name"


def test_nothing_imports_the_small_model() -> None:
    for path in MODULES:
        if "small" not in path.parts:
            assert not [name for _, name in list_imports(path) if name.startswith("perceptok.llava.small")], path


def test_no_import_cycle() -> None:
    assert find_cycle(build_import_graph(MODULES)) == []
    assert find_cycle(build_import_graph(MODULES + COMMANDS)) == []


def test_a_cycle_is_found() -> None:
    """The check above can fail."""
    assert set(find_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}


def test_no_module_without_a_concept() -> None:
    assert not {path.stem for path in MODULES + COMMANDS} & {"utils", "helpers", "common", "misc"}


_OWN_SETTING = "model.trust_remote_code"
"""Of an engine that has loaded the model already, by its user's own setting."""


def list_loaders(path: Path) -> list[tuple[int, bool]]:
    """The calls of `from_pretrained` and `from_config` of transformers' auto classes: line, whether code is refused."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        is_auto = re.search("(?i)auto", ast.unparse(node.func.value)) is not None
        if node.func.attr in ("from_pretrained", "from_config") and is_auto:
            # `**options` is a mapping with the key.
            refuses = any(
                keyword.arg is None
                or (keyword.arg == "trust_remote_code" and ast.unparse(keyword.value) in ("False", _OWN_SETTING))
                for keyword in node.keywords
            )
            found.append((node.lineno, refuses))
    return found


def test_no_loader_runs_code_of_a_folder() -> None:
    loaders = {path: list_loaders(path) for path in MODULES + COMMANDS}
    assert sum(map(len, loaders.values())) > 5
    assert not [f"{path}:{line}" for path, calls in loaders.items() for line, refuses in calls if not refuses]
