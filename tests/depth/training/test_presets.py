"""The codec's presets, and training by epochs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from typer.testing import CliRunner

from perceptok.config import list_presets
from perceptok.depth import (
    AugmentationConfig,
    AuroraConfig,
    DepthCodec,
    GridConfig,
    MapDataset,
    TrainingConfig,
    train_depth_codec,
)
from perceptok.depth.training.codec_trainer import _Trainer
from perceptok.errors import ConfigError
from perceptok.scenes import ProceduralDepthMaps
from perceptok_cli.main import app

EPOCHS = TrainingConfig(
    model=GridConfig(widths=(16, 32), blocks=(1, 1), heads=2, codebook_dim=8),
    num_train_epochs=2,
    eval_steps=2,
    batch_size=4,
    warmup_steps=0,
    min_perplexity=0,
)


@pytest.fixture(scope="module")
def train_set() -> MapDataset:
    """Six maps: an epoch is a batch and a half."""
    return MapDataset.build({"procedural": ProceduralDepthMaps(seed=0, length=6, size=64)})


def test_aurora() -> None:
    """What the paper and the released code say (20,210 maps of ADE20K: 50,525 steps)."""
    config = TrainingConfig.read("aurora")
    assert config.model == AuroraConfig(hidden_dim=16, codebook_size=128, codebook_dim=512)
    assert (config.num_train_epochs, config.batch_size, config.count_steps(20_210)) == (20, 8, 50_525)
    assert (config.learning_rate, config.lr_scheduler_type, config.warmup_steps) == (3e-4, "exponential", 0)
    assert (config.weight_decay, config.adam_beta1, config.adam_beta2, config.max_grad_norm) == (0, 0.9, 0.999, 0)
    assert (config.quantizer.kmeans_init, config.quantizer.threshold_ema_dead_code) == (False, 0)
    assert config.augmentation == replace(AugmentationConfig(), flip_prob=0, crop_prob=0, tone_prob=0)


def test_our_own_is_the_recipe_of_the_shipped_weights() -> None:
    import perceptok.depth

    weights = Path(perceptok.depth.__file__).parent / "weights"
    ours, first, last, *decoders = (
        TrainingConfig.read("perceptok"),
        *(
            TrainingConfig.read(weights / name)
            for name in ("first.json", "training.json", "decoder.json", "decoder-last.json")
        ),
    )
    assert ours.max_steps == first.max_steps + last.max_steps
    assert (ours.model, ours.quantizer, ours.augmentation) == (last.model, last.quantizer, last.augmentation)
    assert (ours.batch_size, ours.learning_rate) == (first.batch_size, first.learning_rate)
    for decoder in decoders:
        assert decoder.freeze_encoder
        assert decoder.model == replace(last.model, decoder_blocks=(2, 3))
        assert decoder.model == DepthCodec.from_pretrained().model.config


def test_every_map_once_an_epoch(train_set: MapDataset) -> None:
    trainer = _Trainer(EPOCHS, train_set, None, Accelerator(cpu=True), None)
    assert trainer.max_steps == EPOCHS.count_steps(6) == 3
    taken = np.concatenate([trainer._take_indices(step) for step in range(3)])
    assert Counter(taken.tolist()) == dict.fromkeys(range(6), 2)
    assert Counter(taken[:6].tolist()) == dict.fromkeys(range(6), 1)
    assert taken[:6].tolist() != taken[6:].tolist()
    other = _Trainer(replace(EPOCHS, seed=1), train_set, None, Accelerator(cpu=True), None)
    assert not np.array_equal(np.concatenate([other._take_indices(step) for step in range(3)]), taken)


def test_training_by_epochs_resumes_to_the_same_weights(train_set: MapDataset, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    steps: list[int] = []

    def kill(step: int, _: float) -> None:
        steps.append(step)
        if step == 3:
            raise KilledError

    with pytest.raises(KilledError):
        train_depth_codec(EPOCHS, train_set, output=tmp_path, advance=kill, cpu=True)
    resumed = train_depth_codec(EPOCHS, train_set, output=tmp_path, cpu=True)
    alone = train_depth_codec(EPOCHS, train_set, cpu=True)
    assert steps == [1, 2, 3]
    for key, value in alone.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[key], value, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_train_epochs": 0}, "num_train_epochs must be positive"),
        ({"num_train_epochs": 2, "source_probabilities": {"a": 0.5}}, "go with max_steps"),
        ({"num_train_epochs": 2, "source_limits": {"a": 0.5}}, "go with max_steps"),
        ({"num_train_epochs": "2"}, "num_train_epochs"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingConfig.from_dict(settings)


def test_command_line(tmp_path: Path) -> None:
    printed = CliRunner().invoke(app, ["depth", "presets"], env={"COLUMNS": "300"}).stdout
    for name, purpose in list_presets("depth").items():
        assert name in printed
        assert purpose in printed
    train = ["depth", "train", "--procedural", "8", "--max-steps", "1", "--cpu", "-o", str(tmp_path / "codec")]
    done = CliRunner().invoke(app, [*train, "--config", "aurora"])
    assert done.exit_code == 0, done.output
    saved = TrainingConfig.read(tmp_path / "codec" / "training.json")
    assert saved == replace(TrainingConfig.read("aurora"), max_steps=1, num_train_epochs=None)
    done = CliRunner().invoke(app, [*train, "--config", "auroa"])
    assert str(done.exception) == "auroa: no such file, and not a preset: aurora, perceptok"
