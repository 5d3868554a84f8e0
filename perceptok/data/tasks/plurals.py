"""Plural forms of category names: a table first, then English grammar."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from perceptok.errors import ConfigError, DataError, MissingExtraError
from perceptok.files import parse_json

__all__ = ["Plurals"]

_PLURAL_ALREADY = frozenset(
    {
        *("binoculars", "boxers", "clippers", "earphones", "eyeglasses", "glasses", "goggles", "headphones", "jeans"),
        *("leggings", "overalls", "pajamas", "pants", "pliers", "scissors", "shears", "shorts", "skis", "spectacles"),
        *("sprouts", "sunglasses", "suspenders", "tights", "tongs", "trousers", "tweezers", "underpants"),
    }
)
"""Pair nouns and names that data sets give in the plural; grammar cannot tell "scissors" from "bus"."""


class Plurals:
    """Names of categories as people write them, in the plural.

    Args:
        table: A JSON object singular -> plural; None for grammar alone. Its words win over grammar.

    Raises:
        ConfigError: The table cannot be read or is no such object.
    """

    def __init__(self, table: str | Path | None = None) -> None:
        self._known: dict[str, str] = {}
        if table is not None:
            self._known = _read(Path(table))

    def of(self, name: str) -> str:
        """The plural of a category; `_` and `(...)` are read as LVIS writes them: "bow_(weapon)" -> "bows (weapon)".

        Raises:
            DataError: Neither table nor grammar has one.
            MissingExtraError: Grammar is needed and the extra `data` is not installed.
        """
        words = " ".join(name.replace("_", " ").split())
        if words in self._known:
            return self._known[words]
        noun, bracket, rest = words.partition(" (")
        if not noun or not any(letter.isalpha() for letter in noun):
            raise DataError(f"the category {name!r} has no plural; give one in the table of plurals")
        last = noun.rpartition(" ")[2].lower()
        plural = noun if last in _PLURAL_ALREADY and " of " not in noun else self._grammar.plural_noun(noun)
        if not plural:
            raise DataError(f"the category {name!r} has no plural; give one in the table of plurals")
        return f"{plural}{bracket}{rest}"

    @cached_property
    def _grammar(self) -> Any:
        try:
            import inflect
        except ImportError as error:
            raise MissingExtraError("inflect", "data", "the plural of a category that no table has") from error
        return inflect.engine()


def _read(path: Path) -> dict[str, str]:
    try:
        values = parse_json(path.read_bytes(), str(path), ConfigError)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    if not isinstance(values, dict) or not all(isinstance(one, str) and one.strip() for one in values.values()):
        raise ConfigError(f"{path}: a table of plurals is a JSON object of singular: plural")
    return {" ".join(key.replace("_", " ").split()): " ".join(plural.split()) for key, plural in values.items()}
