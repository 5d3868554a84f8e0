"""The probe of codes: the same scores for the same arguments, and measures against what is known of them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from perceptok.depth import (
    DepthCodec,
    MapDataset,
    ProbeConfig,
    ProbeScore,
    count_probe_steps,
    probe_depth_codecs,
)
from perceptok.depth.probe import (
    _compute_loss,
    _PatchCodec,
    _predict,
    _Reader,
    _train,
    _Writer,
    find_static_cells,
)
from perceptok.errors import ConfigError, TrainingError
from perceptok.scenes import ProceduralClips

TINY = ProbeConfig(
    max_steps=2, batch_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, kmeans_patches=400
)


def make_maps(seed: int, count: int) -> MapDataset:
    rng = np.random.default_rng(seed)
    maps = [rng.random((8, 8), dtype=np.float32).repeat(40, 0).repeat(40, 1) for _ in range(count)]
    return MapDataset.build({"random": [(values, np.ones_like(values, dtype=bool)) for values in maps]})


@pytest.fixture(scope="module")
def maps() -> tuple[MapDataset, MapDataset]:
    return make_maps(0, 6), make_maps(1, 3)


@pytest.fixture(scope="module")
def scores(codec: DepthCodec, maps: tuple[MapDataset, MapDataset]) -> dict[str, ProbeScore]:
    calls: list[None] = []
    clips = ProceduralClips(0, 1, size=64, frames=2)
    found = probe_depth_codecs({"small": codec}, *maps, clips, TINY, advance=lambda: calls.append(None))
    assert len(calls) == count_probe_steps(1, TINY)
    return found


def test_equal_arguments_give_equal_scores(
    codec: DepthCodec, maps: tuple[MapDataset, MapDataset], scores: dict[str, ProbeScore]
) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    again = probe_depth_codecs({"small": codec}, *maps, ProceduralClips(0, 1, size=64, frames=2), TINY)
    assert torch.equal(torch.get_rng_state(), before)
    assert {name: score.to_dict() for name, score in again.items()} == {
        name: score.to_dict() for name, score in scores.items()
    }


def test_a_score_does_not_depend_on_the_codecs_beside_it(
    codec: DepthCodec, other_codec: DepthCodec, maps: tuple[MapDataset, MapDataset], scores: dict[str, ProbeScore]
) -> None:
    both = probe_depth_codecs({"other": other_codec, "small": codec}, *maps, (), TINY)
    assert list(both) == ["other", "small", "k-means"]
    for name in ("small", "k-means"):
        expected = {**scores[name].to_dict(), "changed": {**scores[name].changed, "static cells of clips": None}}
        assert both[name].to_dict() == expected


def test_scores_are_json_and_in_range(scores: dict[str, ProbeScore]) -> None:
    for score in scores.values():
        values = json.loads(json.dumps(score.to_dict(), allow_nan=False))
        assert values["rmse"] > 0
        assert values["predicted_rmse"] > 0
        assert 1 <= values["codes_used"] <= 128
        assert 0 <= values["entropy"] <= 7
        assert all(share is None or 0 <= share <= 1 for share in values["changed"].values())
        assert len(values["changed"]) == 12


def test_codes_of_patches_depend_on_their_own_cell_alone(scores: dict[str, ProbeScore]) -> None:
    changed = scores["k-means"].changed
    assert changed["its neighbours"] == changed["other cells"] == 0
    assert changed["changed cell"] > 0
    assert scores["small"].changed["other cells"] > 0


def test_patches_are_encoded_by_the_nearest_centre_and_decoded_in_their_place() -> None:
    rng = np.random.default_rng(0)
    centres = rng.random((128, 1024), dtype=np.float32)
    codec, truth = _PatchCodec(torch.from_numpy(centres)), rng.integers(128, size=(10, 10))
    squares = [[centres[code].reshape(32, 32) for code in row] for row in truth]
    nearness = np.block(squares)
    assert np.array_equal(codec.decode(torch.from_numpy(truth)[None])[0].numpy(), nearness)
    noisy = torch.from_numpy((nearness + 0.01 * rng.standard_normal(nearness.shape)).astype(np.float32))
    assert np.array_equal(codec.encode(noisy[None])[0].numpy(), truth)


def test_the_writer_sees_only_the_codes_before() -> None:
    torch.manual_seed(0)
    writer, codes = _Writer(TINY).eval(), torch.randint(128, (1, 10, 10))
    changed = codes.clone()
    changed[0, 4, 7] = (changed[0, 4, 7] + 1) % 128
    differs = (_predict(writer, codes) != _predict(writer, changed)).any(-1)[0]
    assert not differs[:48].any()
    assert differs[48:].all()


def test_bits_per_code_are_those_of_the_source() -> None:
    """Constant codes cost next to nothing, and uniform ones seven bits, which no model can undercut."""
    config = ProbeConfig(
        max_steps=60, batch_size=8, learning_rate=0.02, hidden_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    codes = torch.randint(128, (256, 10, 10), generator=torch.Generator().manual_seed(0))
    held_out = torch.randint(128, (64, 10, 10), generator=torch.Generator().manual_seed(1))
    for train_codes, val_codes, lowest, highest in (
        (torch.full_like(codes, 5), torch.full_like(held_out, 5), 0.0, 0.1),
        (codes, held_out, 6.95, 7.5),
    ):
        writer = _train(_Writer, train_codes, train_codes, config, lambda: None)
        bits = float(_compute_loss(_predict(writer, val_codes), val_codes)) / math.log(2)
        assert lowest <= bits <= highest


def test_the_reader_learns_codes_that_the_view_shows() -> None:
    config = ProbeConfig(
        max_steps=60, batch_size=8, learning_rate=0.02, hidden_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    codes = torch.randint(2, (64, 10, 10), generator=torch.Generator().manual_seed(0))
    views = codes.flatten(1)[:, :, None].float().expand(-1, -1, 16)
    reader = _train(_Reader, views, codes, config, lambda: None)
    predicted = _predict(reader, views).argmax(-1).view(codes.shape)
    assert (predicted == codes).float().mean() > 0.95


class TestStaticCells:
    def test_a_pixel_may_move_but_not_a_tenth_of_the_cell(self) -> None:
        before = np.full((320, 320), 2.0, dtype=np.float32)
        after = before.copy()
        after[:32, :3] = 3  # 96 of 1024 pixels
        after[32:64, :4] = 3  # 128
        after[64:96, :32] = 2.01  # within 1 %
        after[:, 64:96] = 0  # unknown
        static = find_static_cells(before, after)
        assert static[0, 0]
        assert not static[1, 0]
        assert static[2, 0]
        assert not static[:, 2].any()
        assert static[:, 3:].all()

    def test_exact(self) -> None:
        before = np.full((320, 320), 2.0, dtype=np.float32)
        after = before.copy()
        after[0, 0] = 2.001
        static = find_static_cells(before, after, tolerance=0, moving=0)
        assert static.sum() == 99
        assert not static[0, 0]

    def test_a_clip_that_stands_still_changes_nothing(
        self, codec: DepthCodec, maps: tuple[MapDataset, MapDataset]
    ) -> None:
        frame = ProceduralClips(0, 1, size=64, frames=1)[0]
        config = ProbeConfig(
            max_steps=1, batch_size=2, hidden_size=8, num_hidden_layers=1, sensor_noise=0, kmeans_patches=200
        )
        found = probe_depth_codecs({"small": codec}, *maps, [frame.repeat(3, 0)], config)
        assert found["small"].changed["static cells of clips"] == 0


def test_what_cannot_be_probed_is_refused(codec: DepthCodec, maps: tuple[MapDataset, MapDataset]) -> None:
    with pytest.raises(ConfigError, match="by name"):
        probe_depth_codecs({}, *maps)
    with pytest.raises(ConfigError, match="'k-means' is the baseline's"):
        probe_depth_codecs({"k-means": codec}, *maps)
    with pytest.raises(TrainingError, match="6 held-out maps are training maps too"):
        probe_depth_codecs({"small": codec}, maps[0], maps[0])
    with pytest.raises(TrainingError, match="k-means needs 128 patches; 1 maps have 100"):
        probe_depth_codecs({"small": codec}, make_maps(2, 1), maps[1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_steps": 0}, "max_steps must be positive"),
        ({"view_noise": -1.0}, "view_noise must not be negative"),
        ({"hidden_size": 10}, "multiple of num_attention_heads"),
        ({"view_size": 30}, "view_size must divide 320"),
        ({"kmeans_patches": 100}, "at least 128"),
    ],
)
def test_settings_are_checked(values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ProbeConfig(**values)  # type: ignore[arg-type]
