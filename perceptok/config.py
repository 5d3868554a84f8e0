"""Dataclasses from JSON and YAML: unknown keys, missing ones and values of another type are refused by name."""

from __future__ import annotations

import copy
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args, get_type_hints

from perceptok.errors import ConfigError, PerceptokError, add_place, quote_error
from perceptok.files import decode_text, find_suffix, parse_json, read_input

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

__all__ = [
    "apply_overrides",
    "config_from_dict",
    "find_config_file",
    "list_presets",
    "parse_overrides",
    "parse_yaml",
    "read_config",
    "read_mapping",
    "resolve_overrides",
    "resolve_paths",
    "validate_json",
]

Config = TypeVar("Config")

_MAX_BYTES = 2**24
"""Size limit of a configuration file, as it is and decompressed: 17 MB."""

_MAX_YAML_VALUES = 100_000
"""Values of a YAML file, those of aliases counted each time."""

_MAX_ERRORS = 5
"""Errors that one message lists."""


def config_from_dict(
    kind: type[Config], values: object, *, name: str | None = None, error: type[PerceptokError] = ConfigError
) -> Config:
    """Build a dataclass from plain JSON types.

    Args:
        kind: A dataclass whose fields are booleans, numbers, strings, literals, tuples, mappings from strings,
            dataclasses, or unions of these; `Annotated[int, pydantic.Field(ge=0)]` adds limits.
        values: Its fields by name; lists stand for tuples, nested objects for dataclasses, which may also be given as
            such. Missing keys take their default. Types are strict: an integer is a valid float, but a boolean or a
            string is not a valid number, and NaN and infinity are refused.
        name: What messages begin with: a file, or a file and a line; default: the name of the dataclass.
        error: The error to raise.

    Raises:
        PerceptokError: Of the type `error`: `values` is not a mapping, a key is unknown or missing, or a value has
            another type. What `__post_init__` of a dataclass raises passes through unchanged.
    """
    name = kind.__name__ if name is None else name
    if not isinstance(values, Mapping):
        raise error(f"{name}: expected an object of settings; got {values!r:.80}")
    try:
        text = json.dumps(values, default=_dataclass_to_dict)
    except (TypeError, ValueError, RecursionError) as reason:
        raise error(f"{name}: expected JSON types; {reason}") from reason
    return validate_json(kind, text.encode(), name, error)


def validate_json(kind: type[Config], text: bytes, name: str, error: type[PerceptokError]) -> Config:
    """Parse the JSON text of a dataclass, several times faster than `parse_json` and checks in Python.

    Args:
        kind: A dataclass, as `config_from_dict` takes it.
        text: UTF-8.
        name: What messages begin with: a file, or a file and a line.
        error: The error to raise.

    Raises:
        PerceptokError: Of the type `error`, as `config_from_dict`, and for text that is not valid JSON.
    """
    from pydantic import ValidationError

    try:
        return cast(Config, _adapter(cast(Any, kind)).validate_json(b"[" + text + b"]")[0])
    except ValidationError as reason:
        details = reason.errors(include_url=False)
        for detail in details:
            if isinstance(raised := detail.get("ctx", {}).get("error"), PerceptokError):
                raise raised from reason
        reasons = [_describe(kind, detail) for detail in details[:_MAX_ERRORS]]
        if len(details) > _MAX_ERRORS:
            reasons.append(f"and {len(details) - _MAX_ERRORS} more")
        raise error(f"{name}: {'; '.join(reasons)}") from reason


def read_config(kind: type[Config], path: str | os.PathLike[str]) -> Config:
    """Read a configuration from a file: YAML (`.yaml`, `.yml`) or JSON (anything else), gzip or not.

    Raises:
        ConfigError: The file cannot be read, is not valid YAML or JSON, or has settings that `config_from_dict`
            refuses; the message names the file.
    """
    values = _read_values(path)
    try:
        return config_from_dict(kind, values)
    except ConfigError as error:
        raise ConfigError(add_place(path, error)) from error


