"""Builds: the same bytes in one process and in several and after a kill; what they refuse and what they say of it."""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from perceptok.data import DataRecipe, build_data, check_records, compute_statistics, read_records
from perceptok.errors import ConfigError, DataError, EngineError, OutputError
from perceptok.jobs import LocalEngine, RayEngine

RECIPE = """
seed: 1
size: 128
soft_codes: 2
export: [llava, chat, parquet]
sources:
  rooms:
    images: images
    depth: depth
    depth_kind: inverse
    annotations: boxes.json
sets:
  - {name: atomic, source: rooms, task: depth, regime: atomic, count: 6, wording: pool}
  - {name: cot, source: rooms, task: depth, regime: cot, count: 16, stream: reasoning, markers: [2, 3]}
  - {name: direct, source: rooms, task: depth, regime: direct, count: 16, stream: reasoning, markers: [2, 3]}
  - {name: count, source: rooms, task: counting, regime: cot, count: 8, zero_share: 0.3, max_per_count: 4}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty images with depth and boxes; some of them are broken in every way that one may be."""
    home = tmp_path_factory.mktemp("rooms of ünï")
    (home / "images").mkdir()
    (home / "depth").mkdir()
    rng = np.random.default_rng(0)
    images, boxes = [], []
    for index in range(20):
        name = f"zimmer {index:02d} ä.png"
        noise = ndimage.gaussian_filter(rng.random((60, 80)), 6)
        grey = np.rint(255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)
        picture = Image.fromarray(np.stack([grey, grey.T.reshape(60, 80), 255 - grey], axis=2))
        picture.save(home / "images" / name)
        Image.fromarray(grey).save(home / "depth" / name)
        images.append({"id": index, "file_name": name, "width": 80, "height": 60})
        for number in range(index % 4):
            box = [5 * number, 3 * number, 20, 30]
            boxes.append({"id": len(boxes), "image_id": index, "category_id": 1, "bbox": box})
    (home / "depth" / "zimmer 01 ä.png").unlink()
    Image.fromarray(np.full((60, 80), 7, np.uint8)).save(home / "depth" / "zimmer 02 ä.png")
    Image.fromarray(np.zeros((80, 60), np.uint8)).save(home / "depth" / "zimmer 03 ä.png")
    whole = (home / "images" / "zimmer 04 ä.png").read_bytes()
    (home / "images" / "zimmer 04 ä.png").write_bytes(whole[: len(whole) // 2])
    boxes.append({"id": len(boxes), "image_id": 5, "category_id": 1, "bbox": [70, 50, 60, 60]})
    categories = [{"id": 1, "name": "chair"}, {"id": 2, "name": "knife"}]
    told = {"images": images, "annotations": boxes, "categories": categories}
    (home / "boxes.json").write_text(json.dumps(told))
    (home / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return home


@pytest.fixture(scope="module")
def recipe(folder: Path) -> DataRecipe:
    return DataRecipe.read(folder / "recipe.yaml")


@pytest.fixture(scope="module")
def built(recipe: DataRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("built")
    build_data(recipe, output)
    return output


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_what_is_built(built: Path, recipe: DataRecipe) -> None:
    records = list(read_records(built / "records.jsonl", check_images=True))
    assert Counter(record.provenance["set"] for record in records) == {"atomic": 6, "cot": 16, "direct": 16, "count": 8}
    assert [record.id for record in records[:2]] == ["atomic-000000", "atomic-000001"]
    assert list(check_records(built / "records.jsonl")) == []
    for record in records:
        with Image.open(built / record.images[0]) as picture:
            assert picture.size == (128, 128)
        assert len({record.id for record in records}) == len(records)
    for name in ("records_llava.json", "records_chat.jsonl", "records.parquet"):
        assert list(read_records(built / name)) == records


def test_sets_of_one_stream_ask_about_the_same_pictures(built: Path) -> None:
    records = list(read_records(built / "records.jsonl"))
    cot = [one for one in records if one.regime == "cot" and one.task == "depth"]
    direct = [one for one in records if one.regime == "direct"]
    assert [one.provenance["image"] for one in cot] == [one.provenance["image"] for one in direct]
    assert [one.evidence.markers for one in cot] == [one.evidence.markers for one in direct]
    assert [one.answer for one in cot] == [one.answer for one in direct]


def test_the_manifest_says_what_was_rejected_and_why(built: Path, recipe: DataRecipe) -> None:
    manifest = json.loads((built / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["recipe"] == recipe.to_dict()
    assert DataRecipe.from_dict(manifest["recipe"]) == recipe
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((built / name).read_bytes()).hexdigest() == digest
    rejected = [json.loads(line) for line in (built / "rejected.jsonl").read_text().splitlines()]
    for one in manifest["sets"]:
        mine = [line for line in rejected if line["set"] == one["name"]]
        assert one["candidates"] == one["records"] + len(mine)
        assert sum(one["rejected"].values()) == len(mine)
    reasons = {line["reason"] for line in rejected}
    for part in ("no depth map", "another shape", "grey levels", "not a readable image"):
        assert any(part in reason for reason in reasons), part


def test_no_count_is_asked_too_often(built: Path) -> None:
    counts = compute_statistics(
        record for record in read_records(built / "records.jsonl") if record.task == "counting"
    ).instances
    assert sum(counts.values()) == 8
    assert max(counts.values()) <= 4
    assert counts[0] > 0


def test_several_processes_give_the_same_bytes(built: Path, recipe: DataRecipe, tmp_path: Path) -> None:
    with LocalEngine(2) as engine:
        build_data(recipe, tmp_path / "out", engine=engine)
    assert contents(tmp_path / "out") == contents(built)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_workers_on_ray_give_the_same_bytes(built: Path, recipe: DataRecipe, tmp_path: Path) -> None:
    with RayEngine(2) as engine:
        build_data(recipe, tmp_path, engine=engine)
    assert contents(tmp_path) == contents(built)


class _Second:
    """An engine in whose midst somebody else wants to build in the same folder."""

    def __init__(self, recipe: DataRecipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder

    def map(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        with pytest.raises(OutputError, match="another process is writing"):
            build_data(self.recipe, self.folder, force=True)
        yield from map(work, items)


def test_a_folder_is_held_by_one_builder(built: Path, recipe: DataRecipe, tmp_path: Path) -> None:
    build_data(recipe, tmp_path, engine=_Second(replace(recipe, seed=4), tmp_path))
    assert contents(tmp_path) == contents(built)


def test_a_recipe_is_the_same_wherever_it_lies(recipe: DataRecipe, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    moved = DataRecipe.read(tmp_path / "recipe.yaml")
    assert moved.fingerprint == recipe.fingerprint
    assert moved.to_dict()["sources"]["rooms"]["images"] == "images"
    assert recipe.resolve_paths().sources["rooms"].images == str(folder.resolve() / "images")
    with pytest.raises(_Killed):
        build_data(recipe, tmp_path / "out", engine=_Dying(1))
    (tmp_path / "images").symlink_to(folder / "images")
    (tmp_path / "depth").symlink_to(folder / "depth")
    (tmp_path / "boxes.json").symlink_to(folder / "boxes.json")
    with pytest.raises(OutputError, match="the unfinished output of another run"):
        build_data(moved, tmp_path / "out")


class _Killed(BaseException):
    """As if the power went."""


class _Dying:
    """An engine that dies after some pieces of work."""

    def __init__(self, pieces: int) -> None:
        self.left = pieces

    def map(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            if not self.left:
                raise _Killed
            self.left -= 1
            yield work(item)


@pytest.mark.parametrize("pieces", [0, 1, 3, 5])
def test_a_killed_build_goes_on_to_the_same_bytes(built: Path, recipe: DataRecipe, tmp_path: Path, pieces: int) -> None:
    with pytest.raises(_Killed):
        build_data(recipe, tmp_path, engine=_Dying(pieces))
    assert not (tmp_path / "manifest.json").exists()
    for journal in tmp_path.glob(".*.partial"):
        with journal.open("ab") as file:
            file.write(b'{"records": [{"id": "half a li')
    done = []
    build_data(recipe, tmp_path, advance=done.append)
    assert sum(done) == 46
    assert contents(tmp_path) == contents(built)


def test_an_unfinished_build_of_another_recipe_is_not_continued(recipe: DataRecipe, tmp_path: Path) -> None:
    with pytest.raises(_Killed):
        build_data(recipe, tmp_path, engine=_Dying(1))
    with pytest.raises(OutputError, match="the unfinished output of another run"):
        build_data(replace(recipe, seed=4), tmp_path)
    build_data(replace(recipe, seed=4), tmp_path, force=True)
    with pytest.raises(OutputError, match="has a data set already"):
        build_data(recipe, tmp_path)


def test_a_set_does_not_depend_on_its_neighbours(built: Path, recipe: DataRecipe, tmp_path: Path) -> None:
    build_data(replace(recipe, sets=recipe.sets[1:2], export=()), tmp_path)
    alone = [record.to_json() for record in read_records(tmp_path / "records.jsonl")]
    assert alone == [one.to_json() for one in read_records(built / "records.jsonl") if one.provenance["set"] == "cot"]


def test_more_than_there_is(recipe: DataRecipe, tmp_path: Path) -> None:
    asked = replace(recipe, sets=(replace(recipe.sets[0], count=21),))
    with pytest.raises(DataError, match="set atomic asks for 21 records, its source rooms has 20 images"):
        build_data(asked, tmp_path)
    asked = replace(recipe, sets=(replace(recipe.sets[1], count=20),))
    with pytest.raises(DataError, match=r"asks for 20 records, 1\d could be made of 20 images; .*rejected"):
        build_data(asked, tmp_path)


def test_a_worker_that_dies_loses_nothing(built: Path, recipe: DataRecipe, tmp_path: Path) -> None:
    engine = LocalEngine(2)
    with pytest.raises(EngineError, match="a worker process died"):
        list(engine.map(_die, [1, 2, 3]))
    build_data(recipe, tmp_path, engine=LocalEngine(1))
    assert contents(tmp_path) == contents(built)


def _die(_: int) -> None:
    import os

    os._exit(9)


def test_a_full_disk(recipe: DataRecipe, folder: Path, built: Path, tmp_path: Path) -> None:
    """No file may grow beyond 12 kB: the journal of a set does."""

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))

    command = [sys.executable, "-m", "perceptok_cli.main", "data", "build", str(folder / "recipe.yaml"), "-o"]
    done = subprocess.run(
        [*command, str(tmp_path)], capture_output=True, text=True, preexec_fn=no_room, timeout=300, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "manifest.json").exists()
    build_data(recipe, tmp_path)
    assert contents(tmp_path) == contents(built)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("sets: []\n", "sets with different names"),
        ("colour: red\n", "DataRecipe: unknown key 'colour'"),
        ("prompts: auroa\n", "prompts are aurora"),
        ("templates: {depth_direct: '({nearest})'}\n", r"unknown variable \{nearest\}"),
        ("size: 400\n", r"size 64\.\.336"),
        ("sources: {}\n", "unknown source 'rooms'"),
        ("sources: {rooms: {images: a, scenes: 3}}\n", "a source has images: a folder, or scenes"),
        ("sources: {rooms: {scenes: 3, depth: a}}\n", "procedural scenes have their own depth and boxes"),
        ("sources: {rooms: {images: a, depth_specialist: {form: onnx_depth, model: m}}}\n", "set kind: inverse or"),
        (
            "sources: {rooms: {images: a, box_specialist: {form: onnx_depth, model: m, kind: inverse}}}\n",
            "box_specialist cannot be of the form onnx_depth",
        ),
    ],
)
def test_recipes_that_are_refused(tmp_path: Path, change: str, message: str) -> None:
    key = change.partition(":")[0]
    values = "\n".join(part for part in _parts_of(RECIPE) if not part.startswith(f"{key}:"))
    (tmp_path / "recipe.yaml").write_text(values + "\n" + change)
    with pytest.raises(ConfigError, match=rf"recipe\.yaml: .*{message}"):
        DataRecipe.read(tmp_path / "recipe.yaml")


def _parts_of(text: str) -> list[str]:
    """The top-level entries of a YAML text."""
    parts: list[str] = []
    for line in text.strip().splitlines():
        if line[0].isspace():
            parts[-1] += "\n" + line
        else:
            parts.append(line)
    return parts


def test_the_procedural_world_builds(tmp_path: Path) -> None:
    recipe = DataRecipe.from_dict(
        {
            "size": 64,
            "sources": {"world": {"scenes": 24, "scene_seed": 2, "scene_split": "heldout"}},
            "sets": [
                {"name": "d", "source": "world", "task": "depth", "regime": "direct", "count": 4, "markers": [2]},
                {"name": "c", "source": "world", "task": "counting", "regime": "direct", "count": 4},
            ],
        }
    )
    assert build_data(recipe, tmp_path).records == 8
    assert {record.provenance["split"] for record in read_records(tmp_path / "records.jsonl")} == {"heldout"}
