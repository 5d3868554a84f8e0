"""Plurals of category names, from a table and from English grammar."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from functools import cached_property
from pathlib import Path
from typing import Any

from perceptok.data.npy_files import read_npy
from perceptok.errors import ConfigError, DataError, MissingExtraError
from perceptok.files import parse_json, read_input

__all__ = ["Plurals"]

_UNCHANGED = frozenset(
    {
        *("binoculars", "boxers", "clippers", "earphones", "eyeglasses", "glasses", "goggles", "headphones", "jeans"),
        *("leggings", "overalls", "pajamas", "pants", "pliers", "scissors", "shears", "shorts", "skis", "spectacles"),
        *("sprouts", "sunglasses", "suspenders", "tights", "tongs", "trousers", "tweezers", "underpants"),
        *("bikinis", "cattle", "dice", "geese", "kiwis", "lice", "menus", "oxen", "police", "taxis", "zucchinis"),
    }
)
"""Nouns without a singular, and plurals that grammar would take for singulars and change."""

_PLURAL_ENDINGS = ("children", "feet", "men", "mice", "passersby", "people", "teeth")
_IRREGULAR = {
    "gentleman": "gentlemen",
    "larva": "larvae",
    "passer-by": "passers-by",
    "passerby": "passersby",
    "runner-up": "runners-up",
}
_SINGULAR_WITH_OES = (
    *("buffalo", "cargo", "domino", "echo", "embargo", "hero", "mango", "mosquito", "potato", "tomato"),
    *("tornado", "torpedo", "veto", "volcano"),
)
"""Nouns in -o with the plural -oes; grammar takes more for such, as "burritoes"."""

_SINGULAR_IN_MEN = ("abdomen", "cyclamen", "omen", "ramen", "regimen", "specimen", "stamen")
_SINGULAR_IN_S = frozenset(
    {
        *("alias", "atlas", "bias", "canvas", "chaos", "cosmos", "gas", "kudos", "lens", "molasses"),
        *("news", "pancreas", "rhinoceros", "thermos"),
    }
)
"""Singulars in -s, besides those in -ss, -us and -is."""

_MAX_LENGTH = 200
"""Characters of a category's name."""

_MARKED = re.compile(r"(?P<noun>.*\w)\((?P<ending>\w+)\)")
"""A singular with its plural, or the ending of it, in brackets, such as "shoe(s)"."""

_ACRONYM = re.compile(r"[A-Z0-9][A-Z0-9&.-]*[A-Z0-9]")
_ACRONYMS_WITH_VOWELS = frozenset(
    {
        *("AED", "ATM", "ATV", "AUV", "CPU", "GPU", "IED", "LED", "MRI", "OLED", "PIN", "RAM", "ROM", "SIM", "SUV"),
        *("UAV", "UFO", "UPS", "URL", "USB", "VIP"),
    }
)
"""Acronyms of three letters or more that are not read as words; those of two, and without vowels, are known as such."""

_VOWEL = re.compile(r"[AEIOUY]")
_NOT_A_NAME = re.compile(r"n\s*[/.]?\s*a\.?|none|null|nan|unknown", re.IGNORECASE)
_MEASURE = re.compile(r"(?P<noun>.+?)(?P<rest> (?:of|in|with|for|on) .+)")


