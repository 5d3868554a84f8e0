"""Saving: the same model again, or nothing replaced."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import perceptok as pt
from perceptok.errors import CheckpointError, OutputError, VocabularyError
from perceptok.llava import load_adapter, load_llava, save_adapter
from perceptok.llava.adapter_record import ADAPTER_FILE
from perceptok.llava.saving import probe_logits
from tests.llava.tiny import Trained, save_tiny_llava, tiny_trained

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")


@pytest.fixture
def trained(tiny_llava: Path, codec: pt.DepthCodec) -> Callable[..., Trained]:
    """An adapter of which every weight has moved."""
    return lambda mode="new_rows", folder=tiny_llava: tiny_trained(folder, codec, mode)


@pytest.mark.parametrize("mode", ["new_rows", "full"])
@pytest.mark.parametrize("tied", [False, True])
def test_there_and_back(
    trained: Callable[..., Trained], codec: pt.DepthCodec, tmp_path: Path, mode: str, tied: bool
) -> None:
    base = save_tiny_llava(tmp_path / "base", tied=tied)
    model, processor, vocab = trained(mode, base)
    expected = probe_logits(model, processor, vocab, pt.llava.FrameRule())
    folder = save_adapter(tmp_path / "out", model, processor, vocab, codec, config={"steps": 3})
    assert not [path for path in folder.rglob("*") if path.suffix in {".bin", ".pt", ".pkl", ".pth"}]
    loaded = load_adapter(folder)
    assert torch.equal(probe_logits(loaded.model, loaded.processor, loaded.vocab, loaded.frame), expected)
    assert loaded.codec is not None
    assert loaded.codec.fingerprint == loaded.vocab.codec_fingerprint == codec.fingerprint
    assert loaded.config == {"steps": 3}
    assert loaded.frame == pt.llava.FrameRule()
    # Moved together, base and adapter find each other.
    (tmp_path / "moved").mkdir()
    for name in ("base", "out"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    load_adapter(tmp_path / "moved" / "out")


def test_a_base_that_was_trained_since_it_was_extended(
    tiny_llava: Path, trained: Callable[..., Trained], codec: pt.DepthCodec, tmp_path: Path
) -> None:
    """By any other program, which saved it with what its config recorded before."""
    model, processor, vocab = load_llava(tiny_llava, codec=codec)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05)
    for part in (model, processor, vocab):
        part.save_pretrained(tmp_path / "base")
    save_adapter(tmp_path / "out", *trained(folder=tmp_path / "base"), codec)
    with pytest.raises(CheckpointError, match="is not the base that the adapter was trained on"):
        load_adapter(tmp_path / "out", base=tiny_llava)


def test_what_does_not_fit(trained: Callable[..., Trained], codec: pt.DepthCodec, tmp_path: Path) -> None:
    model, processor, vocab = trained()
    folder = save_adapter(tmp_path / "out", model, processor, vocab, codec, verify="file")
    with pytest.raises(OutputError, match="exists already"):
        save_adapter(folder, model, processor, vocab, codec)
    other = pt.DepthCodec.from_pretrained()
    other.model.codebook.add_(1)
    with pytest.raises(VocabularyError, match="codes of two codecs are not interchangeable"):
        load_adapter(folder, codec=other)
    with pytest.raises(VocabularyError, match="codes of two codecs are not interchangeable"):
        save_adapter(tmp_path / "b", model, processor, vocab, other)
    stranger = save_tiny_llava(tmp_path / "stranger", layers=1)
    with pytest.raises(CheckpointError, match=r"is not the base that the adapter was trained on: its layers differ"):
        load_adapter(folder, base=stranger)
    weights = load_file(stranger / "model.safetensors")
    shutil.rmtree(stranger)
    save_tiny_llava(stranger)
    weights = {name: tensor + 0.1 for name, tensor in load_file(stranger / "model.safetensors").items()}
    save_file(weights, stranger / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"\d+ of \d+ sampled weights differ; pass the right one"):
        load_adapter(folder, base=stranger)
    with pytest.raises(CheckpointError, match="is an adapter, not a base; load it with load_adapter"):
        load_llava(folder)
    with pytest.raises(CheckpointError, match="is not an adapter of perceptok"):
        load_adapter(tmp_path)
    (folder / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="the adapter's weights cannot be read"):
        load_adapter(folder)


def test_pure_lora_needs_its_extended_base(tiny_llava: Path, trained: Callable[..., Trained], tmp_path: Path) -> None:
    model, processor, vocab = trained()
    folder = save_adapter(tmp_path / "out", model, processor, vocab, verify="file")
    lora = {
        name: tensor for name, tensor in load_file(folder / "adapter_model.safetensors").items() if "token" not in name
    }
    save_file(lora, folder / "adapter_model.safetensors")
    with pytest.raises(VocabularyError, match=r"has no rows of perception tokens, and its base .* was never extended"):
        load_adapter(folder)


def test_a_lost_weight_is_found_before_anything_is_replaced(
    trained: Callable[..., Trained], codec: pt.DepthCodec, tmp_path: Path
) -> None:
    model, processor, vocab = trained()
    folder = save_adapter(tmp_path / "out", model, processor, vocab, codec, verify="file")
    before = (folder / "adapter_model.safetensors").read_bytes()
    # Trained behind peft's back: no file of the adapter holds it, only the logits tell.
    with torch.no_grad():
        model.get_base_model().model.language_model.norm.weight.mul_(2)
    with pytest.raises(CheckpointError, match="the saved model differs from the trained one"):
        save_adapter(folder, model, processor, vocab, codec, force=True)
    assert (folder / "adapter_model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_leaves_the_last_checkpoint(
    trained: Callable[..., Trained], codec: pt.DepthCodec, tmp_path: Path
) -> None:
    """The limit on the size of files stands for the disk: the same error of the same system call."""
    import resource

    model, processor, vocab = trained()
    folder = save_adapter(tmp_path / "out", model, processor, vocab, codec, config={"n": 1}, verify="file")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*out: .*what was there before is unchanged"):
            save_adapter(folder, model, processor, vocab, codec, config={"n": 2}, verify="file", force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert load_adapter(folder).config == {"n": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


KILLED = """
import sys
from pathlib import Path
from perceptok.files import atomic_folder
number = 0
while True:
    number += 1
    with atomic_folder(sys.argv[1], force=True) as place:
        for name in "abcdefgh":
            (place / name).write_text(str(number))
