"""Training: learns, resumes to the same losses, agrees between one process and two, refuses what cannot work."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from perceptok.depth import (
    AuroraConfig,
    DepthCodec,
    GridConfig,
    MapDataset,
    TrainingConfig,
    TrainingReport,
    train_depth_codec,
)
from perceptok.depth.networks.grid import extend_decoder_state
from perceptok.depth.networks.quantizer import QuantizerConfig
from perceptok.depth.networks.vqvae import DepthVQVAE, model_config_from_dict, model_config_to_dict
from perceptok.depth.training.codec_trainer import CollapseWarning, RunFolder, _Learner
from perceptok.depth.training.map_dataset import AugmentationConfig
from perceptok.errors import ConfigError, OutputError, TrainingError
from perceptok.scenes import ProceduralDepthMaps

TRAIN_MAPS = ProceduralDepthMaps(seed=0, length=8, size=64)
SMALL = TrainingConfig(
    model=GridConfig(widths=(16, 32), blocks=(1, 1), heads=2, codebook_dim=8),
    max_steps=6,
    eval_steps=2,
    batch_size=4,
    warmup_steps=2,
    min_perplexity=0,
    quantizer=QuantizerConfig(codebook_diversity_loss_weight=0.01),
    augmentation=AugmentationConfig(noise_std=0.02, mask_prob=0.5),
)


@pytest.fixture(scope="module")
def train_set() -> MapDataset:
    return MapDataset.build({"procedural": TRAIN_MAPS})


@pytest.fixture(scope="module")
def val_set() -> MapDataset:
    return MapDataset.build({"procedural": ProceduralDepthMaps(seed=1, length=3, size=64)})


@pytest.fixture(scope="module")
def finished(
    train_set: MapDataset, val_set: MapDataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, DepthCodec]:
    folder = tmp_path_factory.mktemp("finished")
    return folder, train_depth_codec(SMALL, train_set, val_set, output=folder, cpu=True)


def test_saved_codec_is_the_returned_one(finished: tuple[Path, DepthCodec]) -> None:
    folder, codec = finished
    assert DepthCodec.from_pretrained(folder).fingerprint == codec.fingerprint
    assert not (folder / "resume.safetensors").exists()
    assert TrainingConfig.from_dict(json.loads((folder / "training.json").read_text())) == SMALL


def test_trainings_of_one_process_have_their_own_precision(
    train_set: MapDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a configuration says is what runs, whatever ran before it and whatever a launcher has set."""

    def train(precision: str) -> str:
        config = TrainingConfig.from_dict({**SMALL.to_dict(), "max_steps": 2, "mixed_precision": precision})
        return train_depth_codec(config, train_set, cpu=True).fingerprint

    first = train("no")
    assert train("bf16") != first
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert train("no") == first


def test_loss_falls(val_set: MapDataset) -> None:
    config = TrainingConfig.from_dict({**SMALL.to_dict(), "max_steps": 120, "eval_steps": 30, "augmentation": {}})
    reports: list[TrainingReport] = []
    train_depth_codec(config, val_set, report=reports.append, cpu=True)
    assert reports[-1].loss < 0.6 * reports[0].loss


def test_killed_run_goes_on_to_the_same_losses(
    train_set: MapDataset, val_set: MapDataset, finished: tuple[Path, DepthCodec], tmp_path: Path
) -> None:
    class KilledError(Exception):
        pass

    def kill_in_the_second_epoch(step: int, _: float) -> None:
        if step == 3:
            raise KilledError

    with pytest.raises(KilledError):
        train_depth_codec(SMALL, train_set, val_set, output=tmp_path, advance=kill_in_the_second_epoch, cpu=True)
    # What a run writes after its last checkpoint must not stay in the log.
    with (tmp_path / "log.csv").open("a") as file:
        file.write("4,0,0,0,0,0\n")
    codec = train_depth_codec(SMALL, train_set, val_set, output=tmp_path, cpu=True)
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


