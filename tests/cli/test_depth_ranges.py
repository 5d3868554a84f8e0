"""Ranges of `perceptok depth`: options, values in the records, and decoding."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import perceptok as pt
from perceptok.depth import AuroraConfig, DepthVQVAE
from perceptok_cli.main import app


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["depth", *(str(word) for word in words)])


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def stuck(tmp_path: Path) -> Path:
    """A sensor's map with a pixel at 2 cm."""
    slope = np.tile(np.linspace(1, 5, 64)[:, None], (1, 64)).astype(np.float32)
    slope[3, 3] = 0.02
    np.save(tmp_path / "a.npy", slope)
    return tmp_path / "a.npy"


METRES = ("--kind", "metric", "--unit", "m")


def abs_rel(folder: Path, stuck: Path, *options: str) -> float:
    assert run("encode", stuck, *METRES, "-o", folder / "a.jsonl", "--force", *options).exit_code == 0
    words = ("decode", folder / "a.jsonl", "-o", folder / "out", "--as", "depth", "--format", "npy", "--force")
    assert run(*words).exit_code == 0
    truth, back = np.load(stuck), np.load(folder / "out" / "a.npy")
    good = truth > 0.5
    return float(np.mean(np.abs(back - truth)[good] / truth[good]))


def test_a_stuck_pixel_is_reported_and_ignored_with_a_quantile(tmp_path: Path, stuck: Path) -> None:
    done = run("encode", stuck, *METRES, "-o", tmp_path / "w.jsonl")
    assert "warning: a.npy: 1 of 4096 pixels" in done.output
    assert "1 of 1 with a warning" in done.output
    assert abs_rel(tmp_path, stuck) > 0.2
    assert abs_rel(tmp_path, stuck, "--percentiles", "0.5,99.5") < 0.1
    assert records(tmp_path / "a.jsonl")[0]["range"] == "percentiles 0.5 99.5"
    assert records(tmp_path / "a.jsonl")[0]["warning"] == ""
    assert abs_rel(tmp_path, stuck, "--near", "0.8", "--far", "6") < 0.1
    (record,) = records(tmp_path / "a.jsonl")
    assert (record["near"], record["far"], record["range"]) == (0.8, 6.0, "fixed 0.8 6.0")


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_other_files_of_records_keep_the_range(tmp_path: Path, stuck: Path, suffix: str) -> None:
    from perceptok.depth import read_depth_records

    assert run("encode", stuck, *METRES, "-o", tmp_path / f"a{suffix}", "--near", 1, "--far", 6).exit_code == 0
    (record,) = read_depth_records(tmp_path / f"a{suffix}")
    assert (record.range, record.near, record.far, record.warning) == ("fixed 1.0 6.0", 1, 6, "")


def test_no_normalize_gives_the_codes_of_the_reference(tmp_path: Path) -> None:
    torch.manual_seed(0)
    codec = pt.DepthCodec(DepthVQVAE(AuroraConfig(hidden_dim=2, codebook_dim=6)))
    codec.save_pretrained(tmp_path / "codec")
    gray = (40 + np.indices((60, 80)).sum(0)).astype(np.uint8)
    Image.fromarray(gray).save(tmp_path / "a.png")
    words = ("encode", tmp_path / "a.png", "--kind", "inverse", "--codec", tmp_path / "codec", "-o")
    assert run(*words, tmp_path / "a.jsonl", "--no-normalize").exit_code == 0
    expected = codec.encode(gray.astype(np.float32) / 255)[0].ravel().tolist()
    assert records(tmp_path / "a.jsonl")[0]["codes"] == expected


