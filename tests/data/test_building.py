"""Builds: the same bytes with one process, with several and after an interruption; refusals and their messages."""

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
from perceptok.depth import block_to_text
from perceptok.errors import ConfigError, DataError, EngineError, OutputError
from perceptok.jobs import LocalEngine, RayEngine

RECIPE = """
seed: 1
size: 128
soft_codes: 2
export: [llava, chat, parquet]
sources:
  photos:
    images: images
    depth: depth
    depth_options: {kind: inverse}
    annotations: boxes.json
sets:
  - {name: atomic, source: photos, task: depth, regime: atomic, count: 6, wording: pool}
  - {name: cot, source: photos, task: depth, regime: cot, count: 16, stream: reasoning, markers: [2, 3]}
  - {name: direct, source: photos, task: depth, regime: direct, count: 16, stream: reasoning, markers: [2, 3]}
  - {name: count, source: photos, task: counting, regime: cot, count: 8, zero_share: 0.3, max_per_count: 4}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty images with depth and boxes, some of them invalid in different ways."""
    folder = tmp_path_factory.mktemp("images in ünï")
    (folder / "images").mkdir()
    (folder / "depth").mkdir()
    rng = np.random.default_rng(0)
    images, boxes = [], []
    for index in range(20):
        name = f"zimmer {index:02d} ä.png"
        noise = ndimage.gaussian_filter(rng.random((60, 80)), 6)
        grey = np.rint(255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)
        image = Image.fromarray(np.stack([grey, grey.T.reshape(60, 80), 255 - grey], axis=2))
        image.save(folder / "images" / name)
        Image.fromarray(grey).save(folder / "depth" / name)
        images.append({"id": index, "file_name": name, "width": 80, "height": 60})
        for number in range(index % 4):
            box = [5 * number, 3 * number, 20, 30]
            boxes.append({"id": len(boxes), "image_id": index, "category_id": 1, "bbox": box})
    (folder / "depth" / "zimmer 01 ä.png").unlink()
    Image.fromarray(np.full((60, 80), 7, np.uint8)).save(folder / "depth" / "zimmer 02 ä.png")
    Image.fromarray(np.zeros((80, 60), np.uint8)).save(folder / "depth" / "zimmer 03 ä.png")
    whole = (folder / "images" / "zimmer 04 ä.png").read_bytes()
    (folder / "images" / "zimmer 04 ä.png").write_bytes(whole[: len(whole) // 2])
    boxes.append({"id": len(boxes), "image_id": 5, "category_id": 1, "bbox": [70, 50, 60, 60]})
    categories = [{"id": 1, "name": "chair"}, {"id": 2, "name": "knife"}]
    annotations = {"images": images, "annotations": boxes, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(annotations))
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return folder


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


def test_built_records_and_images(built: Path, recipe: DataRecipe) -> None:
    records = list(read_records(built / "records.jsonl", check_images=True))
    assert Counter(record.provenance["set"] for record in records) == {"atomic": 6, "cot": 16, "direct": 16, "count": 8}
    assert [record.id for record in records[:2]] == ["atomic-000000", "atomic-000001"]
    assert list(check_records(built / "records.jsonl")) == []
    for record in records:
        with Image.open(built / record.images[0]) as image:
            assert image.size == (128, 128)
        assert len({record.id for record in records}) == len(records)
    for name in ("records_llava.json", "records_chat.jsonl", "records.parquet"):
        assert list(read_records(built / name)) == records


def test_sets_of_one_stream_share_images_and_markers(built: Path) -> None:
    records = list(read_records(built / "records.jsonl"))
    cot = [record for record in records if record.regime == "cot" and record.task == "depth"]
    direct = [record for record in records if record.regime == "direct"]
    assert [record.provenance["image"] for record in cot] == [record.provenance["image"] for record in direct]
    assert [record.evidence.markers for record in cot] == [record.evidence.markers for record in direct]
    assert [record.answer for record in cot] == [record.answer for record in direct]


def test_manifest_and_rejections(built: Path, recipe: DataRecipe) -> None:
    manifest = json.loads((built / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["recipe"] == recipe.to_dict()
    assert DataRecipe.from_dict(manifest["recipe"]) == recipe
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((built / name).read_bytes()).hexdigest() == digest
    rejected = [json.loads(line) for line in (built / "rejected.jsonl").read_text().splitlines()]
    for report in manifest["sets"]:
        rejections = [line for line in rejected if line["set"] == report["name"]]
        assert report["candidates"] == report["records"] + len(rejections)
        assert sum(report["rejected"].values()) == len(rejections)
    reasons = {line["reason"] for line in rejected}
    for part in ("no depth map", "another shape", "grey levels", "not a readable image"):
        assert any(part in reason for reason in reasons), part


def test_balance_of_counts(built: Path) -> None:
    counts = compute_statistics(
        record for record in read_records(built / "records.jsonl") if record.task == "counting"
    ).instances
    assert sum(counts.values()) == 8
    assert max(counts.values()) <= 4
    assert counts[0] > 0


def test_same_bytes_with_several_processes(built: Path, recipe: DataRecipe, tmp_path: Path) -> None:
    with LocalEngine(2) as engine:
        build_data(recipe, tmp_path / "out", engine=engine)
    assert contents(tmp_path / "out") == contents(built)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_same_bytes_on_ray(built: Path, recipe: DataRecipe, tmp_path: Path) -> None:
    with RayEngine(2) as engine:
        build_data(recipe, tmp_path, engine=engine)
    assert contents(tmp_path) == contents(built)


class _SecondBuilder:
    """An engine during whose work a second build starts in the same folder."""

    def __init__(self, recipe: DataRecipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder

    def map(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        with pytest.raises(OutputError, match="another process is writing"):
            build_data(self.recipe, self.folder, force=True)
        yield from map(work, items)


def test_folder_is_locked_during_a_build(built: Path, recipe: DataRecipe, tmp_path: Path) -> None:
    build_data(recipe, tmp_path, engine=_SecondBuilder(replace(recipe, seed=4), tmp_path))
    assert contents(tmp_path) == contents(built)


def test_fingerprint_does_not_depend_on_the_folder(recipe: DataRecipe, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    moved = DataRecipe.read(tmp_path / "recipe.yaml")
    assert moved.fingerprint == recipe.fingerprint
    assert moved.to_dict()["sources"]["photos"]["images"] == "images"
    assert recipe.resolve_paths().sources["photos"].images == str(folder.resolve() / "images")
    with pytest.raises(_Interrupted):
        build_data(recipe, tmp_path / "out", engine=_InterruptedEngine(1))
    (tmp_path / "images").symlink_to(folder / "images")
    (tmp_path / "depth").symlink_to(folder / "depth")
    (tmp_path / "boxes.json").symlink_to(folder / "boxes.json")
    with pytest.raises(OutputError, match="the unfinished output of another run"):
        build_data(moved, tmp_path / "out")


class _Interrupted(BaseException):
    """Stands for a process that is killed."""


class _InterruptedEngine:
    """An engine that is interrupted after some batches."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def map(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            if not self.left:
                raise _Interrupted
            self.left -= 1
            yield work(item)


@pytest.mark.parametrize("batches", [0, 1, 3, 5])
def test_interrupted_build_resumes_to_same_bytes(built: Path, recipe: DataRecipe, tmp_path: Path, batches: int) -> None:
    with pytest.raises(_Interrupted):
        build_data(recipe, tmp_path, engine=_InterruptedEngine(batches))
    assert not (tmp_path / "manifest.json").exists()
    for journal in tmp_path.glob(".*.partial"):
        with journal.open("ab") as file:
            file.write(b'{"records": [{"id": "half a li')
    added = []
    build_data(recipe, tmp_path, advance=added.append)
    assert sum(added) == 46
    assert contents(tmp_path) == contents(built)


def test_unfinished_build_of_another_recipe_is_refused(recipe: DataRecipe, tmp_path: Path) -> None:
    with pytest.raises(_Interrupted):
        build_data(recipe, tmp_path, engine=_InterruptedEngine(1))
    with pytest.raises(OutputError, match="the unfinished output of another run"):
        build_data(replace(recipe, seed=4), tmp_path)
    build_data(replace(recipe, seed=4), tmp_path, force=True)
    with pytest.raises(OutputError, match="has a data set already"):
        build_data(recipe, tmp_path)


def test_set_does_not_depend_on_other_sets(built: Path, recipe: DataRecipe, tmp_path: Path) -> None:
    build_data(replace(recipe, sets=recipe.sets[1:2], export=()), tmp_path)
    alone = [record.to_json() for record in read_records(tmp_path / "records.jsonl")]
    assert alone == [
        record.to_json() for record in read_records(built / "records.jsonl") if record.provenance["set"] == "cot"
    ]


def test_streams_are_interleaved(built: Path, recipe: DataRecipe, tmp_path: Path) -> None:
    """The direct label of each image precedes its chain of thought; the records are those of the sets in order."""
    direct, cot = recipe.sets[2], recipe.sets[1]
    sets = (recipe.sets[0], direct, cot, recipe.sets[3])
    build_data(replace(recipe, sets=sets, export=(), interleave_streams=True), tmp_path)
    records = list(read_records(tmp_path / "records.jsonl"))
    names = [record.provenance["set"] for record in records]
    assert names == ["atomic"] * 6 + ["direct", "cot"] * 16 + ["count"] * 8
    for first, second in zip(records[6:38:2], records[7:38:2], strict=True):
        assert first.provenance["image"] == second.provenance["image"]
        assert first.evidence.markers == second.evidence.markers
    by_set = sorted(records, key=lambda record: ("atomic", "cot", "direct", "count").index(record.provenance["set"]))
    assert by_set == list(read_records(built / "records.jsonl"))


def test_streams_of_disjoint_images(recipe: DataRecipe, tmp_path: Path) -> None:
    """Also after an interruption; sets of one stream still share their images."""
    sets = tuple(replace(config, count=count) for config, count in zip(recipe.sets, (6, 8, 8, 4), strict=True))
    disjoint = replace(recipe, sets=sets, disjoint_streams=True)
    build_data(disjoint, tmp_path / "whole")
    images: dict[str, set[str]] = {}
    for record in read_records(tmp_path / "whole" / "records.jsonl"):
        images.setdefault(record.provenance["set"], set()).add(record.provenance["image"])
    assert images["cot"] == images["direct"]
    assert not images["atomic"] & images["cot"]
    assert not images["count"] & (images["atomic"] | images["cot"])
    with pytest.raises(_Interrupted):
        build_data(disjoint, tmp_path / "resumed", engine=_InterruptedEngine(2))
    build_data(disjoint, tmp_path / "resumed")
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")
    with pytest.raises(DataError, match=r"set cot asks for 16 records, 11 could be made of 14 images"):
        build_data(replace(recipe, disjoint_streams=True), tmp_path / "too many")


def test_depth_codes_of_a_file(folder: Path, recipe: DataRecipe, tmp_path: Path) -> None:
    codes = {f"zimmer {index:02d} ä_depth.png": block_to_text(np.full((10, 10), index)) for index in range(19)}
    np.save(folder / "codes.npy", codes, allow_pickle=True)
    source = replace(recipe.sources["photos"], depth_codes="codes.npy", depth=None)
    atomic = replace(recipe, sets=recipe.sets[:1], export=(), soft_codes=0, sources={"photos": source})
    build_data(atomic, tmp_path / "atomic")
    for record in read_records(tmp_path / "atomic" / "records.jsonl"):
        assert record.evidence.codes == (int(record.provenance["image"][7:9]),) * 100
        assert record.evidence.codec is None
    reasoning = replace(atomic, sets=recipe.sets[1:2])
    with pytest.raises(ConfigError, match=r"set cot needs a depth map: set sources\.photos\.depth"):
        build_data(reasoning, tmp_path / "cot")
    build_data(
        replace(
            reasoning, sources={"photos": replace(source, depth="depth")}, sets=(replace(recipe.sets[1], count=9),)
        ),
        tmp_path / "cot",
    )
    for record in read_records(tmp_path / "cot" / "records.jsonl"):
        assert record.evidence.codes == (int(record.provenance["image"][7:9]),) * 100
        assert len(record.evidence.markers) in (2, 3)
    with pytest.raises(ConfigError, match="depth_codes are those of squashed images"):
        replace(atomic, frame="letterbox")


def test_sets_without_a_source_of_their_task(recipe: DataRecipe, tmp_path: Path) -> None:
    source = replace(recipe.sources["photos"], depth=None, annotations=None)
    for config, missing in ((recipe.sets[0], "depth"), (recipe.sets[3], "annotations")):
        changed = replace(recipe, sets=(config,), sources={"photos": source})
        with pytest.raises(ConfigError, match=rf"set {config.name} needs .*: set sources\.photos\.{missing}"):
            build_data(changed, tmp_path)


def test_scaled_counts(recipe: DataRecipe) -> None:
    assert [config.count for config in recipe.scale_counts(0.1).sets] == [1, 2, 2, 1]
    assert recipe.scale_counts(1.0) == recipe
    for factor in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="scale: expected a positive number"):
            recipe.scale_counts(factor)


def test_more_records_than_images(recipe: DataRecipe, tmp_path: Path) -> None:
    changed = replace(recipe, sets=(replace(recipe.sets[0], count=21),))
    with pytest.raises(
        DataError, match=r"atomic asks for 21 records, its source photos has 20 images; .*--scale 0\.95"
    ):
        build_data(changed, tmp_path)
    changed = replace(recipe, sets=(replace(recipe.sets[1], count=20),))
    with pytest.raises(
        DataError, match=r"asks for 20 records, 16 could be made of 20 images; .*rejected.*--scale 0\.8"
    ):
        build_data(changed, tmp_path)


def write_small_source(folder: Path, count: int = 12) -> DataRecipe:
    """Images with one to three chairs each, and a recipe of two sets that count them."""
    (folder / "images").mkdir()
    images, boxes = [], []
    for index in range(count):
        image = Image.new("RGB", (80, 60), (index, 0, 0))
        image.paste((200, 10 * index, 160), (20, 10, 70, 50))
        image.save(folder / "images" / f"{index:02d}.png")
        images.append({"id": index, "file_name": f"{index:02d}.png", "width": 80, "height": 60})
        for number in range(index % 3 + 1):
            box = [5 * number, 3 * number, 20, 30]
            boxes.append({"id": len(boxes), "image_id": index, "category_id": 1, "bbox": box})
    values = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "chair"}]}
    (folder / "boxes.json").write_text(json.dumps(values))
    source = {"images": str(folder / "images"), "annotations": str(folder / "boxes.json")}
    sets = [
        {"name": name, "source": "photos", "task": "counting", "regime": "direct", "count": 8, "zero_share": 0.0}
        for name in ("first", "second")
    ]
    return DataRecipe.from_dict({"size": 64, "sources": {"photos": source}, "sets": sets})


def with_count(recipe: DataRecipe, count: int, **changes: Any) -> DataRecipe:
    """A recipe whose second set asks for another number of records."""
    return replace(recipe, sets=(recipe.sets[0], replace(recipe.sets[1], count=count, **changes)))


class _CountingEngine:
    """Counts the batches that it works on."""

    def __init__(self) -> None:
        self.batches: Counter[str] = Counter()

    def map(self, work: Any, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.batches[work.set_name] += 1
            yield work(item)


@pytest.mark.parametrize("disjoint", [False, True])
def test_fewer_records_continue_the_finished_sets(tmp_path: Path, disjoint: bool) -> None:
    """The remedy of a set that comes up short: ask for fewer, of that set or of all."""
    recipe = replace(write_small_source(tmp_path), disjoint_streams=disjoint)
    short = with_count(recipe, 12 if not disjoint else 5, categories=("chair",), max_instances=2)
    with pytest.raises(DataError, match=r"set second asks for .* records, .* finished sets are kept"):
        build_data(short, tmp_path / "out")
    engine = _CountingEngine()
    fewer = with_count(short, 2)
    build_data(fewer, tmp_path / "out", engine=engine)
    assert engine.batches["first"] == 0
    build_data(fewer, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_all_sets_with_fewer_records(tmp_path: Path) -> None:
    recipe = write_small_source(tmp_path)
    with pytest.raises(DataError):
        build_data(with_count(recipe, 12, max_instances=1), tmp_path / "out")
    engine = _CountingEngine()
    fewer = with_count(recipe, 12, max_instances=1).scale_counts(0.3)
    build_data(fewer, tmp_path / "out", engine=engine)
    assert not engine.batches
    build_data(fewer, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_files_that_change_between_two_runs(tmp_path: Path) -> None:
    recipe = with_count(write_small_source(tmp_path), 10)
    with pytest.raises(_Interrupted):
        build_data(recipe, tmp_path / "out", engine=_InterruptedEngine(2))
    for path in sorted((tmp_path / "images").iterdir())[:4]:
        image = Image.new("RGB", (80, 60), (0, 99, 0))
        image.paste((255, 255, 255), (0, 0, 40, 40))
        image.save(path)
    warnings: list[str] = []
    build_data(recipe, tmp_path / "out", warn=warnings.append)
    assert any("results are made again, as files that they come from changed" in warning for warning in warnings)
    build_data(recipe, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    with pytest.raises(_Interrupted):
        build_data(recipe, tmp_path / "annotations", engine=_InterruptedEngine(1))
    values = json.loads((tmp_path / "boxes.json").read_text())
    del values["annotations"][-1]
    (tmp_path / "boxes.json").write_text(json.dumps(values))
    with pytest.raises(OutputError, match=r"unfinished output of another run .*start over with force"):
        build_data(recipe, tmp_path / "annotations")


def test_a_set_with_other_settings_is_made_again_alone(tmp_path: Path) -> None:
    """The remedy of the message keeps the finished sets."""
    recipe = with_count(write_small_source(tmp_path), 12, max_instances=1)
    with pytest.raises(DataError, match="Ask for fewer"):
        build_data(recipe, tmp_path / "out")
    changed = with_count(recipe, 12)
    changed = replace(changed, sets=(changed.sets[0], replace(changed.sets[1], max_instances=15)))
    with pytest.raises(OutputError, match=r"of another run of set second .* remove the file to make this set again"):
        build_data(changed, tmp_path / "out")
    (tmp_path / "out" / ".second.partial").unlink()
    engine = _CountingEngine()
    build_data(changed, tmp_path / "out", engine=engine)
    assert engine.batches["first"] == 0
    build_data(changed, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_odd_annotations_do_not_stop_a_build(tmp_path: Path) -> None:
    """The same entries are left out as by `box encode`; an image with one of them is not counted."""
    recipe = write_small_source(tmp_path)
    values = json.loads((tmp_path / "boxes.json").read_text())
    values["images"].append({"id": 99, "file_name": "00.png", "width": 80, "height": 60})
    values["annotations"] += [
        {"id": 500, "image_id": 77, "category_id": 1, "bbox": [1, 2, 3, 4]},
        {"id": 501, "image_id": 1, "category_id": 1, "bbox": [1, 2, -3, 4]},
        {**values["annotations"][0], "id": 502},
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(values))
    warnings: list[str] = []
    recipe = with_count(recipe, 11)
    build_data(recipe, tmp_path / "out", warn=warnings.append)
    told = "\n".join(warnings)
    assert "names image #, which is missing or was refused (1 times)" in told
    assert "its box repeats another of its image and category exactly; left out (1 times)" in told
    assert "1 images whose file name another image has, such as 00.png; the first is kept" in told
    records = {record.provenance["image"]: record for record in read_records(tmp_path / "out")}
    assert records["00.png"].answer == "1"
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert {line["image"] for line in rejected} <= {"01.png"}
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["remarks"]


def test_boxes_outside_the_image_by_the_settings_of_the_set(tmp_path: Path) -> None:
    recipe = write_small_source(tmp_path, 3)
    values = json.loads((tmp_path / "boxes.json").read_text())
    values["annotations"] = [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [70, 50, 60, 60]}]
    (tmp_path / "boxes.json").write_text(json.dumps(values))
    sets = (replace(recipe.sets[0], count=1),)
    with pytest.raises(DataError, match="clip such boxes with outside: clip"):
        build_data(replace(recipe, sets=sets), tmp_path / "raise")
    report = build_data(replace(recipe, sets=(replace(sets[0], outside="clip"),)), tmp_path / "clip")
    assert report.records == 1
    values["annotations"].append({"id": 2, "image_id": 0, "category_id": 1, "bbox": [90, 70, 5, 5]})
    (tmp_path / "boxes.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match="drop such boxes with outside: drop"):
        build_data(replace(recipe, sets=(replace(sets[0], outside="clip"),)), tmp_path / "beside")
    build_data(replace(recipe, sets=(replace(sets[0], outside="drop"),)), tmp_path / "drop")
    (record,) = read_records(tmp_path / "drop")
    assert record.answer == "1"


def test_depth_maps_are_read_by_options_and_warned_of(folder: Path, tmp_path: Path) -> None:
    """One stuck pixel in a sensor's map: named in the report, and left out by percentiles."""
    (tmp_path / "images").mkdir()
    (tmp_path / "depth").mkdir()
    source_image = folder / "images" / "zimmer 06 ä.png"
    (tmp_path / "images" / "a.png").write_bytes(source_image.read_bytes())
    metres = np.full((60, 80), 3.0) + np.linspace(0, 2, 80)
    metres[30, 40] = 0.05
    Image.fromarray(np.rint(metres * 1000).astype(np.uint16)).save(tmp_path / "depth" / "a.png")
    values: dict[str, Any] = {
        "size": 64,
        "sources": {
            "s": {
                "images": str(tmp_path / "images"),
                "depth": str(tmp_path / "depth"),
                "depth_options": {"kind": "metric", "unit": "mm"},
            }
        },
        "sets": [{"name": "d", "source": "s", "task": "depth", "regime": "atomic", "count": 1}],
    }
    report = build_data(DataRecipe.from_dict(values), tmp_path / "stuck")
    assert [(number, "of the range" in text) for text, number in report.sets[0].warnings.items()] == [(1, True)]
    assert "depth_options.range" in str(report.sets[0].warnings)
    (stuck,) = read_records(tmp_path / "stuck")
    values["sources"]["s"]["depth_options"]["range"] = {"mode": "percentiles", "low": 1.0, "high": 99.0}
    report = build_data(DataRecipe.from_dict(values), tmp_path / "robust")
    assert report.sets[0].warnings == {}
    (robust,) = read_records(tmp_path / "robust")
    assert robust.provenance["near"] == pytest.approx(3, abs=0.1)
    assert len({*(robust.evidence.codes or ())}) > len({*(stuck.evidence.codes or ())})


def test_worker_that_dies_loses_nothing(built: Path, recipe: DataRecipe, tmp_path: Path) -> None:
    engine = LocalEngine(2)
    with pytest.raises(EngineError, match="a worker process died"):
        list(engine.map(_die, [1, 2, 3]))
    build_data(recipe, tmp_path, engine=LocalEngine(1))
    assert contents(tmp_path) == contents(built)


def _die(_: int) -> None:
    import os

    os._exit(9)


def test_full_disk(recipe: DataRecipe, folder: Path, built: Path, tmp_path: Path) -> None:
    """No file may grow beyond 12 kB: the journal of a set does."""

    def limit_file_size() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))

    command = [sys.executable, "-m", "perceptok_cli.main", "data", "build", str(folder / "recipe.yaml"), "-o"]
    done = subprocess.run(
        [*command, str(tmp_path)], capture_output=True, text=True, preexec_fn=limit_file_size, timeout=300, check=False
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
        ("sources: {}\n", "unknown source 'photos'"),
        ("sources: {photos: {images: a, scenes: 3}}\n", "a source has images: a folder, or scenes"),
        ("sources: {photos: {scenes: 3, depth: a}}\n", "procedural scenes have their own depth and boxes"),
        ("sources: {photos: {images: a, depth_specialist: {form: onnx_depth, model: m}}}\n", "set kind: inverse or"),
        (
            "sources: {photos: {images: a, box_specialist: {form: onnx_depth, model: m, kind: inverse}}}\n",
            "box_specialist cannot be of the form onnx_depth",
        ),
    ],
)
def test_invalid_recipes(tmp_path: Path, change: str, message: str) -> None:
    key = change.partition(":")[0]
    values = "\n".join(part for part in _split_entries(RECIPE) if not part.startswith(f"{key}:"))
    (tmp_path / "recipe.yaml").write_text(values + "\n" + change)
    with pytest.raises(ConfigError, match=rf"recipe\.yaml: .*{message}"):
        DataRecipe.read(tmp_path / "recipe.yaml")


def _split_entries(text: str) -> list[str]:
    """The top-level entries of a YAML text."""
    parts: list[str] = []
    for line in text.strip().splitlines():
        if line[0].isspace():
            parts[-1] += "\n" + line
        else:
            parts.append(line)
    return parts


def test_procedural_recipe(tmp_path: Path) -> None:
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


def test_reading_without_images(folder: Path, tmp_path: Path) -> None:
    """No image is written, the manifest is complete, and a rebuild gives the same bytes."""
    values = DataRecipe.read(folder / "recipe.yaml").to_dict()
    reading = {"name": "reading", "source": "photos", "task": "depth", "regime": "reading", "count": 3}
    values |= {"sets": [{**reading, "with_image": False}, {**reading, "name": "seen"}], "soft_codes": 0}
    recipe = replace(DataRecipe.from_dict(values), folder=str(folder))
    for name in ("a", "b"):
        build_data(recipe, tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    records = list(read_records(tmp_path / "a" / "records.jsonl"))
    assert [len(record.images) for record in records] == [0, 0, 0, 1, 1, 1]
    assert {path.parent.name for path in (tmp_path / "a" / "images").rglob("*.jpg")} == {"seen"}
    assert list(check_records(tmp_path / "a")) == []
    assert compute_statistics(records).kinds == {("depth", "reading"): 6}


def test_reading_needs_places_in_words(folder: Path) -> None:
    values = DataRecipe.read(folder / "recipe.yaml").to_dict()
    values["sets"] = [{"name": "reading", "source": "photos", "task": "depth", "regime": "reading", "count": 3}]
    with pytest.raises(ConfigError, match="set reading: the regime reading names points in words"):
        DataRecipe.from_dict({**values, "prompts": "no_coordinates"})


def test_a_setting_that_fails_every_image_stops_a_set_early(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    (tmp_path / "depth").mkdir()
    for index in range(100):
        Image.fromarray(noise).save(tmp_path / "images" / f"{index}.jpg")
        np.save(tmp_path / "depth" / f"{index}.npy", noise[..., 0].astype(np.float32))
    recipe = """
seed: 1
sources: {photos: {images: images, depth: depth, depth_options: {kind: metric, scale: 1.0, key: depth}}}
sets: [{name: atomic, source: photos, task: depth, regime: atomic, count: 50}]
"""
    (tmp_path / "recipe.yaml").write_text(recipe)
    with pytest.raises(DataError, match=r"set atomic: the first 64 of 100 images, .* fail for one reason.*key"):
        build_data(DataRecipe.read(tmp_path / "recipe.yaml"), tmp_path / "out")
    (tmp_path / "recipe.yaml").write_text(recipe.replace(", key: depth", "").replace("metric, scale: 1.0", "inverse"))
    assert build_data(DataRecipe.read(tmp_path / "recipe.yaml"), tmp_path / "out").records == 50
