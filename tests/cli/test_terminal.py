"""Text from files is printed plain and short; standard output is for data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from perceptok_cli.console import MAX_FAILURES, escape_text, finish, note, print_table
from perceptok_cli.main import app, run_command

HOSTILE = "a\x1b[31mred\x1b]0;title\x07\u202eevil\r\n[bold]b[/bold]\x9b2J\u2066\ud800"


@given(st.text(max_size=50))
def test_printable_text_is_one_line_without_control_characters(text: str) -> None:
    shown = escape_text(text)
    assert shown.isprintable()
    assert escape_text(shown) == shown


def test_ordinary_text_is_unchanged() -> None:
    assert escape_text("Küche 日本 [1] 'a'.png") == "Küche 日本 [1] 'a'.png"
    assert escape_text("x" * 5000).startswith("x" * 2000 + "... (5000")


def test_all_outputs_are_plain(capsys: pytest.CaptureFixture[str]) -> None:
    note(HOSTILE)
    print_table("title", ("name",), [[HOSTILE]])
    with pytest.raises(Exception, match="1"):
        finish([(HOSTILE, HOSTILE)] * (MAX_FAILURES + 5), 100)
    out, err = capsys.readouterr()
    for text in (out, err):
        assert "\x1b" not in text
        assert "\x9b" not in text
        assert "\u202e" not in text
        assert "[bold]b[/bold]" in text
    assert err.count("failed") >= 1
    assert "and 5 more" in err
    listed = Path(err[err.index("all of them are in ") :].split()[-1])
    assert len(listed.read_text().splitlines()) == MAX_FAILURES + 5
    listed.unlink()


def test_hostile_file_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "maps"
    folder.mkdir()
    (folder / "a\x1b[31m\u202e[red]\n.png").write_bytes(b"no png")
    words = ["depth", "encode", str(folder), "--kind", "inverse", "-o", str(tmp_path / "out.jsonl")]
    assert run_command(lambda: app(words)) == 1
    errors = capsys.readouterr().err
    assert "\x1b" not in errors
    assert "\u202e" not in errors
    assert r"\x1b[31m\u202e[red]\n.png" in errors


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    folder = tmp_path / "good"
    folder.mkdir()
    for index in range(3):
        np.save(folder / f"{index}.npy", np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20))
    return folder


def start(maps: Path, stdout: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "perceptok_cli.main", "depth", "encode", str(maps), "--kind", "inverse", "-o", "-"]
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        command, stdout=stdout, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def test_a_full_standard_output_is_one_line(maps: Path) -> None:
    with Path("/dev/full").open("w") as full, start(maps, full) as process:
        errors = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 2
    assert errors.startswith("error: ")
    assert errors.endswith("No space left on device\n")
    assert len(errors.splitlines()) == 1


def test_a_closed_pipe_ends_the_command_at_once(maps: Path) -> None:
    for index in range(3, 200):
        (maps / f"{index}.npy").hardlink_to(maps / "0.npy")
    with start(maps, subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        json.loads(process.stdout.readline())
        process.stdout.close()
        errors = process.stderr.read().decode()
        assert process.wait(timeout=60) == 1
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    "arguments",
    [
        ("depth", "decode", "missing.jsonl", "-o", "d"),
        ("depth", "decode", "missing.npz", "-o", "d"),
        ("depth", "decode", "latin.jsonl", "-o", "d"),
        ("depth", "encode", "good", "--kind", "inverse", "-o", "none/out.jsonl"),
        ("depth", "encode", "good", "--kind", "inverse", "-o", "o.jsonl", "--device", "cuda"),
        ("depth", "encode", "good", "--kind", "inverse", "-o", "o.jsonl", "--codec", "codec"),
        ("depth", "train", "good", "--kind", "inverse", "--config", "cut.json", "-o", "run"),
        ("depth", "train", "good", "--kind", "inverse", "--config", "deep.json", "-o", "run"),
        ("box", "eval", "missing.jsonl", "--truth", "deep.json"),
        ("box", "encode", "cut.json", "-o", "b.jsonl"),
    ],
    ids=lambda value: " ".join(value),
)
def test_ordinary_errors_are_one_line(
    arguments: tuple[str, ...], maps: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = maps.parent
    monkeypatch.chdir(folder)
    (folder / "latin.jsonl").write_bytes(b'{"name": "\xe9"}\n')
    (folder / "cut.json").write_text('{"steps": 1')
    (folder / "deep.json").write_text("[" * 1_000_000)
    (folder / "codec").mkdir()
    (folder / "codec" / "config.json").write_text('{"format": 1' + "0" * 5000 + "}")
    (folder / "codec" / "model.safetensors").write_bytes(b"")
    code = run_command(lambda: app(list(arguments)))
    out, err = capsys.readouterr()
    assert code in (1, 2)
    assert out == ""
    assert len(err.strip().splitlines()) <= 4, err
