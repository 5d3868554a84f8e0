"""Adapters of LLaVA's original format, made here in its layout: the same logits under transformers' names and ids."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

import perceptok as pt
from perceptok.data import LLAVA_SYSTEM
from perceptok.errors import CheckpointError, ConfigError, VocabularyError
from perceptok.llava import FrameRule, PerceptionPipeline, import_original
from perceptok.llava.original import OriginalTokens
from perceptok.llava.saving import probe_logits
from perceptok.tokens import DEPTH, PIXEL
from perceptok.vocabulary import consecutive_vocabulary
from perceptok_cli.main import app
from tests.llava.answering import make_image

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

FIRST = 404
"""The original adds its tokens behind the base's, other ids than ours: the tiny tokenizer has 400 of its own."""


TOKEN_SETS = {"depth": (DEPTH,), "boxes": (PIXEL,), "both": (DEPTH, PIXEL)}
SIZES = {"depth": 130, "boxes": 336, "both": 466}


def original_files(folder: Path, rows: int = FIRST + 466) -> dict[str, Tensor]:
    """A folder as LLaVA's trainer leaves it, and its tensors by their names there."""
    torch.manual_seed(7)
    folder.mkdir()
    lora = {}
    for layer in range(2):
        for name in ("self_attn.q_proj", "mlp.down_proj"):
            wide = 64 if name == "mlp.down_proj" else 32
            stem = f"base_model.model.model.layers.{layer}.{name}"
            lora[f"{stem}.lora_A.weight"] = torch.randn(4, wide) * 0.2
            lora[f"{stem}.lora_B.weight"] = torch.randn(32, 4) * 0.2
    others = {
        "base_model.model.model.embed_tokens.weight": torch.randn(rows, 32) * 0.1,
        "base_model.model.lm_head.weight": torch.randn(rows, 32) * 0.1,
        "base_model.model.model.mm_projector.0.weight": torch.randn(32, 16) * 0.1,
        "base_model.model.model.mm_projector.0.bias": torch.randn(32) * 0.1,
        "base_model.model.model.mm_projector.2.weight": torch.randn(32, 32) * 0.1,
        "base_model.model.model.mm_projector.2.bias": torch.randn(32) * 0.1,
    }
    torch.save(lora, folder / "adapter_model.bin")
    torch.save(others, folder / "non_lora_trainables.bin")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    return {**lora, **others}


def by_hand(
    base: Path, codec: pt.DepthCodec, tensors: dict[str, Tensor], tokens: str
) -> tuple[Any, Any, pt.PerceptionVocabulary]:
    """The base with everything added to its own weights, tensor by tensor."""
    model, processor, vocab = pt.load_llava(
        base, TOKEN_SETS[tokens], codec=codec, frame=FrameRule(interpolation="nearest")
    )
    weights: Any = model
    inner = weights.model.language_model
    with torch.no_grad():
        for layer in range(2):
            for name in ("self_attn.q_proj", "mlp.down_proj"):
                stem = f"base_model.model.model.layers.{layer}.{name}"
                update = tensors[f"{stem}.lora_B.weight"] @ tensors[f"{stem}.lora_A.weight"]
                inner.layers[layer].get_submodule(name).weight += 2.0 * update
        old = consecutive_vocabulary(FIRST, TOKEN_SETS[tokens])
        for matrix, name in ((inner.embed_tokens.weight, "model.embed_tokens"), (weights.lm_head.weight, "lm_head")):
            source = tensors[f"base_model.model.{name}.weight"]
            matrix[:400] = source[:400]
            for token, index in vocab.tokens.items():
                matrix[index] = source[old.tokens[token]]
        for number, mine in ((0, "linear_1"), (2, "linear_2")):
            for part in ("weight", "bias"):
                target = weights.model.multi_modal_projector.get_parameter(f"{mine}.{part}")
                target.copy_(tensors[f"base_model.model.model.mm_projector.{number}.{part}"])
    return model, processor, vocab