def test_accumulation_trains_on_the_same_maps(train_set: MapDataset) -> None:
    reports: list[TrainingReport] = []
    config = TrainingConfig.from_dict({**SMALL.to_dict(), "gradient_accumulation_steps": 2, "max_steps": 2})
    codec = train_depth_codec(config, train_set, report=reports.append, cpu=True)
    assert [report.step for report in reports] == [2]
    assert torch.isfinite(codec.codebook).all()


def test_reference_architecture_trains(train_set: MapDataset) -> None:
    config = TrainingConfig.from_dict(
        {
            **SMALL.to_dict(),
            "max_steps": 2,
            "model": {"architecture": "aurora", "hidden_dim": 2, "codebook_dim": 8},
            "quantizer": {
                "kmeans_init": False,
                "threshold_ema_dead_code": 0,
                "rotation_trick": False,
                "codebook_diversity_loss_weight": 0,
            },
            "lr_scheduler_type": "exponential",
        }
    )
    assert isinstance(train_depth_codec(config, train_set, cpu=True).model.config, AuroraConfig)


def test_collapse_gives_an_alarm(train_set: MapDataset) -> None:
    with pytest.warns(CollapseWarning, match="perplexity"):
        train_depth_codec(
            TrainingConfig.from_dict({**SMALL.to_dict(), "max_steps": 2, "min_perplexity": 129}), train_set, cpu=True
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


def test_loss_is_not_finite(train_set: MapDataset) -> None:
    with pytest.raises(TrainingError, match="not finite"):
        train_depth_codec(TrainingConfig.from_dict({**SMALL.to_dict(), "learning_rate": 1e30}), train_set, cpu=True)


def test_refusals(train_set: MapDataset, finished: tuple[Path, DepthCodec], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="training maps too"):
        train_depth_codec(SMALL, train_set, train_set, cpu=True)
    with pytest.raises(TrainingError, match="no depth maps"):
        train_depth_codec(SMALL, [], cpu=True)
    with pytest.raises(TrainingError, match="finished run"):
        train_depth_codec(SMALL, train_set, output=finished[0], cpu=True)
    with pytest.raises(TrainingError, match="another configuration: max_steps was 6, now 7"):
        train_depth_codec(
            TrainingConfig.from_dict({**SMALL.to_dict(), "max_steps": 7}), train_set, output=finished[0], cpu=True
        )
    with pytest.raises(ConfigError, match="TrainingConfig: unknown key 'stepz'"):
        TrainingConfig.from_dict({"stepz": 1})
    with pytest.raises(ConfigError, match="TrainingConfig: unknown key 'quantizer"):
        TrainingConfig.from_dict({"quantizer": {"decya": 1}})
    with pytest.raises(ConfigError, match="multiple of processes"):
        train_depth_codec(
            TrainingConfig.from_dict({**SMALL.to_dict(), "gradient_accumulation_steps": 3}), train_set, cpu=True
        )
    with pytest.raises(ConfigError, match="max_steps must be positive"):
        TrainingConfig(max_steps=0)
    (tmp_path / "resume.safetensors").write_bytes(b"broken")
    with pytest.raises(TrainingError, match="damaged"):
        train_depth_codec(SMALL, train_set, output=tmp_path, cpu=True)


def test_a_full_disk_is_refused_before_training(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, SMALL.to_dict(), {})
    # An expanded tensor claims more bytes than any disk has, and takes none.
    with pytest.raises(OutputError, match=r"MB, the disk has .* MB left; free some space and run the command again"):
        run.begin(0, {"weights": torch.zeros(1).expand(2**50)})


def test_replacement_ends_where_the_configuration_says(train_set: MapDataset) -> None:
    """Two runs that differ in it alone part there, and not before."""

    def losses(dead_code_ratio: float) -> list[float]:
        reports: list[TrainingReport] = []
        quantizer = QuantizerConfig(threshold_ema_dead_code=20, dead_code_ratio=dead_code_ratio)
        train_depth_codec(replace(SMALL, quantizer=quantizer, eval_steps=1), train_set, report=reports.append, cpu=True)
        return [one.loss for one in reports]

    whole, half = losses(1.0), losses(0.5)
    # The step that replaces codes first shows in the loss of the next one.
    assert whole[:4] == half[:4]
    assert all(one != other for one, other in zip(whole[4:], half[4:], strict=True))


def test_starting_from_a_codec(train_set: MapDataset, val_set: MapDataset, finished: tuple[Path, DepthCodec]) -> None:
    """At a rate of next to nothing it stays what it was; with another model it is refused."""
    codec = finished[1]
    quiet = replace(SMALL, learning_rate=1e-12, quantizer=QuantizerConfig(threshold_ema_dead_code=0, decay=0.999999))
    before: list[TrainingReport] = []
    after: list[TrainingReport] = []
    train_depth_codec(SMALL, train_set, val_set, report=before.append, cpu=True)
    still = train_depth_codec(quiet, train_set, val_set, initial=codec, report=after.append, cpu=True)
    assert torch.allclose(still.codebook, codec.codebook, atol=1e-3)
    assert after[-1].val_rmse == pytest.approx(before[-1].val_rmse, rel=1e-3)
    other = replace(SMALL, model=GridConfig(widths=(8, 16), blocks=(1, 1), heads=2, codebook_dim=8))
    with pytest.raises(ConfigError, match="start from"):
        train_depth_codec(other, train_set, initial=codec, cpu=True)


MORE_BLOCKS = replace(SMALL.model, decoder_blocks=(2, 2))


def test_a_frozen_encoder_keeps_the_codes(
    train_set: MapDataset, val_set: MapDataset, finished: tuple[Path, DepthCodec]
) -> None:
    """Every map has the codes that it had before, and they decode to a map nearer to it."""
    codec = finished[1]
    frozen = replace(SMALL, model=MORE_BLOCKS, freeze_encoder=True, learning_rate=0.01, max_steps=12)
    reports: list[TrainingReport] = []
    trained = train_depth_codec(frozen, train_set, val_set, initial=codec, report=reports.append, cpu=True)
    for key, value in codec.model.state_dict().items():
        if not key.startswith("decoder."):
            assert torch.equal(trained.model.state_dict()[key], value), key
    maps = train_set.load_batch(torch.arange(8).numpy(), torch.device("cpu")).maps
    codes = codec.encode(maps)
    assert torch.equal(trained.encode(maps), codes)
    assert {report.commitment_loss for report in reports} == {0.0}
    before, after = ((decoder.decode(codes) - maps).square().mean() for decoder in (codec, trained))
    assert after < 0.9 * before
    assert trained.fingerprint != codec.fingerprint


def test_a_frozen_encoder_resumes_to_the_same_weights(
    train_set: MapDataset, finished: tuple[Path, DepthCodec], tmp_path: Path
) -> None:
    frozen = replace(SMALL, model=MORE_BLOCKS, freeze_encoder=True)
    stopped(train_set, tmp_path, 3, frozen, finished[1])
    resumed = train_depth_codec(frozen, train_set, initial=finished[1], output=tmp_path, cpu=True)
    alone = train_depth_codec(frozen, train_set, initial=finished[1], cpu=True)
    assert resumed.fingerprint == alone.fingerprint


def test_added_decoder_blocks_change_nothing_at_first(finished: tuple[Path, DepthCodec]) -> None:
    codec = finished[1]
    model = DepthVQVAE(MORE_BLOCKS)
    state = extend_decoder_state(codec.model.state_dict(), model)
    assert len(state) > len(codec.model.state_dict())
    model.load_state_dict(state)
    codes = torch.arange(100).view(1, 10, 10)
    assert torch.equal(DepthCodec(model, codec.preprocessing).decode(codes), codec.decode(codes))


def test_codecs_that_a_decoder_cannot_be_trained_on_from(
    train_set: MapDataset, finished: tuple[Path, DepthCodec]
) -> None:
    with pytest.raises(ConfigError, match="freeze_encoder trains the decoder of a trained encoder"):
        train_depth_codec(replace(SMALL, freeze_encoder=True), train_set, cpu=True)
    larger = train_depth_codec(replace(SMALL, model=MORE_BLOCKS, max_steps=1), train_set, cpu=True)
    with pytest.raises(ConfigError, match="start from"):
        train_depth_codec(SMALL, train_set, initial=larger, cpu=True)
    with pytest.raises(ConfigError, match="decoder_blocks must have one value for each stage"):
        GridConfig(decoder_blocks=(1,))
    with pytest.raises(ConfigError, match="every size is at least 1"):
        GridConfig(decoder_blocks=(0, 1))


def test_settings_without_decoder_blocks_are_written_as_before() -> None:
    """The fingerprint of every codec that exists is a hash of them."""
    assert "decoder_blocks" not in model_config_to_dict(GridConfig())
    larger = GridConfig(decoder_blocks=(2, 3))
    assert model_config_from_dict(json.loads(json.dumps(model_config_to_dict(larger)))) == larger


def stopped(
    train_set: MapDataset, folder: Path, at: int, config: TrainingConfig = SMALL, initial: DepthCodec | None = None
) -> None:
    def stop(step: int, loss: float) -> None:
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_depth_codec(config, train_set, initial=initial, output=folder, advance=stop, cpu=True)


def steps_of(folder: Path) -> list[int]:
    with (folder / "log.csv").open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_other_maps_are_refused(train_set: MapDataset, tmp_path: Path) -> None:
    stopped(train_set, tmp_path, SMALL.eval_steps + 1)
    more = MapDataset.build({"procedural": TRAIN_MAPS, "more": ProceduralDepthMaps(seed=4, length=2, size=64)})
    with pytest.raises(TrainingError, match="other maps: 8 maps, now 10 maps"):
        train_depth_codec(SMALL, more, output=tmp_path, cpu=True)
    renamed = replace(train_set, sources=("another",) * len(train_set))
    with pytest.raises(TrainingError, match="other maps"):
        train_depth_codec(SMALL, renamed, output=tmp_path, cpu=True)
    train_depth_codec(SMALL, train_set, output=tmp_path, cpu=True)


def test_every_line_of_the_log_survives_every_resume(train_set: MapDataset, tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "resumed"
    train_depth_codec(SMALL, train_set, output=whole, cpu=True)
    for at in range(2, SMALL.max_steps, 2):
        try:
            stopped(train_set, folder, at)
        except pytest.fail.Exception:  # that step is behind the state already
            break
    if not (folder / "model.safetensors").exists():
        train_depth_codec(SMALL, train_set, output=folder, cpu=True)
    assert steps_of(folder) == steps_of(whole)
    assert len(set(steps_of(folder))) == len(steps_of(folder))


def test_half_a_line_of_the_log_is_written_anew(train_set: MapDataset, tmp_path: Path) -> None:
    stopped(train_set, tmp_path, SMALL.eval_steps + 1)
    with (tmp_path / "log.csv").open("a") as file:
        file.write("9")
    train_depth_codec(SMALL, train_set, output=tmp_path, cpu=True)
    assert steps_of(tmp_path)[0] == SMALL.eval_steps
    assert len(set(steps_of(tmp_path))) == len(steps_of(tmp_path))


def test_two_trainings_into_one_folder(train_set: MapDataset, tmp_path: Path) -> None:
    refused: list[str] = []

    def again(step: int, loss: float) -> None:
        if not refused:
            with pytest.raises(OutputError, match="another process is writing") as caught:
                train_depth_codec(SMALL, train_set, output=tmp_path, cpu=True)
            refused.append(str(caught.value))

    train_depth_codec(SMALL, train_set, output=tmp_path, advance=again, cpu=True)
    assert refused
    assert len(set(steps_of(tmp_path))) == len(steps_of(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000, '{"max_steps": 1' + "0" * 5000 + "}"])
def test_a_damaged_configuration_is_named(text: str, train_set: MapDataset, tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text(text)
    with pytest.raises(TrainingError, match=r"training\.json"):
        train_depth_codec(SMALL, train_set, output=tmp_path, cpu=True)
    assert json.dumps(text)
