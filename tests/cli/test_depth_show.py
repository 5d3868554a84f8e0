"""`perceptok depth show`: from an answer to an image."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import perceptok as pt
from perceptok.depth import AuroraConfig, DepthVQVAE
from perceptok.errors import MalformedBlockError
from perceptok_cli.main import app

CODES = np.random.default_rng(0).integers(0, 128, (10, 10))


def run(*words: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["depth", "show", *(str(word) for word in words)], input=stdin)


def read_image(path: Path) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())))


@pytest.fixture(scope="module")
def whole() -> str:
    return pt.DepthCodec.from_pretrained().to_text(CODES)


def test_argument_standard_input_file_and_numbers_show_the_same(tmp_path: Path, whole: str) -> None:
    answer = f"The depth map of the image is {whole}. The trajectory of the end effector is [[1, 2]]."
    (tmp_path / "answer.txt").write_text(answer)
    numbers = " ".join(map(str, CODES.ravel()))
    for index, (given, stdin) in enumerate(
        [(whole, None), ("-", answer), (tmp_path / "answer.txt", None), (numbers, None)]
    ):
        done = run(given, "-o", tmp_path / f"{index}.png", stdin=stdin)
        assert done.exit_code == 0, done.output
        assert "1 block drawn" in done.output
        assert np.array_equal(read_image(tmp_path / f"{index}.png"), read_image(tmp_path / "0.png"))
    decoded = pt.DepthCodec.from_pretrained().decode(CODES)[0]
    shown = read_image(tmp_path / "0.png")[12:332, 12:332]
    near, far = (np.unravel_index(which, decoded.shape) for which in (decoded.argmax(), decoded.argmin()))
    assert shown[near][0] > shown[near][2]  # red is near
    assert shown[far][2] > shown[far][0]


def test_a_short_block_is_shown_in_place_with_a_warning(tmp_path: Path, whole: str) -> None:
    short = "<DEPTH_START>" + "".join(f"<DEPTH_{code}>" for code in CODES.ravel()[:98]) + "<DEPTH_END>"
    assert run(whole, "-o", tmp_path / "whole.png").exit_code == 0
    done = run(short, "-o", tmp_path / "short.png")
    assert done.exit_code == 0, done.output
    assert "98 codes instead of 100: the last 2 are missing" in done.output
    whole, short = read_image(tmp_path / "whole.png"), read_image(tmp_path / "short.png")
    grids = [sheet[12:332, 344:664] for sheet in (whole, short)]
    changed = (grids[0] != grids[1]).any(-1).reshape(10, 32, 10, 32).any((1, 3))
    assert np.argwhere(changed).tolist() == [[9, 8], [9, 9]]


def test_molmoact_weights_by_prefix(tmp_path: Path, whole: str) -> None:
    torch.manual_seed(0)
    state = DepthVQVAE(AuroraConfig(hidden_dim=2, codebook_dim=6)).state_dict()
    state["_vq_vae._embedding"] = state.pop("codebook")
    torch.save(state, tmp_path / "vae-final.pt")
    for words in ([], ["--stretch"], ["--no-stretch"]):
        done = run(
            whole, "-o", tmp_path / "a.png", "--codec", f"molmoact:{tmp_path / 'vae-final.pt'}", "--force", *words
        )
        assert done.exit_code == 0, done.output


def test_invalid_answers_write_no_read_image(tmp_path: Path) -> None:
    done = run("no block in here", "-o", tmp_path / "a.png")
    assert isinstance(done.exception, MalformedBlockError)
    assert not (tmp_path / "a.png").exists()
