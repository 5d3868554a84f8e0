"""Configurations from JSON: valid values are read exactly, all others refused by name."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from perceptok.config import (
    apply_overrides,
    config_from_dict,
    find_config_file,
    list_presets,
    parse_overrides,
    read_config,
    read_mapping,
    resolve_overrides,
    resolve_paths,
)
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
    config = Outer(7, False, "b", (), (4, "mm"), 5, {"a": 0.25}, Inner(0.125), Other("y"))
    assert config_from_dict(Outer, json.loads(json.dumps(asdict(config)))) == config
    assert config_from_dict(Outer, {"steps": 1, "either": config.either}) == Outer(1, either=Other("y"))


@pytest.mark.parametrize(("name", "text"), [("c.json", '{"steps": 3}'), ("c.yaml", "steps: 3"), ("c.YML", "steps: 3")])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_files_are_read_gzip_or_not(tmp_path: Path, name: str, text: str, suffix: str) -> None:
    path = tmp_path / f"{name}{suffix}"
    for content in (text.encode(), b"\xef\xbb\xbf" + text.encode(), gzip.compress(text.encode())):
        path.write_bytes(content)
        assert read_config(Outer, path) == Outer(3)
        assert read_mapping(path) == {"steps": 3}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe", r"not UTF-8 text"),
        (gzip.compress(b"steps: 3")[:-9], r"damaged gzip"),
        (gzip.compress(b"#" * (2**24 + 1)), r"gzip of \d+ bytes that holds more than the \d+ bytes"),
        (b"#" * (2**24 + 1), r"has 16777217 bytes; at most 16777216"),
    ],
    ids=["bytes", "truncated", "expands", "long"],
)
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"c\.yaml: cannot be read \(.*{reason}"):
        read_mapping(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match="null byte"):
        read_mapping("c\0.yaml")


def test_an_integer_is_read_as_a_float() -> None:
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
def test_invalid_values_are_refused_by_name(values: Any, message: str) -> None:
    if isinstance(values, dict) and values and "step" not in values:
        values = {"steps": 1, **values}
    with pytest.raises(ConfigError, match=message):
        config_from_dict(Outer, values)


def test_overrides_from_the_command_line() -> None:
    words = "--rate 1e-4 --inner.size 3 --on --off=false --names a b --pattern *.jpg"
    overrides = parse_overrides(words.split())
    expected = {"rate": 1e-4, "inner.size": 3, "on": True, "off": False, "names": ["a", "b"], "pattern": "*.jpg"}
    assert overrides == expected
    values: dict[str, Any] = {"rate": 1, "inner": {"size": 1, "kind": "x"}}
    apply_overrides(values, {**overrides, "new.deep.key": 5})
    assert values["inner"] == {"size": 3, "kind": "x"}
    assert values["new"] == {"deep": {"key": 5}}
    with pytest.raises(ConfigError, match=r"rate has no setting deep\.key"):
        apply_overrides(values, {"rate.deep.key": 1})
    with pytest.raises(ConfigError, match="name: not valid YAML"):
        parse_overrides(["--name", "{"])
    with pytest.raises(ConfigError, match="unexpected argument 'extra'"):
        parse_overrides(["extra"])


@pytest.mark.parametrize("package", ["data", "depth", "evaluation", "llava"])
def test_a_preset_is_found_by_its_name_and_a_file_before_it(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, purpose in list_presets(package).items():
        assert purpose
        assert read_mapping(find_config_file(name, package))
        Path(name).write_text("{}")
        assert find_config_file(name, package) == Path(name)
    with pytest.raises(ConfigError, match=r"missing\.yaml: no such file"):
        find_config_file("missing.yaml", package)


def test_paths_are_relative_to_their_file(tmp_path: Path) -> None:
    (tmp_path / "owner" / "local").mkdir(parents=True)
    values: dict[str, Any] = {
        "output": "run",
        "files": ["a", "/b"],
        "inner": {"path": "../c"},
        "model": "owner/local",
        "other": "owner/name",
        "none": None,
        "flat": 3,
    }
    resolve_paths(
        *(values, tmp_path, ["output", "files", "inner.path", "none", "missing", "flat.path"]),
        sources=["model", "other"],
    )
    assert values == {
        "output": str(tmp_path / "run"),
        "files": [str(tmp_path / "a"), "/b"],
        "inner": {"path": str(tmp_path / "../c")},
        "model": str(tmp_path / "owner/local"),
        "other": "owner/name",
        "none": None,
        "flat": 3,
    }


def test_any_key_of_an_object_and_any_item_of_a_list(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "sources": {"a": {"images": "x", "model": {"path": "m"}}, "b": {"images": "/y"}, "c": None, "d": "text"},
        "tests": [{"data": "t"}, {"data": "owner/name"}, 3],
    }
    (tmp_path / "t").touch()
    resolve_paths(values, tmp_path, ["sources.*.images", "sources.*.model.path", "sources.*"], sources=["tests.*.data"])
    assert values["sources"]["a"] == {"images": str(tmp_path / "x"), "model": {"path": str(tmp_path / "m")}}
    assert values["sources"]["b"] == {"images": "/y"}
    assert values["tests"] == [{"data": str(tmp_path / "t")}, {"data": "owner/name"}, 3]


def test_paths_in_overrides_are_relative_to_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    nested = {"b": {"images": "z"}}
    overrides = {"sources.a.images": "x", "sources": nested, "seed": 3, "codec": "owner/name", "files": ["f", "/g"]}
    assert resolve_overrides(overrides, ["sources.*.images", "files"], ["codec"]) == {
        "sources.a.images": str(tmp_path / "x"),
        "sources": {"b": {"images": str(tmp_path / "z")}},
        "seed": 3,
        "codec": "owner/name",
        "files": [str(tmp_path / "f"), "/g"],
    }
    assert nested == {"b": {"images": "z"}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "line 1 column 5"),
        ("a: 1\n b: {", "line 2 column"),
        ("\t", "line"),
        ("a: \0", "special characters"),
        ("a: 1\nb: {c: 1, d: 2, c: 3}", "the key 'c' is given twice"),
    ],
)
def test_an_error_of_yaml_is_one_line(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"a\.yaml: not valid YAML \(.*{reason}") as error:
        read_mapping(path)
    assert "\n" not in str(error.value)
