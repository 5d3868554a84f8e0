"""Folders of other people, mutated: they load, or an error of ours names what is wrong; none hangs or fills memory."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import perceptok as pt
from perceptok.errors import PerceptokError
from tests.mutations import limit_call, mutate_bytes, mutate_json, mutate_safetensors

CASES = 6 * int(os.environ.get("PERCEPTOK_FUZZ", "1"))
ADAPTER_FILES = (
    "adapter_config.json", "perception_adapter.json", "perception_tokens.json", "processor_config.json",
    "tokenizer_config.json", "tokenizer.json", "chat_template.jinja", "adapter_model.safetensors", "codec/config.json",
    "codec/model.safetensors",
)  # fmt: skip
MODEL_FILES = ("config.json", "generation_config.json", "model.safetensors", "processor_config.json")


@pytest.fixture(scope="module")
def merged(tiny_adapter: Path) -> Path:
    return pt.llava.merge_adapter(tiny_adapter, tiny_adapter.parent / "merged_for_mutations")


@pytest.fixture(autouse=True)
def _ignore_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers about the mutated settings
        yield


def choose_mutation(path: Path) -> Callable[[bytes, np.random.Generator], bytes]:
    return {".json": mutate_json, ".safetensors": mutate_safetensors}.get(path.suffix, mutate_bytes)


def load_mutations(source: Path, copy: Path, name: str, load: Callable[[Path], object]) -> int:
    """Load a folder with each mutation of one file; returns how many were refused."""
    shutil.copytree(source, copy)
    data, rng = (source / name).read_bytes(), np.random.default_rng(sum(name.encode()))
    messages = []
    for case in range(CASES):
        mutated = choose_mutation(Path(name))(data, rng)
        (copy / name).write_bytes(mutated)
        try:
            with limit_call():
                load(copy)
        except PerceptokError as error:
            messages.append(str(error))
        except BaseException as error:
            error.add_note(f"case {case} of {name}: {mutated[:300]!r}")
            raise
    assert all(message.strip() and "\x1b" not in message for message in messages)
    return len(messages)


@pytest.mark.parametrize("name", ADAPTER_FILES)
def test_mutated_adapters(tiny_adapter: Path, tiny_llava: Path, tmp_path: Path, name: str) -> None:
    load_mutations(
        tiny_adapter, tmp_path / "adapter", name, lambda folder: pt.llava.load_adapter(folder, base=tiny_llava)
    )


@pytest.mark.parametrize("name", MODEL_FILES)
def test_mutated_models(merged: Path, tmp_path: Path, name: str) -> None:
    load_mutations(merged, tmp_path / "model", name, pt.PerceptionPipeline.from_pretrained)
