"""Presets: each can be read by its name, and AURORA's give what its authors' code gives, from real photographs."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from perceptok.config import list_presets
from perceptok.data import DataRecipe, build_data, read_records
from perceptok.errors import ConfigError, DataError


def read_counts(name: str) -> list[tuple[str, str, int]]:
    return [(config.task, config.regime, config.count) for config in DataRecipe.read(name).sets]


def test_counts_of_every_preset() -> None:
    depth = [("depth", "atomic", 20_000), ("depth", "direct", 500), ("depth", "cot", 500)]
    counting = [("counting", "atomic", 5_000), ("counting", "direct", 250), ("counting", "cot", 250)]
    expected = {
        "aurora-depth": depth,
        "aurora-counting": counting,
        "perceptok-depth": depth,
        "perceptok-counting": counting,
        "procedural": depth + counting,
        "procedural-reading": [depth[0], ("depth", "reading", 5_000), *depth[1:]],
    }
    assert {name: read_counts(name) for name in list_presets("data")} == expected
    assert all(list_presets("data").values())


def test_files_precede_presets_and_paths_are_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    preset = DataRecipe.read("aurora-depth")
    assert preset.resolve_paths().sources["ade20k"].images == str(tmp_path.resolve() / "ADE20K")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "own.json").write_text(json.dumps(preset.to_dict()))
    own = DataRecipe.read("recipes/own.json")
    assert own == preset
    assert own.resolve_paths().sources["ade20k"].images == str(tmp_path.resolve() / "recipes" / "ADE20K")
    # A path typed at the shell is relative to the shell's directory, also where it replaces one of a file.
    for overrides in ({"sources.ade20k.images": "photos"}, {"sources": {"ade20k": {"images": "photos"}}}):
        typed = DataRecipe.read("recipes/own.json", overrides).resolve_paths().sources["ade20k"]
        assert typed.images == str(tmp_path.resolve() / "photos")
    assert DataRecipe.read("recipes/own.json", {"plurals": "p.json"}).plurals == str(tmp_path / "p.json")
    assert DataRecipe.read("aurora-depth", {"plurals": "p.json"}).plurals == "p.json"
    (tmp_path / "aurora-depth").write_text(json.dumps({**preset.to_dict(), "seed": 5}))
    assert DataRecipe.read("aurora-depth").seed == 5
    (tmp_path / "recipes" / "own.json").write_text(json.dumps({**preset.to_dict(), "folder": "/etc"}))
    with pytest.raises(ConfigError, match=r"own\.json: DataRecipe: unknown key 'folder'"):
        DataRecipe.read("recipes/own.json")


def test_overrides() -> None:
    overrides = {"seed": 3, "sources.ade20k.images": "photos", "sources.ade20k.include": "*.png", "export": "llava"}
    recipe = DataRecipe.read("aurora-depth", overrides)
    assert (recipe.seed, recipe.export, recipe.sources["ade20k"].images) == (3, ("llava",), "photos")
    assert recipe.sources["ade20k"].include == ("*.png",)
    with pytest.raises(ConfigError, match=r"aurora-depth: DataRecipe: .*unknown key"):
        DataRecipe.read("aurora-depth", {"sources.ade20k.image": "photos"})
    with pytest.raises(ConfigError, match="aurora-depth: DataRecipe: unknown key 'folder'; paths are relative to"):
        DataRecipe.read("aurora-depth", {"folder": "/etc"})
    with pytest.raises(ConfigError, match="auroradepth: no such file, and not a preset: aurora-counting, aurora-depth"):
        DataRecipe.read("auroradepth")


@pytest.fixture(scope="module")
def estimator(shared: Path) -> dict[str, Any]:
    model = shared / "models" / "tcmonodepth_small_192x320.onnx"
    return {"form": "onnx_depth", "model": str(model), "kind": "inverse"}


def test_aurora_depth(shared: Path, estimator: dict[str, Any], tmp_path: Path) -> None:
    overrides = {
        "sources.ade20k.images": str(shared / "data" / "coco" / "images"),
        "sources.ade20k.include": ["*.jpg"],
        "sources.ade20k.depth_specialist": estimator,
    }
    recipe = DataRecipe.read("aurora-depth", overrides).scale_counts(0.0006)
    build_data(recipe, tmp_path)
    records = list(read_records(tmp_path))
    assert [record.regime for record in records] == ["atomic"] * 12 + ["direct", "cot"] * 1
    assert {record.provenance["image_frame"]["resample"] for record in records[:12]} == {"nearest"}
    assert {record.turns[0].text for record in records[:12]} == {"What is the depth map for the image?"}
    direct, cot = records[12:]
    assert cot.turns[0].text.startswith(f"{direct.turns[0].text}\nTo answer this question")
    assert direct.images != cot.images
    assert [direct.evidence.markers, direct.answer] == [cot.evidence.markers, cot.answer]
    assert all(marker.x <= 300 and marker.y <= 300 for marker in cot.evidence.markers)


def test_aurora_counting(shared: Path, tmp_path: Path) -> None:
    """LVIS 0.5 with four of its photographs; zero only where no category is left, all five questions."""
    lvis = json.loads((shared / "data" / "counting" / "lvis_val_100.json").read_text())
    photos = {path.name for path in (shared / "data" / "coco" / "images").iterdir()}
    lvis["images"] = [image for image in lvis["images"] if image["coco_url"].rpartition("/")[2] in photos]
    ids = {image["id"] for image in lvis["images"]}
    lvis["annotations"] = [box for box in lvis["annotations"] if box["image_id"] in ids]
    lvis["images"][0]["not_exhaustive_category_ids"] = sorted(
        {box["category_id"] for box in lvis["annotations"] if box["image_id"] == lvis["images"][0]["id"]}
    )
    (tmp_path / "lvis.json").write_text(json.dumps(lvis))
    overrides = {
        "sources.lvis.images": str(shared / "data" / "coco"),
        "sources.lvis.annotations": str(tmp_path / "lvis.json"),
        "plurals": str(shared / "data" / "counting" / "lvis_plurals.json"),
    }
    recipe = DataRecipe.read("aurora-counting", overrides)
    with pytest.raises(DataError, match=r"count-atomic asks for 5000 records, its source lvis has 4 images; .*--scale"):
        build_data(recipe, tmp_path / "out")
    build_data(recipe.scale_counts(0.0004), tmp_path / "out")
    records = list(read_records(tmp_path / "out"))
    assert [record.regime for record in records] == ["atomic", "atomic", "direct", "cot"]
    atomic = {record.provenance["image"] for record in records[:2]}
    assert records[2].provenance["image"] == records[3].provenance["image"]
    assert records[3].provenance["image"] not in atomic
    for record in records:
        is_without_category = record.provenance["image"] == lvis["images"][0]["file_name"]
        assert (record.evidence.boxes == ()) == is_without_category
    assert "?.\n To solve this, let\u2019s carefully analyze" in records[3].turns[0].text
    assert "\nBounding box 1: (<PIXEL_" in records[3].turns[1].text or records[3].answer == "0"


def test_wrong_split(shared: Path, tmp_path: Path, estimator: dict[str, Any]) -> None:
    validation = str(shared / "data" / "ade20k" / "sceneparsing")
    recipe = DataRecipe.read(
        "aurora-depth", {"sources.ade20k.images": validation, "sources.ade20k.depth_specialist": estimator}
    )
    with pytest.raises(DataError, match=r"source ade20k: .*sceneparsing: none of its 3 images, .* another split"):
        build_data(recipe, tmp_path)
    missing = DataRecipe.read(
        "aurora-depth", {"sources.ade20k.images": "gone", "sources.ade20k.depth_specialist": estimator}
    )
    with pytest.raises(DataError, match=r"source ade20k: .*folder of images not found"):
        build_data(missing, tmp_path)


def test_procedural_preset_repeats_itself(tmp_path: Path) -> None:
    recipe = DataRecipe.read("procedural", {"size": 64}).scale_counts(0.0002)
    build_data(recipe, tmp_path)
    records = list(read_records(tmp_path))
    assert Counter((record.task, record.regime) for record in records)["depth", "atomic"] == 4
    pairs = [(first, second) for first, second in pairwise(records) if second.regime == "cot"]
    assert [first.regime for first, _ in pairs] == ["direct", "direct"]
