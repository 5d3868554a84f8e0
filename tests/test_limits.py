"""Excessive sizes and numbers in files are refused by name, before anything is allocated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import perceptok as pt
from perceptok.config import config_from_dict
from perceptok.depth.networks.vqvae import model_config_from_dict
from perceptok.errors import CheckpointError, ConfigError, PerceptokError, VocabularyError
from perceptok.files import parse_json, parse_number
from tests.mutations import limit_call


@pytest.mark.parametrize(
    "values",
    [
        {"architecture": "grid", "widths": [8] * 5000, "blocks": [1] * 5000, "heads": 1},
        {"architecture": "grid", "widths": [8, 8], "blocks": [1, 100_000], "heads": 1},
        {"architecture": "grid", "widths": [8, 10**9], "blocks": [1, 1], "heads": 1},
        {"architecture": "grid", "codebook_size": 10**400},
        {"architecture": "aurora", "hidden_dim": 10**9},
    ],
    ids=lambda values: str(values)[:60],
)
def test_networks_of_excessive_size_are_refused(values: dict[str, object]) -> None:
    with limit_call(seconds=60, megabytes=500), pytest.raises(ConfigError):
        model_config_from_dict(values)


def test_token_sets_of_invalid_size_are_refused() -> None:
    for size in (10**9, 0, -1, "3", True, 1.5):
        with pytest.raises(VocabularyError):
            pt.tokens.TokenSet("X", size)  # type: ignore[arg-type]


def test_a_box_codec_without_enough_tokens_writes_no_text() -> None:
    codec = pt.BoxCodec(10**9)
    codes = codec.encode([[1, 2, 3, 4]], image_size=(10, 10))
    for form in ("aurora", "compact", "numeral"):
        with pytest.raises(PerceptokError):
            codec.to_text(codes, form=form)  # type: ignore[arg-type]


def test_weights_that_overflow_are_refused(tmp_path: Path) -> None:
    codec = pt.DepthCodec.from_pretrained()
    codec.save_pretrained(tmp_path)
    state = {key: value.double() for key, value in codec.model.state_dict().items()}
    state["codebook"][0, 0] = 1e300
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="too large"):
        pt.DepthCodec.from_pretrained(tmp_path)
    assert torch.isfinite(codec.codebook).all()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 1_000_000,
        "1" * 5000,
        '"\\ud800"',
        '{"\\udfff": 1}',
        '{"a": ["x", {"b": "\\ud801"}]}',
        "nul",
        "\xff",
    ],
    ids=lambda text: repr(text)[:20],
)
def test_extreme_json_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="here"):
        parse_json(text, "here", ConfigError)
    with pytest.raises(ConfigError, match="here"):
        parse_json(text.encode("utf-8", "surrogatepass") + b"\xff", "here", ConfigError)


def test_valid_json_is_parsed() -> None:
    value = {"a": [1, 2.5, None, True, "ü\U0001f600"], "b": -(10**300)}
    assert parse_json(json.dumps(value), "here", ConfigError) == value
    assert parse_json(b"\xef\xbb\xbf" + json.dumps(value).encode(), "here", ConfigError) == value


@pytest.mark.parametrize("value", [True, "1", None, [], float("nan"), float("inf"), 10**400, -1, 11])
def test_invalid_numbers_of_json_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="number"):
        parse_number(value, minimum=0, maximum=10)
    assert parse_number(3, minimum=0, maximum=10) == 3.0


def test_invalid_numbers_of_configurations_are_refused() -> None:
    for value in (10**400, float("nan"), float("inf")):
        with pytest.raises(ConfigError):
            config_from_dict(pt.llava.ObjectiveSettings, {"distillation": value})


def test_code_of_a_tokenizer_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even for a user who answers the question of transformers with yes."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    manifest = pt.PerceptionVocabulary(
        [pt.tokens.PIXEL], {token: index for index, token in enumerate(pt.tokens.PIXEL.tokens)}, 336
    )
    manifest.base_fingerprint = "0"
    manifest.save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}})
    )
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Evil: pass\n")
    with pytest.raises(VocabularyError):
        pt.PerceptionVocabulary.from_pretrained(tmp_path)
    assert not (tmp_path / "ran").exists()