class Plurals:
    """Plural forms of category names, from a table and from English grammar.

    Args:
        table: A file with an object singular -> plural (JSON, or a NumPy dictionary `.npy`), which takes precedence
            over grammar; None for grammar alone.

    Raises:
        ConfigError: The table cannot be read or is not such an object.
    """

    def __init__(self, table: str | Path | None = None) -> None:
        self._table = {} if table is None else _read_plurals(Path(table))

    @property
    def fingerprint(self) -> str:
        """Hash of the table."""
        return hashlib.sha256(json.dumps(self._table, sort_keys=True).encode()).hexdigest()[:16]

    def pluralize(self, name: str) -> str:
        """Find the plural of a category; `_` and `(...)` are those of LVIS: "bow_(weapon)" -> "bows (weapon)".

        A name in the plural is unchanged; alternatives change one by one: "cabinet/shelf" -> "cabinets/shelves".

        Raises:
            DataError: Neither the table nor grammar has a plural, or the name is not in Latin letters.
            MissingExtraError: Grammar is needed and the extra `data` is not installed.
        """
        words = " ".join(name.replace("_", " ").split())
        if words in self._table:
            return self._table[words]
        if len(words) > _MAX_LENGTH:  # grammar takes quadratic time
            raise DataError(f"the category {name[:40]!r}... has {len(name)} characters; {_REMEDY}")
        noun, bracket, rest = words.partition(" (")
        letters = [letter for letter in noun if letter.isalpha()]
        if not letters or _NOT_A_NAME.fullmatch(noun):
            raise DataError(f"the category {name!r} is not a noun with a plural; {_REMEDY}")
        if not all(unicodedata.name(letter, "").startswith("LATIN") for letter in letters):
            raise DataError(f"the category {name!r} is not in Latin letters, and grammar is that of English; {_REMEDY}")
        alternatives = re.split(r"(\s*/\s*)", noun)
        plurals = [self._pluralize_noun(part) if index % 2 == 0 else part for index, part in enumerate(alternatives)]
        plural = plurals[0] if len({*plurals[::2]}) == 1 else "".join(plurals)  # child/children
        if not plural.strip("/ "):
            raise DataError(f"the category {name!r} has no plural; {_REMEDY}")
        return f"{plural}{bracket}{rest}"

    def _pluralize_noun(self, noun: str) -> str:
        if marked := _MARKED.fullmatch(noun):
            stem, ending = marked["noun"], marked["ending"]
            if len(ending) > 3 and ending[0].lower() == stem[0].lower():  # tooth(teeth)
                return ending
            return f"{stem.removesuffix('y') if ending == 'ies' else stem}{ending}"
        last = noun.rpartition(" ")[2]
        if measure := _MEASURE.fullmatch(noun):
            return self._pluralize_noun(measure["noun"]) + measure["rest"]
        if _is_plural(last):
            return noun
        is_acronym = len(last) == 2 or last in _ACRONYMS_WITH_VOWELS or not _VOWEL.search(last) or "-" in last
        if is_acronym and _ACRONYM.fullmatch(last) and last != "OX":
            return f"{noun}s"
        # Grammar takes capitals for proper names: "Womens".
        plural = _IRREGULAR.get(last.lower()) or str(self._grammar.plural_noun(last.lower()) or "")
        if plural == f"{last.lower()}es" and plural.endswith("oes") and not last.lower().endswith(_SINGULAR_WITH_OES):
            plural = f"{last.lower()}s"
        if last.isupper() and len(last) > 1:
            plural = plural.upper()
        elif plural.startswith(last.lower()):
            plural = last + plural[len(last) :]
        elif last[:1].isupper():
            plural = plural.capitalize()
        return noun.removesuffix(last) + plural if plural else ""

    @cached_property
    def _grammar(self) -> Any:
        try:
            import inflect
        except ImportError as error:
            raise MissingExtraError("inflect", "data", "plurals of categories that are not in the table") from error
        return inflect.engine()


_REMEDY = "add it to a table of plurals (plurals:, a JSON object), or leave it out (categories:)"


def _is_plural(word: str) -> bool:
    """Whether a noun is in the plural already, by its ending; a plural acronym ("CDs") too."""
    lower = word.lower()
    if lower in _UNCHANGED or re.fullmatch(r"[A-Z0-9]{2,}s", word):
        return True
    if lower.endswith(_PLURAL_ENDINGS) and lower not in _SINGULAR_IN_MEN:
        return True
    return (
        len(lower) > 3
        and lower.endswith("s")
        and not lower.endswith(("ss", "us", "is"))
        and lower not in _SINGULAR_IN_S
    )


def _read_plurals(path: Path) -> dict[str, str]:
    try:
        values = read_npy(path) if path.suffix == ".npy" else parse_json(read_input(path), str(path), ConfigError)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except DataError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(values, dict) or not all(isinstance(value, str) and value.strip() for value in values.values()):
        raise ConfigError(f"{path}: a table of plurals is an object singular: plural")
    return {" ".join(key.replace("_", " ").split()): " ".join(plural.split()) for key, plural in values.items()}