@pytest.mark.parametrize("tokens", TOKEN_SETS)
@pytest.mark.parametrize("padding", [0, 2])
def test_the_same_logits(
    tiny_llava: Path, codec: pt.DepthCodec, tmp_path: Path, tokens: OriginalTokens, padding: int
) -> None:
    rows = FIRST + SIZES[tokens] + {"depth": 2, "boxes": 4, "both": 2}[tokens] * bool(padding)  # 536, 744, 872
    tensors = original_files(tmp_path / "original", rows)
    folder = import_original(
        tmp_path / "original", tiny_llava, tmp_path / "ours", codec=codec, tokens=tokens, first_id=FIRST
    )
    loaded = pt.llava.load_adapter(folder)
    logits = probe_logits(loaded.model, loaded.processor, loaded.vocab, loaded.frame)
    expected = probe_logits(*by_hand(tiny_llava, codec, tensors, tokens), loaded.frame)
    assert torch.allclose(logits, expected, atol=1e-4)
    assert loaded.vocab.token_sets == TOKEN_SETS[tokens]
    assert loaded.system == LLAVA_SYSTEM
    assert loaded.frame == FrameRule("squash", 336, "nearest")
    assert not list(folder.rglob("*.bin"))
    pipe = PerceptionPipeline.from_pretrained(folder)
    answer = pipe(make_image(30, 20), "What is the depth map for the image?", max_new_tokens=110)
    assert (len(answer.blocks) == 0) or tokens != "boxes"
    with pytest.raises(CheckpointError, match=r"LLaVA's original format; convert it with import_original"):
        pt.load_llava(tmp_path / "original")


@pytest.mark.parametrize("tokens", TOKEN_SETS)
@pytest.mark.parametrize("actual", TOKEN_SETS)
def test_a_wrong_number_of_rows_names_the_option(
    tiny_llava: Path, tmp_path: Path, tokens: OriginalTokens, actual: str
) -> None:
    """An adapter with other token sets, the two swapped among them, is refused."""
    if tokens == actual:
        return
    original_files(tmp_path / "original", FIRST + SIZES[actual])
    message = rf"expected {FIRST} and {SIZES[tokens]} perception tokens.*has {SIZES[actual]} .*\(--tokens {actual}\)"
    with pytest.raises(CheckpointError, match=message):
        import_original(tmp_path / "original", tiny_llava, tmp_path / "ours", tokens=tokens, first_id=FIRST)
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("name", ["added_tokens.json", "tokenizer_config.json"])
def test_an_order_that_the_tokenizer_contradicts(
    tiny_llava: Path, codec: pt.DepthCodec, tmp_path: Path, name: str
) -> None:
    def write(*names: str) -> None:
        ids = {token: FIRST + index for index, token in enumerate(names)}
        listed = {"added_tokens_decoder": {str(index): {"content": token} for token, index in ids.items()}}
        (tmp_path / "original" / name).write_text(json.dumps(ids if name == "added_tokens.json" else listed))

    def import_both(tokens: OriginalTokens = "both") -> Path:
        return import_original(
            tmp_path / "original", tiny_llava, tmp_path / "ours", codec=codec, tokens=tokens, first_id=FIRST
        )

    original_files(tmp_path / "original")
    write(*PIXEL.tokens, *DEPTH.tokens)
    with pytest.raises(CheckpointError, match=rf"<PIXEL_0> the id {FIRST}, expected {FIRST + 130}: its token sets lie"):
        import_both()
    write(*DEPTH.tokens, *PIXEL.tokens)
    with pytest.raises(CheckpointError, match=r"has <PIXEL_0>, which is not among .* pass tokens='both'"):
        import_both("depth")
    (tmp_path / "original" / name).write_text("[1, 2]")
    with pytest.raises(CheckpointError, match=f"{name} does not list added tokens"):
        import_both()
    write(*DEPTH.tokens, *PIXEL.tokens)
    assert import_both().is_dir()


def test_depth_tokens_need_their_codec(tiny_llava: Path, tmp_path: Path) -> None:
    original_files(tmp_path / "original")
    with pytest.raises(VocabularyError, match=r"without which no depth map can be decoded; pass .* \(--codec"):
        import_original(tmp_path / "original", tiny_llava, tmp_path / "ours", first_id=FIRST)