def read_mapping(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read an object of settings from YAML or JSON; raises ConfigError that names the file."""
    values = _read_values(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{os.fspath(path)}: expected an object of settings; got {values!r:.80}")
    return values


def list_presets(package: str) -> dict[str, str]:
    """List the configurations that a package ships, in the YAML files of its folder `presets`.

    Args:
        package: A package of perceptok, such as "data".

    Returns:
        What each is for (the comment in its first line), by name, in alphabetical order.
    """
    paths = sorted((Path(__file__).parent / package / "presets").glob("*.yaml"))
    return {path.stem: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for path in paths}


def find_config_file(source: str | os.PathLike[str], package: str) -> Path:
    """Find a configuration: a file, or a preset of a package by its name.

    Args:
        source: A path, which goes before a preset of the same name; or a name of `list_presets`.
        package: The package whose presets are meant, such as "data".

    Raises:
        ConfigError: There is neither; the message lists the presets.
    """
    path = Path(source)
    if path.is_file():
        return path
    presets = list_presets(package)
    if os.fspath(source) in presets:
        return Path(__file__).parent / package / "presets" / f"{source}.yaml"
    raise ConfigError(f"{path}: no such file{', and not a preset: ' if presets else ''}{', '.join(presets)}")


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Parse command line words such as `--learning_rate 1e-4 --lora.r 64 --gradient_checkpointing` into settings.

    Values are read as YAML; a name without a value is true; several values are a list.

    Raises:
        ConfigError: A word without a setting's name before it.
    """
    values: dict[str, list[Any]] = {}
    name = None
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            values[name] = [_parse_word(value, name)] if equals else []
        elif name is not None:
            values[name].append(_parse_word(word, name))
        else:
            raise ConfigError(f"unexpected argument {word!r}; settings are given as --name value")
    return {name: True if not given else given[0] if len(given) == 1 else given for name, given in values.items()}


def _parse_word(word: str, name: str) -> object:
    """Parse a value as YAML; a pattern such as *.jpg is text, though YAML reads an alias there."""
    return word if word.startswith("*") else parse_yaml(word, name)


def apply_overrides(values: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Set settings in place, nested ones by dotted names such as `lora.r`.

    Raises:
        ConfigError: A name leads into a setting that is not an object.
    """
    for name, value in overrides.items():
        *groups, key = name.split(".")
        target: Any = values
        for depth, group in enumerate(groups, 1):
            target = target.setdefault(group, {})
            if not isinstance(target, dict):
                raise ConfigError(f"{'.'.join(groups[:depth])} has no setting {'.'.join([*groups[depth:], key])}")
        target[key] = value


def resolve_paths(
    values: dict[str, Any], folder: str | os.PathLike[str], paths: Sequence[str], sources: Sequence[str] = ()
) -> None:
    """Make paths of a file of settings absolute, in place: they are relative to the file's folder.

    Args:
        values: The settings of the file.
        folder: The file's folder.
        paths: Names of settings that are a path or a list of paths, nested ones dotted; `*` is any key, and any item of
            a list.
        sources: Names of settings that may also be a hub id or a preset's name: made absolute where the file exists.
    """
    base = Path(folder).absolute()
    for name in (*paths, *sources):
        *groups, key = name.split(".")
        for target in _find_groups(values, groups):
            value = target.get(key)
            if isinstance(value, str) and value and (name in paths or (base / value).exists()):
                target[key] = str(base / value)
            elif isinstance(value, list) and name in paths:
                target[key] = [str(base / item) if isinstance(item, str) else item for item in value]


def _find_groups(values: dict[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of settings that a list of keys leads to; `*` leads to all values of an object or a list."""
    found: list[Any] = [values]
    for name in names:
        if name == "*":
            inner = [value for group in found for value in (group.values() if isinstance(group, dict) else group)]
        else:
            inner = [group[name] for group in found if isinstance(group, dict) and name in group]
        found = [group for group in inner if isinstance(group, dict | list)]
    return [group for group in found if isinstance(group, dict)]


def resolve_overrides(
    overrides: Mapping[str, Any], paths: Sequence[str], sources: Sequence[str] = ()
) -> dict[str, Any]:
    """Make the paths among overrides absolute: they are relative to the current directory, not to a file of settings.

    Args:
        overrides: Settings as `apply_overrides` takes them, nested ones by dotted names or as mappings.
        paths: Names of settings that are a path, as in `resolve_paths`.
        sources: Names of settings that may also be a hub id or a preset's name.

    Returns:
        The overrides; those given are not changed.
    """
    resolved = {}
    for name, value in overrides.items():
        settings: dict[str, Any] = {}
        apply_overrides(settings, {name: copy.deepcopy(value)})
        resolve_paths(settings, ".", paths, sources)
        for key in name.split("."):
            settings = settings[key]
        resolved[name] = settings
    return resolved


def _read_values(path: str | os.PathLike[str]) -> object:
    source = Path(path)
    try:
        text = decode_text(read_input(source, allow_pipe=True, max_bytes=_MAX_BYTES), max_bytes=_MAX_BYTES)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: cannot be read (not UTF-8 text)") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path, or gzip of too many bytes
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{source}: cannot be read ({reason})") from error
    if find_suffix(source) in (".yaml", ".yml"):
        return parse_yaml(text, str(source))
    return parse_json(text, str(source), ConfigError)


def parse_yaml(text: str, name: str) -> object:
    """Parse YAML, with the numbers of YAML 1.2: 1e-4 is a number. Raises ConfigError with the given name."""
    import yaml

    try:
        loader = _yaml_loader()(text)  # refuses characters such as NUL
        node = loader.get_single_node()
        if node is None:
            return None
        _check_nodes(node, {})
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: not valid YAML ({_describe_yaml_error(error)})") from error


def _describe_yaml_error(error: Exception) -> str:
    """Describe an error of PyYAML in one line: the problem and its place."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:
        return quote_error(error)
    return f"{problem}: line {mark.line + 1} column {mark.column + 1}"


_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_MAX_NUMBER = 400
"""Characters of a number."""


def _check_nodes(node: Any, counts: dict[int, int]) -> int:
    """Count the values below a YAML node, those of aliases each time; raises ValueError beyond a limit.

    A few aliases of aliases stand for more values than any memory holds. A key that is given twice is refused, of which
    the loader takes the last.
    """
    import yaml

    if id(node) in counts:
        count = counts[id(node)]
        if count == 0:
            raise ValueError("an alias contains itself")
        return count
    counts[id(node)] = 0
    count = 1
    if node.tag in _NUMBER_TAGS and len(node.value) > _MAX_NUMBER:  # 1:1:1 is a number of base 60
        raise ValueError(f"a number of {len(node.value)} characters")
    if isinstance(node, yaml.MappingNode):
        keys = Counter((key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if repeated := [key for (_, key), number in keys.items() if number > 1]:
            raise ValueError(f"the key {repeated[0]!r:.60} is given twice")
    if isinstance(node, yaml.CollectionNode):
        for item in node.value:
            count += sum(_check_nodes(part, counts) for part in (item if isinstance(item, tuple) else (item,)))
    if count > _MAX_YAML_VALUES:
        raise ValueError(f"more than {_MAX_YAML_VALUES} values, with those of its aliases")
    counts[id(node)] = count
    return count


@cache
def _yaml_loader() -> Any:
    """PyYAML's SafeLoader, which reads 1e-4 as text, with a further rule for numbers."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"[-+]?(?:\d++\.?\d*+|\.\d++)[eE][-+]?\d++$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader


@cache
def _adapter(kind: Any) -> TypeAdapter[tuple[Any]]:
    from pydantic import ConfigDict, TypeAdapter

    # A dataclass of the standard library has no settings of its own and takes those of what holds it, here a tuple.
    strict = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    return TypeAdapter(tuple[kind], config=strict)


def _dataclass_to_dict(value: object) -> dict[str, Any]:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"got {value!r:.80}")


def _describe(kind: type, detail: ErrorDetails) -> str:
    """Describe an error of pydantic: the field's path, what is expected, and what was given."""
    path = detail["loc"][1:]
    field = ".".join(map(str, path))
    if detail["type"] == "json_invalid":
        return f"not valid JSON ({detail['ctx']['error']})"
    if detail["type"] == "unexpected_keyword_argument":
        known = ", ".join(key.name for key in fields(_find_dataclass(kind, path[:-1])))
        return f"unknown key {field!r}; known keys are {known}"
    if detail["type"] == "missing":
        return f"{field}: missing"
    reason = detail["msg"].replace("Input should be", "expected").removeprefix("Value error, ")
    return f"{field}{': ' if field else ''}{reason}; got {detail['input']!r:.80}"


def _find_dataclass(kind: Any, path: tuple[int | str, ...]) -> Any:
    """The dataclass at a path of field names, list indices, mapping keys and, for unions, class names."""
    classes = [kind]
    for part in path:
        hints = [hint for cls in classes for name, hint in get_type_hints(cls).items() if name == part]
        named = [cls for cls in classes if cls.__name__ == part]
        classes = [nested for hint in hints for nested in _dataclasses_in(hint)] or named or classes
    return classes[0]


def _dataclasses_in(hint: Any) -> list[Any]:
    return [hint] if is_dataclass(hint) else [nested for part in get_args(hint) for nested in _dataclasses_in(part)]
