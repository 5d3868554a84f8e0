"""Adapters and models on the Hub, by a Hub on this machine: pushed, loaded by id, refused at once."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import huggingface_hub.constants
import pytest
import torch
from huggingface_hub import ModelCard

import perceptok as pt
from perceptok.errors import CheckpointError, OutputError
from perceptok.llava import load_adapter, load_llava, merge_adapter, push_to_hub
from perceptok.llava.saving import probe_logits
from tests.llava.fake_hub import FakeHub, serve_fake_hub

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")


def use_address(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """What HF_ENDPOINT, HF_TOKEN and HF_HUB_CACHE do, in a process that has read them already."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_TOKEN", "hf_test")


@contextmanager
def count_connections() -> Iterator[tuple[int, list[object]]]:
    """A server that closes every connection at once: its port, and the addresses of those who came."""
    addresses: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, address = server.accept()
                except OSError:
                    return
                connection.close()
                addresses.append(address)

        Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1], addresses
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serve_fake_hub() as hub:
        use_address(monkeypatch, hub.url, tmp_path / "cache")
        yield hub


def test_adapter_and_base_there_and_back(hub: FakeHub, tiny_adapter: Path, tiny_llava: Path) -> None:
    address = push_to_hub(tiny_adapter, "me/my-adapter", private=True)
    assert address.startswith(hub.url)
    assert hub.private == {"me/my-adapter"}
    files = {path.relative_to(tiny_adapter).as_posix() for path in tiny_adapter.rglob("*") if path.is_file()}
    assert set(hub.repositories["me/my-adapter"]) == files
    loaded = load_adapter("me/my-adapter", base=tiny_llava)
    expected = load_adapter(tiny_adapter)
    logits = [probe_logits(x.model, x.processor, x.vocab, x.frame) for x in (loaded, expected)]
    assert torch.equal(*logits)
    # The base by its id too; the id is what the model is called, not a folder of the cache.
    hub.repositories["me/base"] = {p.name: p.read_bytes() for p in tiny_llava.iterdir() if p.is_file()}
    pipe = pt.PerceptionPipeline.from_pretrained("me/my-adapter", base="me/base")
    assert pipe.model.get_base_model().name_or_path == "me/base"
    assert pipe.codec.fingerprint == expected.vocab.codec_fingerprint


def test_merged_models_and_codecs(hub: FakeHub, tiny_adapter: Path, codec: pt.DepthCodec, tmp_path: Path) -> None:
    merged = merge_adapter(tiny_adapter, tmp_path / "merged")
    push_to_hub(merged, "me/merged")
    pipe = pt.PerceptionPipeline.from_pretrained("me/merged")
    assert pipe.codec.fingerprint == codec.fingerprint
    codec.push_to_hub("me/codec")
    assert pt.DepthCodec.from_pretrained("me/codec").fingerprint == codec.fingerprint