def test_unknown_tokens(tiny_llava: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tokens must be one of depth, boxes, both; got 'faces'"):
        import_original(tmp_path, tiny_llava, tmp_path / "ours", tokens="faces")  # type: ignore[arg-type]


def test_the_command(tiny_llava: Path, tmp_path: Path) -> None:
    original_files(tmp_path / "original", FIRST + 336)
    command = ["llava", "import", str(tmp_path / "original"), "--base", str(tiny_llava), "-o", str(tmp_path / "ours")]
    command += ["--first-id", str(FIRST)]
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, CheckpointError)
    assert "--tokens boxes" in str(refused.exception)
    done = CliRunner().invoke(app, [*command, "--tokens", "boxes"])
    assert done.exit_code == 0, done.output
    assert pt.llava.load_adapter(tmp_path / "ours").vocab.token_sets == (PIXEL,)


def test_names_as_other_releases_write_them(tiny_llava: Path, codec: pt.DepthCodec, tmp_path: Path) -> None:
    """LLaVA's loader takes names with and without what peft puts before them, its trainer writes `.default.` too."""
    folder = tmp_path / "original"
    tensors = original_files(folder)
    first = import_original(folder, tiny_llava, tmp_path / "first", codec=codec, first_id=FIRST)
    lora = {name.replace(".weight", ".default.weight"): tensor for name, tensor in tensors.items() if ".lora_" in name}
    others = {
        name.removeprefix("base_model.model."): tensor for name, tensor in tensors.items() if ".lora_" not in name
    }
    torch.save(lora, folder / "adapter_model.bin")
    torch.save(others, folder / "non_lora_trainables.bin")
    second = import_original(folder, tiny_llava, tmp_path / "second", codec=codec, first_id=FIRST)
    files = [load_file(folder / "adapter_model.safetensors") for folder in (first, second)]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(tensor, files[1][name]) for name, tensor in files[0].items())


def test_a_token_before_the_first_shifts_nothing_silently(tiny_llava: Path, tmp_path: Path) -> None:
    """A <pad> that was added before the perception tokens: its row is no row of theirs."""
    original_files(tmp_path / "original")
    with pytest.raises(CheckpointError, match=rf"rows for {FIRST + 466} tokens, .* first_id={FIRST} "):
        import_original(tmp_path / "original", tiny_llava, tmp_path / "ours", first_id=FIRST - 1)


class Bomb:
    """Pickle that would run a command."""

    def __reduce__(self) -> Any:
        return os.system, ("touch exploded",)


def test_nothing_unsafe_and_nothing_left_out(tiny_llava: Path, codec: pt.DepthCodec, tmp_path: Path) -> None:
    folder = tmp_path / "original"
    tensors = original_files(folder)
    others = {name: tensor for name, tensor in tensors.items() if ".lora_" not in name}
    lora = {name: tensor for name, tensor in tensors.items() if ".lora_" in name}

    def refused(message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            import_original(folder, tiny_llava, tmp_path / "ours", codec=codec, first_id=FIRST)
        assert not (tmp_path / "ours").exists()

    torch.save({"x": Bomb()}, folder / "non_lora_trainables.bin")
    refused("non_lora_trainables.bin: tensors cannot be read safely")
    assert not Path("exploded").exists()
    torch.save({**others, "base_model.model.model.norm.weight": torch.ones(32)}, folder / "non_lora_trainables.bin")
    refused(r"norm.weight of non_lora_trainables.bin has no counterpart in Llava")
    torch.save(others, folder / "non_lora_trainables.bin")
    stranger = "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"
    torch.save({**lora, stranger: torch.ones(4, 32)}, folder / "adapter_model.bin")
    refused(r"layers.9.self_attn.q_proj.lora_A.weight has no counterpart in Llava")
    torch.save({name: tensor[:, :8] for name, tensor in lora.items()}, folder / "adapter_model.bin")
    refused(r"the LoRA of .*q_proj is .*, the layer \(32, 32\); is this the same size")
    (folder / "adapter_model.bin").write_bytes(b"cut")
    refused("tensors cannot be read safely")
    (folder / "adapter_config.json").write_text("{}")
    refused("lacks r or lora_alpha")
