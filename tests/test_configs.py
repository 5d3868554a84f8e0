"""Configurations from JSON: what fits is taken exactly, everything else is refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pytest

from perceptok.config import config_from_dict
from perceptok.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5


@dataclass(frozen=True)
class Other:
    name: str = "x"


@dataclass(frozen=True)
class Outer:
    steps: int
    on: bool = True
    mode: Literal["a", "b"] = "a"
    widths: tuple[int, ...] = (1, 2)
    size: tuple[int, str] = (3, "px")
    limit: int | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    either: Inner | Other = field(default_factory=Inner)


def test_round_trip_through_json() -> None:
    one = Outer(7, False, "b", (), (4, "mm"), 5, {"a": 0.25}, Inner(0.125), Other("y"))
    assert config_from_dict(Outer, json.loads(json.dumps(asdict(one)))) == one
    assert config_from_dict(Outer, {"steps": 1, "either": one.either}) == Outer(1, either=Other("y"))


def test_a_whole_number_is_a_float_and_becomes_one() -> None:
    rate = config_from_dict(Inner, {"rate": 1}).rate
    assert rate == 1
    assert isinstance(rate, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "object of settings"),
        (None, "object of settings"),
        ({}, "steps"),
        ({"step": 1}, "unknown keys in Outer: step; known are steps, on"),
        ({"steps": "many"}, "steps of Outer is int; got 'many'"),
        ({"steps": True}, "steps of Outer is int"),
        ({"steps": 1.0}, "steps of Outer is int"),
        ({"steps": None}, "steps of Outer is int"),
        ({"on": 1}, "on of Outer is bool"),
        ({"mode": "c"}, "mode of Outer is one of 'a', 'b'; got 'c'"),
        ({"mode": ["a"]}, "mode of Outer"),
        ({"widths": 3}, "widths of Outer"),
        ({"widths": [1, "2"]}, "widths of Outer is int; got '2'"),
        ({"size": [1]}, "size of Outer"),
        ({"limit": "none"}, "limit of Outer is int or None"),
        ({"shares": {"a": "half"}}, "shares of Outer is float"),
        ({"shares": [0.5]}, "shares of Outer"),
        ({"inner": {"rate": float("nan")}}, "rate of Inner is float"),
        ({"inner": 3}, "Inner is an object of settings"),
        ({"either": {"neither": 1}}, "either of Outer is Inner or Other"),
    ],
)
def test_refused_by_name(values: Any, message: str) -> None:
    if isinstance(values, dict) and values and "step" not in values:
        values = {"steps": 1, **values}
    with pytest.raises(ConfigError, match=message):
        config_from_dict(Outer, values)
