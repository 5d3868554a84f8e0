"""A run that is resumed: on the same maps, by one process, with every line of its log."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from perceptok.depth import MapBank, train_depth_codec
from perceptok.errors import OutputError, TrainingError
from perceptok.scenes import ProceduralDepthMaps
from tests.depth.training.test_training import SMALL

MAPS = ProceduralDepthMaps(seed=3, length=10)


@pytest.fixture(scope="module")
def bank() -> MapBank:
    return MapBank.build({"procedural": MAPS})


def stopped(bank: MapBank, folder: Path, at: int) -> None:
    def stop(step: int, loss: float) -> None:
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_depth_codec(SMALL, bank, output=folder, advance=stop, cpu=True)


def steps_of(folder: Path) -> list[int]:
    with (folder / "log.csv").open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_other_maps_are_refused(bank: MapBank, tmp_path: Path) -> None:
    stopped(bank, tmp_path, SMALL.epoch_steps + 1)
    more = MapBank.build({"procedural": MAPS, "more": ProceduralDepthMaps(seed=4, length=2)})
    with pytest.raises(TrainingError, match="other maps: 10 maps, now 12 maps"):
        train_depth_codec(SMALL, more, output=tmp_path, cpu=True)
    renamed = replace(bank, sources=("another",) * len(bank))
    with pytest.raises(TrainingError, match="other maps"):
        train_depth_codec(SMALL, renamed, output=tmp_path, cpu=True)
    train_depth_codec(SMALL, bank, output=tmp_path, cpu=True)


def test_every_line_of_the_log_survives_every_resume(bank: MapBank, tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "resumed"
    train_depth_codec(SMALL, bank, output=whole, cpu=True)
    for at in range(2, SMALL.steps, 2):
        try:
            stopped(bank, folder, at)
        except pytest.fail.Exception:  # that step is behind the state already
            break
    if not (folder / "model.safetensors").exists():
        train_depth_codec(SMALL, bank, output=folder, cpu=True)
    assert steps_of(folder) == steps_of(whole)
    assert len(set(steps_of(folder))) == len(steps_of(folder))


def test_half_a_line_of_the_log_is_written_anew(bank: MapBank, tmp_path: Path) -> None:
    stopped(bank, tmp_path, SMALL.epoch_steps + 1)
    with (tmp_path / "log.csv").open("a") as file:
        file.write("9")
    train_depth_codec(SMALL, bank, output=tmp_path, cpu=True)
    assert steps_of(tmp_path)[0] == SMALL.epoch_steps
    assert len(set(steps_of(tmp_path))) == len(steps_of(tmp_path))


def test_two_trainings_into_one_folder(bank: MapBank, tmp_path: Path) -> None:
    refused: list[str] = []

    def again(step: int, loss: float) -> None:
        if not refused:
            with pytest.raises(OutputError, match="another process is writing") as caught:
                train_depth_codec(SMALL, bank, output=tmp_path, cpu=True)
            refused.append(str(caught.value))

    train_depth_codec(SMALL, bank, output=tmp_path, advance=again, cpu=True)
    assert refused
    assert len(set(steps_of(tmp_path))) == len(steps_of(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000, '{"steps": 1' + "0" * 5000 + "}"])
def test_a_damaged_configuration_is_named(text: str, bank: MapBank, tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text(text)
    with pytest.raises(TrainingError, match=r"training\.json"):
        train_depth_codec(SMALL, bank, output=tmp_path, cpu=True)
    assert json.dumps(text)
