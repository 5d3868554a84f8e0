"""The folder of a run: damaged files are named, a log continues where its checkpoint was written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from transformers import TrainerState

from perceptok.errors import OutputError, TrainingError
from perceptok.llava.training.run_folder import (
    Fingerprints,
    RunLog,
    check_checkpoint,
    check_images,
    check_setup,
    fingerprint_base,
    fingerprint_images,
    fingerprint_records,
    hold_run_folder,
    read_run_config,
    write_fingerprints,
)
from perceptok.llava.training.trainer import _name_damage, read_state, write_state
from perceptok.locks import find_hidden_path


def make_checkpoint(folder: Path) -> Path:
    checkpoint = folder / "checkpoint-3"
    checkpoint.mkdir()
    TrainerState(global_step=3).save_to_json(str(checkpoint / "trainer_state.json"))
    write_fingerprints(checkpoint, Fingerprints({"r.jsonl": "abc"}, "0000000100000002"))
    write_state(checkpoint, {"optimizer": {"state": {"a": torch.ones(2)}}, "random": [], "logged_step": 3})
    return checkpoint


def test_a_whole_checkpoint(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path)
    check_checkpoint(checkpoint, {"r.jsonl": "abc"})
    with pytest.raises(
        TrainingError, match=r"^r.jsonl: the records changed since .*checkpoint-3 .*allow_changed_records"
    ):
        check_checkpoint(checkpoint, {"r.jsonl": "abd"})
    check_checkpoint(checkpoint, {"r.jsonl": "abd"}, allow_changed_records=True)


@pytest.mark.parametrize("name", ["trainer_state.json", "inputs.json"])
@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "3", "null", '{"global_step": 4}', '{"records": 3}', "\xff", '"\\ud800"'),
        *('{"records": {"r.jsonl": "abc"}}', '{"records": {}, "images": 3}'),
    ],
)
def test_a_damaged_checkpoint_is_named(tmp_path: Path, name: str, text: str) -> None:
    checkpoint = make_checkpoint(tmp_path)
    (checkpoint / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(TrainingError, match=rf"{name}: damaged, the run cannot be resumed from it .*remove the folder"):
        check_checkpoint(checkpoint, {"r.jsonl": "abc"})
    (checkpoint / name).unlink()
    with pytest.raises(TrainingError, match=rf"{name}: damaged"):
        check_checkpoint(checkpoint, {"r.jsonl": "abc"})


@pytest.mark.parametrize("text", ["", "{", '{"optimizer": {"__tensor__": "9"}}', "[1]", "\xff"])
def test_a_damaged_state_is_named(tmp_path: Path, text: str) -> None:
    checkpoint = make_checkpoint(tmp_path)
    (checkpoint / "state.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(TrainingError, match=r"state.json"), _name_damage(str(checkpoint)):
        read_state(checkpoint)["optimizer"]
    (checkpoint / "state.safetensors").write_bytes(b"torn")
    with pytest.raises(TrainingError, match="damaged, the run cannot be resumed"):
        read_state(checkpoint)


def test_a_log_continues_after_its_checkpoint(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for step in range(1, 6):
        log.write(step, {"loss": 1.0})
    with log.path.open("a") as file:
        file.write('{"step": 6, "lo')  # cut off by a kill
    log.forget_after(3)
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [1, 2, 3]
    log.forget_after(0)  # killed before the first checkpoint
    assert log.path.read_text() == ""


@pytest.mark.parametrize("line", ["{}", "x", '{"step": "1"}', '{"step": 1}}', "[]", "\xff"])
def test_a_damaged_log_is_named(tmp_path: Path, line: str) -> None:
    log = RunLog(tmp_path)
    log.write(1, {})
    log.path.write_bytes(log.path.read_bytes() + line.encode("latin-1") + b"\n")
    with pytest.raises(TrainingError, match=r"log.jsonl, line 2: damaged .*correct or remove the line"):
        log.forget_after(1)


def test_one_process_at_a_time_and_no_leftovers(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with hold_run_folder(folder, is_main=True):
        with hold_run_folder(folder, is_main=False):
            pass  # the other processes of the same run
        with pytest.raises(OutputError, match="another process is writing"), hold_run_folder(folder, is_main=True):
            pass
    assert not folder.exists()  # nothing was written
    for name in ("checkpoint-14", "adapter"):  # what kills while they were written left, beside their locks
        find_hidden_path(folder / name, "tmp").mkdir(parents=True)
        find_hidden_path(folder / name, "lock").touch()
    (folder / ".mine.tmp").mkdir()
    with hold_run_folder(folder, is_main=True):
        assert {path.name for path in folder.iterdir()} == {".mine.tmp", ".perceptok.lock"}


def test_records_have_fingerprints(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text("a")
    before = fingerprint_records([str(path), str(tmp_path)])
    assert before[str(path)] == before[str(tmp_path)]
    path.write_text("b")
    assert fingerprint_records([str(path)])[str(path)] != before[str(path)]
    with pytest.raises(TrainingError, match=r"none.jsonl: the records cannot be read"):
        fingerprint_records([str(tmp_path / "none.jsonl")])


def test_images_have_fingerprints(tmp_path: Path) -> None:
    """An image that was replaced is named, whatever its time of modification; a copy is the same image."""
    paths = [tmp_path / name for name in ("a.jpg", "b.jpg", "large.bmp", "none.jpg")]
    for path, text in zip(paths, (b"", b"bb", bytes(3_000_000)), strict=False):
        path.write_bytes(text)
    checkpoint = make_checkpoint(tmp_path)
    before = fingerprint_images(paths)
    assert len(before) == 8 * len(paths)
    write_fingerprints(checkpoint, Fingerprints({"r.jsonl": "abc"}, before))
    for path in paths[:3]:
        os.utime(path, (1, 1))
    check_images(checkpoint, fingerprint_images(paths), paths)
    for path, text in (
        (paths[0], b"a"),
        (paths[1], b"bc"),
        (paths[2], bytes(999_999) + b"1" + bytes(2_000_000)),
        (paths[3], b""),
    ):
        whole = path.read_bytes() if path.exists() else None
        path.write_bytes(text)
        now = fingerprint_images(paths)
        with pytest.raises(TrainingError, match=rf"1 of 4 images changed since .*-3 was .*{path.name}; restore them"):
            check_images(checkpoint, now, paths)
        check_images(checkpoint, now, paths, allow_changed_records=True)
        if whole is not None:
            path.write_bytes(whole)


def test_a_damaged_configuration_is_named(tmp_path: Path) -> None:
    assert read_run_config(tmp_path) is None
    for text in ("[]", "{"):
        (tmp_path / "train.json").write_text(text)
        with pytest.raises(TrainingError, match=r"train.json"):
            read_run_config(tmp_path)


def test_another_base_or_size_of_a_step_is_refused(tmp_path: Path) -> None:
    checkpoint, base = make_checkpoint(tmp_path), tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(bytes(50_000))
    before = fingerprint_base(base)
    check_setup(checkpoint, before, 8)  # a checkpoint that states neither
    write_fingerprints(checkpoint, Fingerprints({"r.jsonl": "abc"}, "", before, 8))
    check_setup(checkpoint, before, 8)
    with pytest.raises(TrainingError, match=r"a step had 8 samples when .*-3 was written, now 16: start as many"):
        check_setup(checkpoint, before, 16)
    (base / "model.safetensors").write_bytes(bytes(30_000) + b"1" + bytes(19_999))
    with pytest.raises(TrainingError, match=r"the base model changed since .*-3 was written"):
        check_setup(checkpoint, fingerprint_base(base), 8)