"""


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Whenever it is killed, the folder or the one before it is complete."""
    from perceptok.files import find_complete_folder

    target = tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for attempt in range(8):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(target)], env=environment)
        deadline = time.monotonic() + 30
        while not find_complete_folder(target).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05 + 0.0037 * attempt)
        process.kill()
        process.wait()
        found = {path.name: path.read_text() for path in find_complete_folder(target).iterdir()}
        assert sorted(found) == list("abcdefgh")
        assert len(set(found.values())) == 1


def test_the_record_is_checked(trained: Callable[..., Trained], tmp_path: Path) -> None:
    model, processor, vocab = trained()
    folder = save_adapter(tmp_path / "out", model, processor, vocab, verify="file")
    record = json.loads((folder / ADAPTER_FILE).read_text())
    for damage, message in [
        ({**record, "format": 2}, "has the format 2, this release reads 1"),
        ({**record, "base": "x"}, "lacks its base"),
        ([], "has the format"),
    ]:
        (folder / ADAPTER_FILE).write_text(json.dumps(damage))
        with pytest.raises(CheckpointError, match=message):
            load_adapter(folder)
    (folder / ADAPTER_FILE).write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load_adapter(folder)


def test_the_base_is_found_from_anywhere(
    trained: Callable[..., Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_tiny_llava(tmp_path / "project" / "models" / "base")
    model, processor, vocab = trained("new_rows", base)
    monkeypatch.chdir(tmp_path / "project")
    folder = save_adapter("runs/one/adapter", model, processor, vocab, base="models/base", verify="file")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)  # for stock peft, from anywhere
    monkeypatch.chdir("/")
    load_adapter(tmp_path / "project" / "runs" / "one")
    (tmp_path / "project").rename(tmp_path / "moved")
    load_adapter(tmp_path / "moved" / "runs" / "one" / "adapter")
    (tmp_path / "moved" / "models").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"its base .*base is not there, nor beside the adapter; .*\(--base\)"):
        load_adapter(tmp_path / "moved" / "runs" / "one")
    load_adapter(tmp_path / "moved" / "runs" / "one", base=tmp_path / "elsewhere" / "base")
