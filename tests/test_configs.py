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
        ([], "Outer: expected an object of settings"),
        (None, "Outer: expected an object of settings"),
        ({}, "Outer: steps: missing"),
        ({"step": 1}, "Outer: .*unknown key 'step'; known keys are steps, on"),
        ({"steps": "many"}, "Outer: steps: expected a valid integer; got 'many'"),
        ({"steps": True}, "steps: expected a valid integer; got True"),
        ({"steps": 1.0}, "steps: expected a valid integer; got 1.0"),
        ({"steps": None}, "steps: expected a valid integer; got None"),
        ({"on": 1}, "on: expected a valid boolean; got 1"),
        ({"mode": "c"}, "mode: expected 'a' or 'b'; got 'c'"),
        ({"mode": ["a"]}, r"mode: expected 'a' or 'b'; got \['a'\]"),
        ({"widths": 3}, "widths: expected a valid array; got 3"),
        ({"widths": [1, "2"]}, r"widths\.1: expected a valid integer; got '2'"),
        ({"size": [1]}, r"size\.1: missing"),
        ({"limit": "none"}, "limit: expected a valid integer; got 'none'"),
        ({"shares": {"a": "half"}}, r"shares\.a: expected a valid number; got 'half'"),
        ({"shares": [0.5]}, r"shares: expected an object; got \[0.5\]"),
        ({"inner": {"rate": float("nan")}}, r"inner\.rate: expected a finite number; got nan"),
        ({"inner": 3}, "inner: expected an object; got 3"),
        ({"inner": {"rat": 3}}, r"unknown key 'inner\.rat'; known keys are rate"),
        ({"steps": {1}}, "expected JSON types; got {1}"),
        (
            {"either": {"neither": 1}},
            r"'either\.Inner\.neither'; known keys are rate; unknown key 'either\.Other\.neither'; known keys are name",
        ),
    ],
)
def test_refused_by_name(values: Any, message: str) -> None:
    if isinstance(values, dict) and values and "step" not in values:
        values = {"steps": 1, **values}
    with pytest.raises(ConfigError, match=message):
        config_from_dict(Outer, values)
