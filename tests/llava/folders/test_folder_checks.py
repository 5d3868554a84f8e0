"""Adapters and models with a fault of each kind: refused by file and key, before anything is allocated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import perceptok as pt
from perceptok.checkpoints import check_checkpoint_folder, refuse_code
from perceptok.errors import CheckpointError, PerceptokError
from perceptok.llava.chat_templates import find_template_problem
from tests.llava.tiny import CHAT_TEMPLATE
from tests.mutations import limit_call


@pytest.fixture
def adapter(tiny_adapter: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(tiny_adapter, tmp_path / "adapter"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peft_type", "LOHA"),
        ("target_modules", r"(a+)+$"),
        ("target_modules", ["q_proj", 1]),
        ("target_modules", ["(a+)+$"]),
        ("target_modules", ["does_not_exist"]),
        ("exclude_modules", "(a+)+$"),
        ("rank_pattern", {"(a+)+$": 4}),
        ("layers_to_transform", [0]),
        ("r", 10**9),
        ("r", 3),
        ("r", "2"),
        ("lora_alpha", float("nan")),
        ("lora_dropout", 2),
        ("modules_to_save", "lm_head"),
        ("modules_to_save", ["vision_tower"]),
        ("trainable_token_indices", {"lm_head": [10**9]}),
        ("trainable_token_indices", {"lm_head": list(range(100))}),
        ("init_lora_weights", "pissa"),
        ("megatron_config", {"a": 1}),
        ("loftq_config", {"loftq_bits": 4}),
        ("bias", "all"),
        ("something_new", 1),
    ],
)
def test_settings_of_adapters(adapter: Path, tiny_llava: Path, key: str, value: Any) -> None:
    change(adapter / "adapter_config.json", **{key: value})
    with limit_call(), pytest.raises(CheckpointError, match=key if key != "r" else r"rank|: r:"):
        pt.llava.load_adapter(adapter, base=tiny_llava)


def test_layers_are_saved_by_name(tiny_adapter: Path) -> None:
    """The tests' own adapter was made with a pattern."""
    targets = json.loads((tiny_adapter / "adapter_config.json").read_text())["target_modules"]
    assert len(targets) == 4
    assert all(target.endswith(("q_proj", "v_proj")) for target in targets)


def test_weights_that_are_not_finite_or_not_complete(adapter: Path, tiny_llava: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    name = min(weights)
    save_file(weights | {name: torch.full_like(weights[name], torch.nan)}, path)
    with pytest.raises(CheckpointError, match="NaN"):
        pt.llava.load_adapter(adapter, base=tiny_llava)
    save_file({key: value for key, value in weights.items() if ".lora_B." not in key}, path)
    with pytest.raises(CheckpointError, match=r"lacks \d+ of the adapter's weights|missing adapter keys"):
        pt.llava.load_adapter(adapter, base=tiny_llava)
    save_file(weights | {"base_model.model.extra": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match="has unexpectedly 1 of the"):
        pt.llava.load_adapter(adapter, base=tiny_llava)


def set_layers(values: dict[str, Any]) -> None:
    values["text_config"]["num_hidden_layers"] = 10**9


def set_width(values: dict[str, Any]) -> None:
    values["text_config"]["intermediate_size"] = 10**7


def set_labels(values: dict[str, Any]) -> None:
    values["num_labels"] = 10**9


@pytest.mark.parametrize("change_config", [set_layers, set_width, set_labels])
def test_sizes_of_bases(tiny_llava: Path, tmp_path: Path, change_config: Callable[[dict[str, Any]], None]) -> None:
    base = Path(shutil.copytree(tiny_llava, tmp_path / "base"))
    values = json.loads((base / "config.json").read_text())
    change_config(values)
    (base / "config.json").write_text(json.dumps(values))
    with limit_call(), pytest.raises(CheckpointError, match=r"config\.json"):
        pt.load_llava(base)


def test_a_base_that_is_not_complete(tiny_llava: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_llava, tmp_path / "base"))
    weights = base / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensors[name] for name in list(tensors)[1:]}, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="lacks 1 of the model's weights"):
        pt.load_llava(base)
    weights.write_bytes(weights.read_bytes()[:-1000])  # as an interrupted download leaves it
    with pytest.raises(CheckpointError, match="cannot be read"):
        pt.load_llava(base)


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{{ '' }}{% endfor %}{% endfor %}",
        "{{ 'a' * 10**10 }}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
        "{% for i in range(9999) %}{{ messages }}{% endfor %}",
        "{% if messages",
        "{{ messages[0].nothing.at.all }}",
        "{{ raise_exception('no') }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_chat_templates_without_end(template: str) -> None:
    assert find_template_problem(template, {}) is not None


