"""Training maps: 16 bits, how often each source is drawn, augmentation."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from perceptok.depth import DepthMap, MapDataset, MapFiles, ReadOptions, find_maps
from perceptok.depth.training.map_dataset import (
    AugmentationConfig,
    augment,
    compute_source_probabilities,
    corrupt_inputs,
)
from perceptok.errors import ConfigError, DepthMapError, TrainingError
from perceptok.scenes import ProceduralDepthMaps


def test_probabilities_are_by_source() -> None:
    sources = ["long"] * 900 + ["short"] * 9 + ["osd"] * 400 + ["procedural"] * 50 + ["one"] + ["two"]
    probabilities = compute_source_probabilities(sources, {"procedural": 0.6}, limit=0.25, limits={"osd": 0.1})
    assert sum(probabilities.values()) == pytest.approx(1)
    assert probabilities["procedural"] == pytest.approx(0.6)
    assert max(probabilities[name] for name in ("long", "short", "one", "two")) <= 0.4 * 0.25 / 0.85 * 1.2
    assert compute_source_probabilities(["only"] * 3, {}, limit=0.25, limits={}) == {"only": pytest.approx(1)}
    with pytest.raises(TrainingError, match=r"sum to 1\.2"):
        compute_source_probabilities(["a", "b"], {"a": 0.6, "b": 0.6}, limit=0.25, limits={})


def test_limits_hold_where_they_can() -> None:
    sources = [name for index in range(8) for name in [f"s{index}"] * (10 if index else 1000)] + ["osd"] * 2000
    probabilities = compute_source_probabilities(sources, {}, limit=0.25, limits={"osd": 0.1})
    assert probabilities["osd"] == pytest.approx(0.1)
    assert max(probabilities.values()) <= 0.25 + 1e-9
    assert sum(probabilities.values()) == pytest.approx(1)


def test_augmentation_keeps_the_scale() -> None:
    maps = torch.rand(6, 320, 320, generator=torch.Generator().manual_seed(0))
    valid = torch.ones_like(maps, dtype=torch.bool)
    valid[:, :100] = False
    strong = AugmentationConfig(flip_prob=0.5, crop_prob=1.0, tone_prob=1.0)
    varied, known = augment(maps, valid, strong, torch.Generator().manual_seed(1))
    again, _ = augment(maps, valid, strong, torch.Generator().manual_seed(1))
    assert torch.equal(varied, again)
    for one, mask in zip(varied, known, strict=True):
        assert one[mask].min() == pytest.approx(0, abs=1e-6)
        assert one[mask].max() == pytest.approx(1, abs=1e-6)
    assert varied.min() >= 0
    assert varied.max() <= 1


def test_augmentation_mirrors_exactly_and_keeps_order() -> None:
    maps = torch.rand(4, 320, 320, generator=torch.Generator().manual_seed(0))
    maps[:, 0, 0], maps[:, 0, 1] = 0, 1
    valid = torch.ones_like(maps, dtype=torch.bool)
    mirrored, _ = augment(maps, valid, AugmentationConfig(1, 0, 0.5, 0), torch.Generator())
    assert torch.allclose(mirrored, maps.flip(2), atol=1e-6)
    toned, _ = augment(maps, valid, AugmentationConfig(0, 0, 0.5, 1), torch.Generator())
    # A tone curve is monotone, so that it never changes which point is nearer.
    in_order = toned.flatten(1).gather(1, maps.flatten(1).argsort(dim=1))
    assert (in_order.diff(dim=1) >= 0).all()
    assert not torch.allclose(toned, maps, atol=0.01)


def test_constant_crop_becomes_the_middle() -> None:
    maps, valid = torch.full((2, 320, 320), 0.3), torch.ones(2, 320, 320, dtype=torch.bool)
    valid[1] = False
    varied, _ = augment(maps, valid, AugmentationConfig(0, 0, 0.5, 0), torch.Generator())
    assert torch.equal(varied, torch.full_like(varied, 0.5))


def test_masked_patches_are_whole_cells() -> None:
    maps = torch.zeros(8, 320, 320)
    config = AugmentationConfig(mask_prob=1.0, mask_ratio=0.9)
    seen = corrupt_inputs(maps, config, torch.Generator().manual_seed(0))
    cells = seen.view(8, 10, 32, 10, 32)
    assert torch.equal(cells.amax((2, 4)), cells.amin((2, 4)))
    assert set(seen.unique().tolist()) == {0.0, 0.5}


def test_16_bits_are_kept(tmp_path: Path) -> None:
    nearness = np.linspace(0, 1, 320 * 320, dtype=np.float32).reshape(320, 320)
    valid = np.random.default_rng(0).random((320, 320)) > 0.5
    train_set = MapDataset.build({"a": [(nearness, valid)], "b": [(nearness[::2, ::4], valid[::2, ::4])]})
    batch = train_set.load_batch(np.array([0, 1]), torch.device("cpu"))
    assert np.abs(batch.maps[0].numpy() - nearness).max() <= 0.5 / 65535 + 1e-7
    assert np.array_equal(batch.valid[0].numpy(), valid)
    assert train_set.sources == ("a", "b")


def test_maps_are_the_same_from_worker_processes() -> None:
    maps = ProceduralDepthMaps(seed=3, length=3, size=32)
    here, there = MapDataset.build({"a": maps}), MapDataset.build({"a": maps}, workers=1)
    assert torch.equal(here.nearness, there.nearness)
    assert torch.equal(here.valid, there.valid)


class TestCache:
    def test_maps_are_made_once_and_mapped_into_memory(self, tmp_path: Path) -> None:
        maps = ProceduralDepthMaps(seed=3, length=3, size=32)
        calls: list[None] = []
        first, second = (
            MapDataset.build({"a": maps}, cache_dir=tmp_path, advance=lambda: calls.append(None)) for _ in range(2)
        )
        assert len(calls) == 6
        assert len(list(tmp_path.iterdir())) == 1
        alone = MapDataset.build({"a": maps})
        for cached in (first, second):
            assert torch.equal(cached.nearness, alone.nearness)
            assert torch.equal(cached.valid, alone.valid)
            assert cached.describe() == alone.describe()
            cached.nearness[0] = 0  # a copy of the page, not the file
        assert torch.equal(MapDataset.build({"a": maps}, cache_dir=tmp_path).nearness, alone.nearness)

    def test_a_made_bank_is_not_made_again(self, tmp_path: Path) -> None:
        maps = ProceduralDepthMaps(seed=3, length=2, size=32)
        MapDataset.build({"a": maps}, cache_dir=tmp_path)
        (folder,) = tmp_path.iterdir()
        before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        MapDataset.build({"a": maps}, cache_dir=tmp_path)
        assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before

    def test_other_maps_have_another_bank(self, tmp_path: Path) -> None:
        groups = [
            {"a": ProceduralDepthMaps(seed=3, length=1, size=32)},
            {"b": ProceduralDepthMaps(seed=3, length=1, size=32)},
            {"a": ProceduralDepthMaps(seed=4, length=1, size=32)},
            {"a": ProceduralDepthMaps(seed=3, length=2, size=32)},
            {"a": ProceduralDepthMaps(seed=3, length=1, size=33)},
        ]
        sets = [MapDataset.build(each, cache_dir=tmp_path) for each in groups]
        assert len(list(tmp_path.iterdir())) == len(groups)
        assert sets[1].sources == ("b",)
        assert not torch.equal(sets[0].nearness, sets[2].nearness)

    def test_files_that_change_are_read_again(self, tmp_path: Path) -> None:
        folder, cache_dir = tmp_path / "maps", tmp_path / "cache"
        folder.mkdir()
        slope = np.linspace(1, 2, 64, dtype=np.float32).reshape(8, 8)
        DepthMap.from_array(slope, kind="metric", unit="m").write(folder / "a.npy")
        (folder / "b.npy").write_bytes(b"not an array")

        def build(options: ReadOptions) -> tuple[MapDataset, list[str]]:
            failures: list[str] = []
            maps = MapFiles(tuple(find_maps([folder], options)))
            return MapDataset.build({"a": maps}, cache_dir=cache_dir, failures=failures), failures

        options = ReadOptions(kind="metric", unit="m")
        (before, failed), (again, failed_again) = build(options), build(options)
        assert failed == failed_again
        assert "b.npy" in failed[0]
        assert len(before) == len(again) == 1
        DepthMap.from_array(slope[::-1], kind="metric", unit="m").write(folder / "a.npy", force=True)
        os.utime(folder / "a.npy", ns=(1, 1))
        after, _ = build(options)
        assert torch.equal(after.nearness, before.nearness.flip(1))
        other, _ = build(ReadOptions(kind="inverse"))
        assert not torch.equal(other.nearness, after.nearness)
        with pytest.raises(DepthMapError, match=r"b\.npy"):
            MapDataset.build({"a": MapFiles(tuple(find_maps([folder], options)))}, cache_dir=cache_dir)

    def test_arrays_in_memory_have_no_recipe(self, tmp_path: Path) -> None:
        maps = [(np.zeros((8, 8), np.float32), np.ones((8, 8), bool))]
        with pytest.raises(ConfigError, match="'a' have no recipe"):
            MapDataset.build({"a": maps}, cache_dir=tmp_path)

    def test_a_damaged_bank_is_refused(self, tmp_path: Path) -> None:
        maps = ProceduralDepthMaps(seed=3, length=1, size=32)
        MapDataset.build({"a": maps}, cache_dir=tmp_path)
        (folder,) = tmp_path.iterdir()
        for name, data in (("contents.json", b"{}{"), ("nearness.npy", b"x")):
            (folder / name).write_bytes(data)
            with pytest.raises(TrainingError, match="remove it"):
                MapDataset.build({"a": maps}, cache_dir=tmp_path)
