"""Docstrings of public names state the purpose, shapes and ranges of arrays, and errors."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import pytest

import perceptok

ARRAYS = re.compile(r"\b(Tensor|ndarray|ArrayLike|Depth|ImageSource)\b")
SHAPE = re.compile(
    r"\([A-Za-z0-9_.,\-+* ]*,[A-Za-z0-9_.,\-+* ]*\)|\b1-D\b|\b2-D\b|same shape|any shape|scalar|one number"
)
RANGE_OR_UNIT = re.compile(
    r"\d\.\.|\bin \[|\.\. ?\d|\bpixels?\b|\bmetres?\b|\bnats?\b|\bids?\b|\bcodes?\b|\bbool|float|int64|nearness|"
    r"\bshares?\b|probabilit|logit|loss|sum|\brows?\b|weight"
)
SEE = re.compile(r"\b(See|as|As|inverse of|Inverse of) `[\w.]+`|the exact inverse", re.IGNORECASE)


PACKAGES = [value for value in (getattr(perceptok, name) for name in perceptok.__all__) if inspect.ismodule(value)]
EXPORTED = {name: getattr(package, name) for package in PACKAGES for name in getattr(package, "__all__", ())}
PUBLIC = {name: value for name, value in EXPORTED.items() if getattr(value, "__module__", "").startswith("perceptok.")}


def public_callables() -> Iterator[tuple[str, Any]]:
    """(dotted name, function) of every public function, and of every public method and property of a public class."""
    for name, value in PUBLIC.items():
        if inspect.isclass(value):
            for inner, member in vars(value).items():
                function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
                if isinstance(function, FunctionType) and not inner.startswith("_"):
                    yield f"{name}.{inner}", function
        elif inspect.isfunction(value):
            yield name, value


CALLABLES = dict(public_callables())
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}


def takes_arrays(function: FunctionType) -> bool:
    hints = {name: str(hint) for name, hint in function.__annotations__.items() if name != "return"}
    return any(ARRAYS.search(hint) for hint in hints.values())


WITH_ARRAYS = {name: function for name, function in CALLABLES.items() if takes_arrays(function)}


def test_public_names_are_found() -> None:
    assert len(CALLABLES) > 80
    assert len(WITH_ARRAYS) > 20
    assert "distillation_loss" in WITH_ARRAYS


@pytest.mark.parametrize("name", [*CLASSES, *CALLABLES])
def test_every_public_name_states_its_purpose(name: str) -> None:
    doc = inspect.getdoc((CLASSES | CALLABLES)[name])
    assert doc, f"{name} has no docstring"
    first = doc.splitlines()[0]
    assert len(first) >= 10, first
    assert first.endswith((".", ":", "?", ",")) or len(first) > 60, first


@pytest.mark.parametrize("name", WITH_ARRAYS)
def test_shapes_and_ranges_of_arrays_are_stated(name: str) -> None:
    doc = inspect.getdoc(WITH_ARRAYS[name]) or ""
    if SEE.search(doc):
        return  # refers to another docstring
    assert SHAPE.search(doc), f"{name} does not state the shape of its arrays:\n{doc}"
    assert RANGE_OR_UNIT.search(doc), f"{name} does not state a unit, range or type:\n{doc}"


@pytest.mark.parametrize(
    "name", [name for name, function in CALLABLES.items() if "Error" in inspect.getsource(function)]
)
def test_errors_are_stated(name: str) -> None:
    raised = set(re.findall(r"raise (\w+Error)", inspect.getsource(CALLABLES[name])))
    doc = inspect.getdoc(CALLABLES[name]) or ""
    own_errors = {error for error in raised if hasattr(perceptok.errors, error)}
    missing = {error for error in own_errors if error not in doc and not SEE.search(doc)}
    assert not missing, f"{name} raises {missing} and does not state it:\n{doc}"