def test_a_chat_template_is_checked_where_it_is_loaded(adapter: Path, tiny_llava: Path) -> None:
    assert find_template_problem(CHAT_TEMPLATE, {"bos_token": "<s>"}) is None
    (adapter / "chat_template.jinja").write_text("{{ 'a' * 10**10 }}")
    with limit_call(), pytest.raises(CheckpointError, match="the chat template cannot be used"):
        pt.llava.load_adapter(adapter, base=tiny_llava)


@pytest.mark.parametrize(("key", "value"), [("num_additional_image_tokens", 10**9), ("patch_size", "x")])
def test_settings_of_processors(adapter: Path, tiny_llava: Path, key: str, value: Any) -> None:
    change(adapter / "processor_config.json", **{key: value})
    with limit_call(), pytest.raises(PerceptokError):
        pt.llava.load_adapter(adapter, base=tiny_llava)


def test_sizes_of_processors(adapter: Path, tiny_llava: Path) -> None:
    path = adapter / "processor_config.json"
    inner = json.loads(path.read_text())["image_processor"]
    change(path, image_processor=inner | {"size": {"height": 10**6, "width": 10**6}})
    with limit_call(), pytest.raises(CheckpointError, match="size"):
        pt.llava.load_adapter(adapter, base=tiny_llava)


def test_ids_of_perception_tokens_are_not_counts(tiny_llava: Path, codec: pt.DepthCodec, tmp_path: Path) -> None:
    """A vocabulary of realistic size: DEPTH begins at an id above any number of layers."""
    model, processor, _ = pt.load_llava(tiny_llava, codec=codec)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["perception_rows"]["DEPTH"] = [[32000, 130]]
    path.write_text(json.dumps(config))
    check_checkpoint_folder(tmp_path, "AutoModelForImageTextToText")
    config["vision_config"]["num_hidden_layers"] = 32000
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="num_hidden_layers is 32000"):
        check_checkpoint_folder(tmp_path, "AutoModelForImageTextToText")


@pytest.mark.parametrize(
    "change_config",
    [
        {"attn_implementation": "evil/kernel"},
        {"_attn_implementation": "evil/kernel@main:fn"},
        {"attn_implementation": {"": "sdpa", "vision_config": "evil/kernel"}},
        {"vision_config": {"experts_implementation": "evil/kernel"}},
    ],
    ids=str,
)
def test_kernels_of_the_hub_are_not_loaded(tiny_llava: Path, tmp_path: Path, change_config: dict[str, Any]) -> None:
    """transformers downloads and runs what such a setting names."""
    folder = Path(shutil.copytree(tiny_llava, tmp_path / "base"))
    config = json.loads((folder / "config.json").read_text())
    for key, value in change_config.items():
        config[key] = {**config[key], **value} if key == "vision_config" else value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="code of a repository, which is never run"):
        pt.load_llava(folder)


def test_code_is_refused_where_a_converter_would_run_it(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["evil.Evil", null]}}')
    with pytest.raises(CheckpointError, match=r"tokenizer_config.json: auto_map names code"):
        refuse_code(tmp_path)
    (tmp_path / "evil.py").touch()
    with pytest.raises(CheckpointError, match=r"evil.py: code that comes with a model is never run"):
        refuse_code(tmp_path)
