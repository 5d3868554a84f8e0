"""Training: learns, resumes to the same losses, agrees between one process and two, refuses what cannot work."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from perceptok.depth import (
    AuroraConfig,
    DepthCodec,
    EpochReport,
    GridConfig,
    MapBank,
    TrainingConfig,
    train_depth_codec,
)
from perceptok.depth.networks.quantizer import Quantizer, QuantizerConfig
from perceptok.depth.training.codec_trainer import CollapseWarning, RunFolder, _Learner
from perceptok.depth.training.map_bank import AugmentationConfig, augment, draw_shares, hide_patches
from perceptok.errors import ConfigError, OutputError, TrainingError
from perceptok.scenes import ProceduralDepthMaps

SMALL = TrainingConfig(
    model=GridConfig(widths=(16, 32), blocks=(1, 1), heads=2, codebook_dim=8),
    steps=6,
    epoch_steps=2,
    batch_size=4,
    warmup=2,
    collapse_below=0,
    quantizer=QuantizerConfig(diversity=0.01),
    augmentation=AugmentationConfig(noise=0.02, hide=0.5),
)


@pytest.fixture(scope="module")
def bank() -> MapBank:
    return MapBank.build({"procedural": ProceduralDepthMaps(seed=0, length=8, size=64)})


@pytest.fixture(scope="module")
def val_bank() -> MapBank:
    return MapBank.build({"procedural": ProceduralDepthMaps(seed=1, length=3, size=64)})


@pytest.fixture(scope="module")
def finished(bank: MapBank, val_bank: MapBank, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DepthCodec]:
    folder = tmp_path_factory.mktemp("finished")
    return folder, train_depth_codec(SMALL, bank, val_bank, output=folder, cpu=True)


def test_saved_codec_is_the_returned_one(finished: tuple[Path, DepthCodec]) -> None:
    folder, codec = finished
    assert DepthCodec.from_pretrained(folder).fingerprint == codec.fingerprint
    assert not (folder / "resume.safetensors").exists()
    assert TrainingConfig.from_dict(json.loads((folder / "training.json").read_text())) == SMALL


def test_loss_falls(val_bank: MapBank) -> None:
    config = TrainingConfig.from_dict({**SMALL.to_dict(), "steps": 120, "epoch_steps": 30, "augmentation": {}})
    reports: list[EpochReport] = []
    train_depth_codec(config, val_bank, report=reports.append, cpu=True)
    assert reports[-1].loss < 0.6 * reports[0].loss


def test_killed_run_goes_on_to_the_same_losses(
    bank: MapBank, val_bank: MapBank, finished: tuple[Path, DepthCodec], tmp_path: Path
) -> None:
    class KilledError(Exception):
        pass

    def kill_in_the_second_epoch(step: int, _: float) -> None:
        if step == 3:
            raise KilledError

    with pytest.raises(KilledError):
        train_depth_codec(SMALL, bank, val_bank, output=tmp_path, advance=kill_in_the_second_epoch, cpu=True)
    # What a run writes after its last checkpoint must not stay in the log.
    with (tmp_path / "log.csv").open("a") as file:
        file.write("4,0,0,0,0,0\n")
    codec = train_depth_codec(SMALL, bank, val_bank, output=tmp_path, cpu=True)
    assert (tmp_path / "log.csv").read_text() == (finished[0] / "log.csv").read_text()
    assert codec.fingerprint == finished[1].fingerprint


def test_two_processes_train_what_one_trains(
    finished: tuple[Path, DepthCodec], tmp_path: Path, in_two_processes: Callable[[Path], list[Any]]
) -> None:
    first, second = in_two_processes(Path(__file__).with_name("two_processes.py"))
    assert first["codebook"] == second["codebook"]
    together = DepthCodec.from_pretrained(tmp_path / "run")
    assert torch.allclose(together.codebook, finished[1].codebook, atol=2e-3)
    with (tmp_path / "run" / "log.csv").open() as file, (finished[0] / "log.csv").open() as alone:
        for row, expected in zip(csv.DictReader(file), csv.DictReader(alone), strict=True):
            assert float(row["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-3)
            assert float(row["val_rmse"]) == pytest.approx(float(expected["val_rmse"]), rel=2e-2)


def test_accumulation_trains_on_the_same_maps(bank: MapBank) -> None:
    reports: list[EpochReport] = []
    config = TrainingConfig.from_dict({**SMALL.to_dict(), "accumulate": 2, "steps": 2})
    codec = train_depth_codec(config, bank, report=reports.append, cpu=True)
    assert [report.step for report in reports] == [2]
    assert torch.isfinite(codec.codebook).all()


def test_reference_architecture_trains(bank: MapBank) -> None:
    config = TrainingConfig.from_dict(
        {
            **SMALL.to_dict(),
            "steps": 2,
            "model": {"architecture": "aurora", "hidden_dim": 2, "codebook_dim": 8},
            "quantizer": {"kmeans_init": False, "revive_below": 0, "rotation_trick": False, "diversity": 0},
            "schedule": "exponential",
        }
    )
    assert isinstance(train_depth_codec(config, bank, cpu=True).model.config, AuroraConfig)


def test_collapse_gives_an_alarm(bank: MapBank) -> None:
    with pytest.warns(CollapseWarning, match="perplexity"):
        train_depth_codec(
            TrainingConfig.from_dict({**SMALL.to_dict(), "steps": 2, "collapse_below": 129}), bank, cpu=True
        )


def test_masked_pixels_do_not_count() -> None:
    torch.manual_seed(0)
    learner = _Learner(SMALL).eval()
    seen, truth = torch.rand(2, 2, 320, 320)
    valid = torch.ones_like(truth, dtype=torch.bool)
    valid[0, :, :160] = False
    other = torch.where(valid, truth, 7.0)
    loss, _, _ = learner(seen, truth, valid)
    assert learner(seen, other, valid)[0] == loss
    assert learner(seen, other, torch.ones_like(valid))[0] > 2 * loss
    assert torch.isfinite(learner(seen, truth, torch.zeros_like(valid))[0])


def test_loss_is_not_finite(bank: MapBank) -> None:
    with pytest.raises(TrainingError, match="not finite"):
        train_depth_codec(TrainingConfig.from_dict({**SMALL.to_dict(), "learning_rate": 1e30}), bank, cpu=True)


def test_refusals(bank: MapBank, finished: tuple[Path, DepthCodec], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="training maps too"):
        train_depth_codec(SMALL, bank, bank, cpu=True)
    with pytest.raises(TrainingError, match="no depth maps"):
        train_depth_codec(SMALL, [], cpu=True)
    with pytest.raises(TrainingError, match="finished run"):
        train_depth_codec(SMALL, bank, output=finished[0], cpu=True)
    with pytest.raises(TrainingError, match="another configuration: steps was 6, now 7"):
        train_depth_codec(TrainingConfig.from_dict({**SMALL.to_dict(), "steps": 7}), bank, output=finished[0], cpu=True)
    with pytest.raises(ConfigError, match="TrainingConfig: unknown key 'stepz'"):
        TrainingConfig.from_dict({"stepz": 1})
    with pytest.raises(ConfigError, match="TrainingConfig: unknown key 'quantizer"):
        TrainingConfig.from_dict({"quantizer": {"decya": 1}})
    with pytest.raises(ConfigError, match="multiple of processes"):
        train_depth_codec(TrainingConfig.from_dict({**SMALL.to_dict(), "accumulate": 3}), bank, cpu=True)
    with pytest.raises(ConfigError, match="steps must be positive"):
        TrainingConfig(steps=0)
    (tmp_path / "resume.safetensors").write_bytes(b"broken")
    with pytest.raises(TrainingError, match="damaged"):
        train_depth_codec(SMALL, bank, output=tmp_path, cpu=True)


def test_disk_without_room_is_refused_before_training(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, SMALL.to_dict(), {})
    # An expanded tensor claims more bytes than any disk has, and takes none.
    with pytest.raises(OutputError, match="left on the disk"):
        run.begin(0, {"weights": torch.zeros(1).expand(2**50)})


def test_shares_are_by_source() -> None:
    sources = ["long"] * 900 + ["short"] * 9 + ["osd"] * 400 + ["procedural"] * 50 + ["one"] + ["two"]
    shares = draw_shares(sources, {"procedural": 0.6}, largest=0.25, caps={"osd": 0.1})
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["procedural"] == pytest.approx(0.6)
    assert max(shares[name] for name in ("long", "short", "one", "two")) <= 0.4 * 0.25 / 0.85 * 1.2
    assert draw_shares(["only"] * 3, {}, largest=0.25, caps={}) == {"only": pytest.approx(1)}
    with pytest.raises(TrainingError, match=r"sum to 1\.2"):
        draw_shares(["a", "b"], {"a": 0.6, "b": 0.6}, largest=0.25, caps={})


def test_caps_hold_where_they_can() -> None:
    sources = [name for index in range(8) for name in [f"s{index}"] * (10 if index else 1000)] + ["osd"] * 2000
    shares = draw_shares(sources, {}, largest=0.25, caps={"osd": 0.1})
    assert shares["osd"] == pytest.approx(0.1)
    assert max(shares.values()) <= 0.25 + 1e-9
    assert sum(shares.values()) == pytest.approx(1)


def test_augmentation_keeps_the_scale() -> None:
    maps = torch.rand(6, 320, 320, generator=torch.Generator().manual_seed(0))
    valid = torch.ones_like(maps, dtype=torch.bool)
    valid[:, :100] = False
    strong = AugmentationConfig(mirror=0.5, crop=1.0, tone=1.0)
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


def test_hidden_patches_are_whole_cells() -> None:
    maps = torch.zeros(8, 320, 320)
    config = AugmentationConfig(hide=1.0, hide_share=0.9)
    seen = hide_patches(maps, config, torch.Generator().manual_seed(0))
    cells = seen.view(8, 10, 32, 10, 32)
    assert torch.equal(cells.amax((2, 4)), cells.amin((2, 4)))
    assert set(seen.unique().tolist()) == {0.0, 0.5}


def test_bank_keeps_16_bits(tmp_path: Path) -> None:
    nearness = np.linspace(0, 1, 320 * 320, dtype=np.float32).reshape(320, 320)
    valid = np.random.default_rng(0).random((320, 320)) > 0.5
    bank = MapBank.build({"a": [(nearness, valid)], "b": [(nearness[::2, ::4], valid[::2, ::4])]})
    batch = bank.batch(np.array([0, 1]), torch.device("cpu"))
    assert np.abs(batch.maps[0].numpy() - nearness).max() <= 0.5 / 65535 + 1e-7
    assert np.array_equal(batch.valid[0].numpy(), valid)
    assert bank.sources == ("a", "b")


def test_bank_is_the_same_from_worker_processes() -> None:
    maps = ProceduralDepthMaps(seed=3, length=3, size=32)
    here, there = MapBank.build({"a": maps}), MapBank.build({"a": maps}, workers=1)
    assert torch.equal(here.nearness, there.nearness)
    assert torch.equal(here.valid, there.valid)


def test_reference_quantiser_is_a_configuration() -> None:
    reference = QuantizerConfig(kmeans_init=False, revive_below=0, rotation_trick=False, diversity=0)
    assert (reference.decay, reference.commitment) == (0.99, 0.25)


def test_codes_are_revived_until_it_is_switched_off() -> None:
    torch.manual_seed(0)
    quantizer = Quantizer(QuantizerConfig(kmeans_init=False, revive_below=2), 8, 4).train()
    features = torch.randn(2, 10, 10, 4)

    def unused() -> torch.Tensor:
        """The vector of a code that no feature is near, after it has been placed far away and a batch gone by."""
        with torch.no_grad():
            quantizer.codebook[0] = 1e3
            quantizer.quantize._codebook.embed_avg[0, 0] = 1e3
            quantizer.quantize._codebook.cluster_size[0, 0] = 1.0
        quantizer(features)
        return quantizer.codebook[0].clone()

    quantizer.revive(False)
    assert unused().min() > 100
    quantizer.revive(True)
    assert unused().abs().max() < 10


def test_revival_ends_where_the_configuration_says(bank: MapBank) -> None:
    """Two runs that differ in it alone part there, and not before."""

    def losses(revive_until: float) -> list[float]:
        reports: list[EpochReport] = []
        quantizer = QuantizerConfig(revive_below=20, revive_until=revive_until)
        train_depth_codec(replace(SMALL, quantizer=quantizer, epoch_steps=1), bank, report=reports.append, cpu=True)
        return [one.loss for one in reports]

    whole, half = losses(1.0), losses(0.5)
    # The update that revives first shows in the loss of the next one.
    assert whole[:4] == half[:4]
    assert all(one != other for one, other in zip(whole[4:], half[4:], strict=True))


def test_going_on_from_a_codec(bank: MapBank, val_bank: MapBank, finished: tuple[Path, DepthCodec]) -> None:
    """At a rate of next to nothing it stays what it was; with another model it is refused."""
    codec = finished[1]
    quiet = replace(SMALL, learning_rate=1e-12, quantizer=QuantizerConfig(revive_below=0, decay=0.999999))
    before: list[EpochReport] = []
    after: list[EpochReport] = []
    train_depth_codec(SMALL, bank, val_bank, report=before.append, cpu=True)
    still = train_depth_codec(quiet, bank, val_bank, initial=codec, report=after.append, cpu=True)
    assert torch.allclose(still.codebook, codec.codebook, atol=1e-3)
    assert after[-1].val_rmse == pytest.approx(before[-1].val_rmse, rel=1e-3)
    other = replace(SMALL, model=GridConfig(widths=(8, 16), blocks=(1, 1), heads=2, codebook_dim=8))
    with pytest.raises(ConfigError, match="go on from"):
        train_depth_codec(other, bank, initial=codec, cpu=True)


def test_diversity_is_the_entropy_of_the_batch() -> None:
    torch.manual_seed(0)
    config = QuantizerConfig(kmeans_init=False, revive_below=0, commitment=0, diversity=0.5, diversity_temperature=3)
    quantizer = Quantizer(config, 8, 4).train()
    codebook = quantizer.codebook.clone()
    features = torch.randn(2, 10, 10, 4, requires_grad=True)
    loss = quantizer(features).loss
    shares = (-3 * torch.cdist(features.detach().view(-1, 4), codebook)).softmax(-1).mean(0)
    assert loss.item() == pytest.approx(float(0.5 * (shares * shares.log()).sum()), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, features)
    further = Quantizer(config, 8, 4).train()
    with torch.no_grad():
        further.codebook.copy_(codebook)
        assert further(features - 0.1 * gradient / gradient.norm()).loss < loss
        assert quantizer.eval()(features).loss == 0