def test_the_cache_is_used_where_the_hub_cannot_be_reached(
    hub: FakeHub, tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["me/base"] = {p.name: p.read_bytes() for p in tiny_llava.iterdir() if p.is_file()}
    load_llava("me/base")
    use_address(monkeypatch, f"http://127.0.0.1:{free_port()}", tmp_path / "cache")
    model, _, _ = load_llava("me/base")
    assert model.name_or_path == "me/base"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_what_is_not_there_is_refused_at_once(
    hub: FakeHub, tiny_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["me/base"] = {"config.json": b"{}"}
    for load in (load_llava, load_adapter, pt.PerceptionPipeline.from_pretrained, pt.DepthCodec.from_pretrained):
        with pytest.raises(CheckpointError, match=r"me/none cannot be downloaded .*: there is no such repository, or"):
            load("me/none")  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=r"adapter: the base: me/none cannot .*name another place by base= \(--b"):
        load_adapter(tiny_adapter, base="me/none")
    with pytest.raises(CheckpointError, match="it has no such revision"):
        load_llava("me/base", revision="v7")
    with pytest.raises(CheckpointError):  # what is downloaded is checked as any folder is
        load_llava("me/base")
    with count_connections() as (port, connections):
        use_address(monkeypatch, f"http://127.0.0.1:{port}", tmp_path / "empty")
        with pytest.raises(CheckpointError, match="me/none cannot be downloaded from the Hugging Face Hub"):
            load_llava("me/none")
    assert len(connections) <= 2  # transformers by itself tries each of its files six times
    use_address(monkeypatch, f"http://127.0.0.1:{free_port()}", tmp_path / "empty")
    for load in (load_llava, load_adapter, pt.PerceptionPipeline.from_pretrained, pt.DepthCodec.from_pretrained):
        with pytest.raises(CheckpointError, match="the Hub cannot be reached, and the cache does not have it"):
            load("me/none")  # type: ignore[operator]


def test_what_cannot_be_pushed(
    hub: FakeHub, tiny_adapter: Path, tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match="is neither an adapter nor a merged model of perceptok"):
        push_to_hub(tiny_llava, "me/base")
    broken = shutil.copytree(tiny_adapter, tmp_path / "broken")
    (broken / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="the adapter's weights cannot be read"):
        push_to_hub(broken, "me/broken")
    with pytest.raises(OutputError, match=r"cannot be pushed to me/a b .*check the name"):
        push_to_hub(tiny_adapter, "me/a b")
    assert hub.repositories == {}
    hub.refused = True
    with pytest.raises(OutputError, match=r"cannot be pushed to me/adapter \(.*check the name, the network, and the"):
        push_to_hub(tiny_adapter, "me/adapter")
    use_address(monkeypatch, f"http://127.0.0.1:{free_port()}", tmp_path / "empty")
    with pytest.raises(OutputError, match="cannot be pushed to me/adapter"):
        push_to_hub(tiny_adapter, "me/adapter")


def test_the_card_is_valid_and_says_how_it_is_used(tiny_adapter: Path, codec: pt.DepthCodec, tmp_path: Path) -> None:
    card = ModelCard.load(tiny_adapter / "README.md")
    assert card.data.library_name == "perceptok"
    assert {"perception-tokens", "lora", "depth"} <= set(card.data.tags)
    assert card.data.get("base_model") is None  # a folder of the author is not an id
    assert 'from_pretrained("adapter", base="FOLDER_OF_THE_BASE")' in card.text
    assert codec.fingerprint in card.text
    assert "squash, 336x336" in card.text
    assert str(tiny_adapter.parent) not in card.content
    merged = ModelCard.load(merge_adapter(tiny_adapter, tmp_path / "merged") / "README.md")
    assert merged.data.library_name == "transformers"
    assert 'pt.PerceptionPipeline.from_pretrained("merged")' in merged.text


def test_the_card_names_a_base_of_the_hub(hub: FakeHub, tiny_llava: Path, codec: pt.DepthCodec, tmp_path: Path) -> None:
    from tests.llava.tiny import tiny_trained

    hub.repositories["me/base"] = {p.name: p.read_bytes() for p in tiny_llava.iterdir() if p.is_file()}
    model, processor, vocab = tiny_trained("me/base", codec)
    folder = pt.llava.save_adapter(tmp_path / "out", model, processor, vocab, codec, config={"seed": 3})
    card = ModelCard.load(folder / "README.md")
    assert (card.data.base_model, card.data.base_model_relation) == ("me/base", "adapter")
    assert 'from_pretrained("out")' in card.text
    assert "| training: seed | 3 |" in card.text


def test_the_command_pushes_and_infers_by_id(tiny_adapter: Path, tiny_llava: Path, tmp_path: Path) -> None:
    with serve_fake_hub() as hub:
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN": "hf_test",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "perceptok_cli.main", "llava", *arguments]
            return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

        done = run("push", str(tiny_adapter), "me/adapter", "--message", "First")
        assert done.returncode == 0, done.stderr
        assert hub.url in done.stderr
        images = str(Path(__file__).parents[2] / "examples" / "depth-panel.png")
        done = run("infer", "me/adapter", images, "-q", "What?", "--base", str(tiny_llava), "--max-new-tokens", "3")
        assert (done.returncode, done.stderr) == (0, "")  # libraries say nothing about themselves
        assert done.stdout.strip()
        done = run("merge", "me/adapter", "-o", "merged", "--base", str(tiny_llava))
        assert (done.returncode, done.stderr) == (0, "merged model in merged\n")
        done = run("infer", "me/none", images, "-q", "What?")
        assert done.returncode == 2
        assert (
            "error: me/none cannot be downloaded from the Hugging Face Hub: there is no such repository" in done.stderr
        )
        assert "Traceback" not in done.stderr