def test_no_normalize_on_the_shared_reference(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "aurora_fixture" / "small"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    expected = np.load(folder / "expected.npz")
    (tmp_path / "maps").mkdir()
    for index, gray in enumerate(expected["gray"]):
        Image.fromarray(gray).save(tmp_path / "maps" / f"{index:03}.png")
    codec = ("--codec", folder / "vae-final.pt", "--kind", "inverse", "--no-normalize")
    assert run("encode", tmp_path / "maps", *codec, "-o", tmp_path / "a.jsonl").exit_code == 0
    codes = [record["codes"] for record in records(tmp_path / "a.jsonl")]
    assert codes == expected["codes"].reshape(-1, 100).tolist()


def test_sky_is_beyond_the_far_end(tmp_path: Path) -> None:
    depth = np.full((64, 64), 8, np.float32)
    depth[32:] = np.linspace(8, 2, 32)[:, None]
    depth[:24] = np.inf
    np.save(tmp_path / "a.npy", depth)
    words = ("encode", tmp_path / "a.npy", *METRES, "-o", tmp_path / "a.jsonl", "--force")
    back = {}
    for sky in ("far", "hole"):
        assert run(*words, "--sky", sky).exit_code == 0
        out = ("decode", tmp_path / "a.jsonl", "-o", tmp_path / sky, "--as", "depth", "--format", "npy")
        assert run(*out).exit_code == 0
        back[sky] = np.median(np.load(tmp_path / sky / "a.npy")[:20])
    assert back["far"] > 11
    assert back["hole"] < 9
    assert run(*words).exit_code == 0
    assert records(tmp_path / "a.jsonl")[0]["far"] == 16


def test_relative_maps(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.tile(np.linspace(0, 1, 64)[:, None], (1, 64)))
    words = ("encode", tmp_path / "a.npy", "--kind", "relative", "-o", tmp_path / "a.jsonl")
    assert run(*words).exit_code == 0
    assert run("decode", tmp_path / "a.jsonl", "-o", tmp_path / "near", "--format", "npy").exit_code == 0
    assert (
        run("decode", tmp_path / "a.jsonl", "-o", tmp_path / "own", "--as", "depth", "--format", "npy").exit_code == 0
    )
    near, own = np.load(tmp_path / "near" / "a.npy"), np.load(tmp_path / "own" / "a.npy")
    assert near[2].mean() > 0.8 > 0.2 > near[-3].mean()
    assert np.allclose(own, 1 - near, atol=1e-6)


def test_inspect_eval_and_train_take_the_range(tmp_path: Path, stuck: Path) -> None:
    chosen = (*METRES, "--near", "0.8", "--far", "6")
    assert run("inspect", stuck, *chosen, "-o", tmp_path / "a.png").exit_code == 0
    scores = {}
    for name, options in (("own", METRES), ("fixed", chosen)):
        assert run("eval", stuck, *options, "-o", tmp_path / f"{name}.json").exit_code == 0
        scores[name] = json.loads((tmp_path / f"{name}.json").read_text())["codec"]["all"]["abs_rel"]
    assert scores["fixed"] < 0.1 < 0.2 < scores["own"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--near", "1"], "given together"),
        (["--near", "1", "--far", "4", "--no-normalize"], "give one of"),
        (["--percentiles", "99,1"], "percentiles"),
        (["--percentiles", "a lot"], "not a valid range"),
    ],
)
def test_incomplete_and_contradictory_ranges_are_refused(
    tmp_path: Path, stuck: Path, options: list[str], message: str
) -> None:
    done = run("encode", stuck, *METRES, "-o", tmp_path / "a.jsonl", *options)
    assert message in str(done.exception)


def test_eval_and_train_warn_of_few_pixels(tmp_path: Path, stuck: Path) -> None:
    done = run("eval", stuck, *METRES)
    assert done.exit_code == 0
    assert "warning: a.npy: 1 of 4096 pixels" in done.output
    (tmp_path / "tiny.json").write_text(
        json.dumps(
            {"model": {"architecture": "grid", "widths": [8, 16], "blocks": [1, 1], "heads": 2}, "batch_size": 2}
        )
    )
    words = (
        "train",
        stuck,
        *METRES,
        "--config",
        tmp_path / "tiny.json",
        "--max-steps",
        1,
        "-o",
        tmp_path / "run",
        "--cpu",
    )
    done = run(*words)
    assert done.exit_code == 0, done.output
    assert "warning: a.npy: 1 of 4096 pixels" in done.output
    assert "1 of 1 with a warning" in done.output


def test_decode_to_png_of_another_unit(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.tile(np.linspace(1, 5, 64, dtype=np.float32)[:, None], (1, 64)))
    assert run("encode", tmp_path / "a.npy", *METRES, "-o", tmp_path / "a.jsonl").exit_code == 0
    read = {}
    for name, options in (("mm", ()), ("cm", ("--unit", "cm")), ("tum", ("--scale", 0.0002))):
        words = ("decode", tmp_path / "a.jsonl", "-o", tmp_path / name, "--as", "depth", *options)
        assert run(*words).exit_code == 0
        read[name] = np.array(Image.open(tmp_path / name / "a.png"), dtype=float)
    assert np.abs(read["cm"] - read["mm"] / 10).max() <= 0.56
    assert np.abs(read["tum"] - read["mm"] * 5).max() <= 3.1
    done = run("decode", tmp_path / "a.jsonl", "-o", tmp_path / "x", "--unit", "cm")
    assert done.exit_code != 0
    assert isinstance(done.exception, pt.errors.ConfigError) or "--as depth" in done.output


def test_sun_rgb_d_s_rotated_bits(tmp_path: Path) -> None:
    millimetres = np.linspace(500, 9870, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray((millimetres << 3) | (millimetres >> 13)).save(tmp_path / "a.png")
    depth = pt.DepthMap.read(tmp_path / "a.png", kind="metric", unit="mm", packing="sunrgbd")
    assert np.allclose(depth.values, millimetres / 1000, rtol=1e-6)
    words = ("encode", tmp_path / "a.png", "--kind", "metric", "--unit", "mm", "--packing", "sunrgbd")
    assert run(*words, "-o", tmp_path / "a.jsonl").exit_code == 0
    (record,) = records(tmp_path / "a.jsonl")
    assert (record["near"], record["far"]) == (pytest.approx(0.5), pytest.approx(9.87))
    np.save(tmp_path / "f.npy", np.ones((4, 4), np.float32))
    with pytest.raises(pt.errors.DepthMapError, match="16-bit"):
        pt.DepthMap.read(tmp_path / "f.npy", kind="metric", unit="m", packing="sunrgbd")
