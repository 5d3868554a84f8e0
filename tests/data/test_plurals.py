"""Plurals of the names that data sets give."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perceptok.data import Plurals
from perceptok.errors import DataError

PLURALS = {
    "CD": "CDs",
    "TV": "TVs",
    "SUV": "SUVs",
    "CD-ROM": "CD-ROMs",
    "CDs": "CDs",
    "BUS": "BUSES",
    "OX": "OXEN",
    "GPU": "GPUs",
    "ID": "IDs",
    "child/children": "children",
    "tooth(teeth)": "teeth",
    "passer-by": "passers-by",
    "gentleman": "gentlemen",
    "burrito": "burritos",
    "jalapeño": "jalapeños",
    "potato": "potatoes",
    "hot_potato": "hot potatoes",
    "DOG": "DOGS",
    "shoe(s)": "shoes",
    "box(es)": "boxes",
    "child(ren)": "children",
    "berry(ies)": "berries",
    "dice": "dice",
    "mouse": "mice",
    "ox": "oxen",
    "goose": "geese",
    "leaf": "leaves",
    "people": "people",
    "Women": "Women",
    "sheep": "sheep",
    "aircraft": "aircraft",
    "species": "species",
    "bus": "buses",
    "glass": "glasses",
    "lens": "lenses",
    "gas": "gases",
    "iris": "irises",
    "cactus": "cactuses",
    "street_lights": "street lights",
    "Other Shoes": "Other Shoes",
    "Cabinet/shelf": "Cabinets/shelves",
    "Monitor/TV": "Monitors/TVs",
    "cup_of_tea": "cups of tea",
    "bow_(weapon)": "bows (weapon)",
}


@pytest.mark.parametrize(("name", "plural"), PLURALS.items())
def test_plurals(name: str, plural: str) -> None:
    assert Plurals().pluralize(name) == plural


@pytest.mark.parametrize("name", ["N/A", "n.a.", "none", "猫", "собака", "chien 犬", "/", "---"])
def test_names_without_an_english_plural(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="add it to a table of plurals"):
        Plurals().pluralize(name)
    (tmp_path / "table.json").write_text(json.dumps({name: "cats"}))
    assert Plurals(tmp_path / "table.json").pluralize(name) == "cats"


def test_plurals_of_lvis(shared: Path) -> None:
    """Apart from capitals and mass nouns, those that the authors wrote by hand for 1,204 names."""
    table = json.loads((shared / "data" / "counting" / "lvis_plurals.json").read_text())
    plurals = Plurals()
    different = [name for name, plural in table.items() if plurals.pluralize(name).lower() != plural.lower()]
    assert len(different) <= 34
