"""Frozen dataclasses from plain JSON: unknown keys, missing ones and values of another type are refused by name."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from perceptok.errors import ConfigError
from perceptok.files import parse_json

__all__ = ["config_from_dict", "read_config", "read_mapping"]


Config = TypeVar("Config")


def config_from_dict(kind: type[Config], values: object) -> Config:
    """A configuration of plain JSON types.

    Args:
        kind: A dataclass whose fields are booleans, numbers, strings, literals, tuples, mappings from strings,
            dataclasses, or unions of these.
        values: Its fields by name; lists stand for tuples, nested objects for dataclasses (which may also be given as
            such). What is missing takes its default.

    Raises:
        ConfigError: `values` is no mapping; a key is unknown or missing; a value has another type; or what the
            dataclass itself refuses.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{kind.__name__} is an object of settings; got {values!r}")
    hints = get_type_hints(kind)
    known = [one.name for one in fields(cast(Any, kind))]
    if unknown := [str(key) for key in values if key not in known]:
        raise ConfigError(f"unknown keys in {kind.__name__}: {', '.join(unknown)}; known are {', '.join(known)}")
    typed = {name: _typed(value, hints[name], f"{name} of {kind.__name__}") for name, value in values.items()}
    try:
        return kind(**typed)
    except TypeError as error:  # a field without a default
        raise ConfigError(f"{kind.__name__}: {error}") from error


def read_config(kind: type[Config], path: str | os.PathLike[str]) -> Config:
    """Read a configuration from a file: YAML (`.yaml`, `.yml`) or JSON (anything else).

    Raises:
        ConfigError: The file cannot be read, is not valid YAML or JSON, or has settings that `config_from_dict`
            refuses; the message names the file.
    """
    try:
        return config_from_dict(kind, _read_values(path))
    except ConfigError as error:
        message = str(error)
        raise ConfigError(message if message.startswith(os.fspath(path)) else f"{os.fspath(path)}: {error}") from error


def read_mapping(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read an object of settings from YAML or JSON; raises ConfigError that names the file."""
    values = _read_values(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{os.fspath(path)}: expected an object of settings; got {values!r}")
    return values


def _read_values(path: str | os.PathLike[str]) -> object:
    source = Path(path)
    try:
        text = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{source}: cannot be read ({reason})") from error
    if source.suffix.lower() in (".yaml", ".yml"):
        return _parse_yaml(text, source)
    return parse_json(text, str(source), ConfigError)


def _parse_yaml(text: str, source: Path) -> object:
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: not valid YAML ({error})") from error


def _typed(value: object, hint: Any, name: str) -> object:
    """The value as its annotation wants it."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _first_that_fits(value, parts, name)
    if origin is tuple and isinstance(value, list | tuple):
        if len(parts) == 2 and parts[1] is Ellipsis:
            parts = (parts[0],) * len(value)
        if len(parts) == len(value):
            return tuple(_typed(one, part, name) for one, part in zip(value, parts, strict=True))
    elif origin is Mapping and isinstance(value, Mapping):
        return {_typed(key, parts[0], name): _typed(one, parts[1], name) for key, one in value.items()}
    elif is_dataclass(hint):
        return value if isinstance(value, cast(type, hint)) else config_from_dict(cast(type, hint), value)
    elif value in parts if origin is Literal else _is(value, hint):
        return float(cast(float, value)) if hint is float else value
    raise ConfigError(f"{name} is {_spelled(hint)}; got {value!r}")


def _first_that_fits(value: object, hints: tuple[Any, ...], name: str) -> object:
    nested = [hint for hint in hints if is_dataclass(hint)]
    if isinstance(value, Mapping) and len(nested) == 1:  # its own message says more than that nothing fits
        return _typed(value, nested[0], name)
    for hint in hints:
        try:
            return _typed(value, hint, name)
        except ConfigError:
            continue
    raise ConfigError(f"{name} is {' or '.join(map(_spelled, hints))}; got {value!r}")


def _is(value: object, hint: Any) -> bool:
    # JSON's true is no 1, and its 1 may well be a float; NaN and infinity configure nothing.
    if hint is bool or isinstance(value, bool):
        return hint is bool and isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and abs(value) <= sys.float_info.max
    return get_origin(hint) is None and isinstance(value, hint)


def _spelled(hint: Any) -> str:
    if hint is types.NoneType:
        return "None"
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
