"""`perceptok depth`: results, exit codes, streams, bad files."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import perceptok as pt
from perceptok.depth import DepthCodec, DepthVQVAE, GridConfig
from perceptok.errors import PerceptokError
from perceptok_cli.main import app, run_command

TINY = {
    "model": {"architecture": "grid", "widths": [16, 32], "blocks": [1, 1], "heads": 2},
    "max_steps": 4,
    "eval_steps": 2,
    "batch_size": 2,
    "min_perplexity": 0,
}


def run(*words: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["depth", *(str(word) for word in words)], input=stdin)


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    folder = tmp_path / "maps"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        slope = np.linspace(0.8, 4 + index, 48)[:, None] + 0.1 * rng.random((48, 64))
        pt.DepthMap.from_array(slope, kind="metric", unit="m").write(folder / f"{index}.png")
    return folder


def test_encode_and_decode_round_trip(maps: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.jsonl"
    done = run("encode", maps, "--kind", "metric", "--unit", "mm", "-o", tokens, "--text")
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in tokens.read_text().splitlines()]
    assert [line["name"] for line in lines] == ["0.png", "1.png", "2.png"]
    assert lines[0]["text"].startswith("<DEPTH_START>")
    done = run("decode", tokens, "-o", tmp_path / "decoded", "--as", "depth")
    assert done.exit_code == 0, done.output
    back = pt.DepthMap.read(tmp_path / "decoded" / "2.png", kind="metric", unit="mm")
    truth = pt.DepthMap.read(maps / "2.png", kind="metric", unit="mm")
    # A slope through 100 tokens of the shipped weights: measured 0.03.
    assert np.mean(np.abs(back.values - truth.values) / truth.values) < 0.12
    assert run("decode", "-", "-o", tmp_path / "from-stdin", stdin=tokens.read_text()).exit_code == 0
    assert len(list((tmp_path / "from-stdin").iterdir())) == 3


def test_standard_input_and_output(maps: Path) -> None:
    done = run(
        "encode", "-", "--kind", "metric", "--unit", "mm", "-o", "-", stdin=f"{maps / '0.png'}\n{maps / '1.png'}\n"
    )
    assert done.exit_code == 0
    assert [json.loads(line)["name"] for line in done.stdout.splitlines()] == ["0.png", "1.png"]


def test_bad_files_do_not_affect_others(maps: Path, tmp_path: Path) -> None:
    good = (maps / "0.png").read_bytes()
    rng = np.random.default_rng(0)
    (maps / "truncated.png").write_bytes(good[: len(good) // 2])
    (maps / "zero.png").write_bytes(b"")
    Image.fromarray(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(maps / "coloured.png")
    np.save(maps / "negative.npy", np.array([[1000.0, -1.0]]))
    np.save(maps / "all-invalid.npy", np.full((4, 4), np.nan))
    np.save(maps / "cube.npy", np.ones((2, 3, 4)))
    np.save(maps / "constant.npy", np.full((4, 4), 2000.0))
    np.save(maps / "one.npy", np.full((1, 1), 2000.0))
    np.save(maps / "some-nan.npy", np.array([[1000.0, np.nan], [3000.0, np.inf]]))
    done = run("encode", maps, "--kind", "metric", "--unit", "mm", "-o", tmp_path / "out.jsonl")
    assert done.exit_code == 1, done.stderr
    names = {json.loads(line)["name"] for line in (tmp_path / "out.jsonl").read_text().splitlines()}
    assert names == {"0.png", "1.png", "2.png", "constant.npy", "one.npy", "some-nan.npy"}
    assert "6 of 12 failed; the others are done" in done.stderr
    for name in ("truncated.png", "zero.png", "coloured.png", "negative.npy", "all-invalid.npy", "cube.npy"):
        assert f"\n  {maps / name}: " in done.stderr
    assert done.stdout == ""


def test_refusals_are_one_line_and_exit_code_2(maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["encode", tmp_path / "none", "-o", "x.jsonl"], "no such file or folder"),
        (["encode", maps, "--kind", "metric", "--unit", "mm", "-o", tmp_path / "x.txt"], "records are written to"),
        (["eval", maps, "--codec", tmp_path / "none"], "expected a directory"),
    ):
        assert run_command(partial(app, ["depth", *map(str, words)])) == 2
        errors = capsys.readouterr().err
        assert errors.startswith("error: ")
        assert message in errors
        assert len(errors.splitlines()) == 1


def test_the_kind_of_maps_must_be_given(maps: Path, tmp_path: Path) -> None:
    done = run("encode", maps, "-o", tmp_path / "x.jsonl")
    assert done.exit_code == 1
    assert "kind" in done.stderr
    done = run("encode", maps, "--kind", "metric", "-o", tmp_path / "y.jsonl")
    assert done.exit_code == 1
    assert "unit" in done.stderr


def test_eval_and_inspect(maps: Path, tmp_path: Path) -> None:
    done = run("eval", maps, "--kind", "metric", "--unit", "mm", "-o", tmp_path / "report.json")
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["codec"]["all"]["maps"] == 3
    assert f"{report['codec']['all']['rmse']:.4f}" in done.stdout
    assert isinstance(
        run("eval", maps, "--kind", "metric", "--unit", "mm", "-o", tmp_path / "report.json").exception, PerceptokError
    )
    done = run("inspect", maps, "--kind", "metric", "--unit", "mm", "-o", tmp_path / "panel.png")
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "panel.png") as panel:
        assert panel.height > 3 * 320


def test_probe(maps: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    DepthCodec(DepthVQVAE(GridConfig(widths=(16, 32), blocks=(1, 1), heads=2))).save_pretrained(tmp_path / "small")
    words = ["--probe", "--codec", tmp_path / "small", "--procedural", 4, "--max-steps", 1]
    done = run("eval", *words, "-o", tmp_path / "probe.json")
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "probe.json").read_text())
    assert list(report["scores"]) == [str(tmp_path / "small"), "k-means"]
    assert report["train_maps"]["maps"] == {"procedural": 4}
    assert report["config"]["max_steps"] == 1
    for score in report["scores"].values():
        assert f"{score['bits_per_code']:.2f}" in done.stdout
    done = run("eval", maps, "--kind", "metric", "--unit", "mm", *words, "--compare", "shipped")
    assert done.exit_code == 0, done.output
    assert "shipped" in done.stdout
    assert "3 held out" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval"], "name depth maps"),
        (["eval", "maps", "--max-steps", 3], "add --probe"),
        (["eval", "maps", "--compare", "shipped"], "add --probe"),
    ],
)
def test_options_of_the_probe_without_it(words: list[object], message: str) -> None:
    done = run(*words)
    assert isinstance(done.exception, PerceptokError)
    assert message in str(done.exception)


def test_inspect_as_a_page(maps: Path, tmp_path: Path) -> None:
    (maps / "3.png").write_bytes(b"not an image")
    words = ["inspect", maps, "--kind", "metric", "--unit", "mm", "--html", "-o", tmp_path / "page.html"]
    done = run(*words)
    assert done.exit_code == 1, done.output
    assert "3 maps drawn" in done.stderr
    assert "1 of 4 failed" in done.stderr
    page = (tmp_path / "page.html").read_text()
    assert page.count('id="depth-') == page.count('id="teacher-') == 3
    assert isinstance(run(*words).exception, PerceptokError)
    for name in range(3):
        (maps / f"{name}.png").unlink()
    assert "1 of 1 failed" in run(*words[:-1], tmp_path / "other.html").stderr
    assert not (tmp_path / "other.html").exists()


def test_train_leaves_out_bad_maps_by_name(maps: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    (maps / "bad.png").write_bytes(b"not an image")
    words = ("train", maps, "--kind", "metric", "--unit", "mm", "--config", tmp_path / "tiny.json", "--cpu")
    done = run(*words, "-o", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "bad.png: does not begin like a PNG" in done.output
    assert "1 of 4 files cannot be read" in done.output
    for name in ("0.png", "1.png", "2.png"):
        (maps / name).write_bytes(b"not an image")
    assert "none of the 4 depth maps can be read" in str(run(*words, "-o", tmp_path / "none").exception)


def test_train_reads_maps_from_the_cache(maps: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    words = ("train", maps, "--kind", "metric", "--unit", "mm", "--config", tmp_path / "tiny.json", "--cpu")
    words = (*words, "--cache-dir", tmp_path / "cache")
    assert run(*words, "-o", tmp_path / "first").exit_code == 0
    (bank,) = (tmp_path / "cache").iterdir()
    (bank / "contents.json").write_text("{")
    assert f"{bank}: a damaged cache of maps" in str(run(*words, "-o", tmp_path / "second").exception)


def test_train(maps: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    words = [
        "train",
        maps,
        "--kind",
        "metric",
        "--unit",
        "mm",
        "--procedural",
        2,
        "--cpu",
        "--config",
        tmp_path / "tiny.json",
    ]
    done = run(*words, "-o", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "step 4: loss" in done.stderr
    assert pt.DepthCodec.from_pretrained(tmp_path / "run").encode(np.zeros((4, 4), dtype=np.float32)).shape == (
        1,
        10,
        10,
    )
    (tmp_path / "further.json").write_text(json.dumps({key: value for key, value in TINY.items() if key != "model"}))
    further = [*words[:-1], tmp_path / "further.json", "--from", tmp_path / "run"]
    done = run(*further, "-o", tmp_path / "further")
    assert done.exit_code == 0, done.output
    first, second = (pt.DepthCodec.from_pretrained(tmp_path / name) for name in ("run", "further"))
    assert second.model.config == first.model.config
    assert second.fingerprint != first.fingerprint
    for more, message in (
        (["-o", tmp_path / "x", "--from", "shipped"], "start from"),
        (["-o", tmp_path / "run"], "finished run"),
        (["-o", tmp_path / "b", "--val", maps], "both training and validation"),
    ):
        error = run(*words, *more).exception
        assert isinstance(error, PerceptokError)
        assert message in str(error)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "renamed.png").write_bytes((maps / "1.png").read_bytes())
    assert "training maps too" in str(run(*words, "--val", tmp_path / "copy", "-o", tmp_path / "c").exception)
    assert "no depth maps to train on" in str(run("train", "-o", tmp_path / "d").exception)
    (tmp_path / "wrong.json").write_text('{"stepz": 3}')
    assert "stepz" in str(run("train", maps, "--config", tmp_path / "wrong.json", "-o", tmp_path / "e").exception)


def test_transcode(maps: Path, tmp_path: Path) -> None:
    saved_codec = tmp_path / "codec"
    torch.manual_seed(0)
    DepthCodec(DepthVQVAE(GridConfig(widths=(16, 32), blocks=(1, 1), heads=2))).save_pretrained(saved_codec)
    tokens, translated, back = (tmp_path / f"{name}.jsonl" for name in ("tokens", "translated", "back"))
    assert run("encode", maps, "--kind", "metric", "--unit", "mm", "-o", tokens).exit_code == 0
    done = run("transcode", tokens, "--from", "shipped", "--to", saved_codec, "-o", translated, "--text")
    assert done.exit_code == 0, done.output
    assert "3 records" in done.output
    assert "mean 0." in done.output
    assert json.loads(translated.read_text().splitlines()[0])["text"].startswith("<DEPTH_START>")
    done = run("transcode", "-", "--from", saved_codec, "-o", back, stdin=translated.read_text() + "{\n")
    assert done.exit_code == 1
    assert "1 of 4" in done.output
    assert len(back.read_text().splitlines()) == 3
    done = run("transcode", tokens, "--from", saved_codec, "-o", tmp_path / "no.jsonl")
    assert isinstance(done.exception, PerceptokError)
    assert "was encoded by codec" in str(done.exception)
    assert not (tmp_path / "no.jsonl").exists()
