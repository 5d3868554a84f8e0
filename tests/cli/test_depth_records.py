"""Files of depth records where maps or answers are expected: refused with the command that reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from perceptok.depth import DepthMap, DepthRecord, write_depth_records
from perceptok.errors import DepthMapError
from perceptok_cli.main import app

CODES = tuple(range(100))
PLAIN = [DepthRecord("a.npy", CODES, "metric", 1, 4, 8, 8, "c")]
FRAMES = [
    DepthRecord("a/0.npy", CODES, "metric", 1, 4, 8, 8, "c", clip="a", frame=0, changed=CODES),
    DepthRecord("a/1.npy", (7, 9), "metric", 1, 4, 8, 8, "c", clip="a", frame=1, changed=(4, 50)),
]
SETS = {"plain": PLAIN, "first frame": FRAMES[:1], "frames": FRAMES}


@pytest.fixture(params=sorted(SETS))
def records(request: pytest.FixtureRequest) -> list[DepthRecord]:
    return SETS[request.param]


@pytest.mark.parametrize("suffix", [".jsonl", ".npz", ".parquet"])
def test_depth_records_are_neither_maps_nor_answers(tmp_path: Path, records: list[DepthRecord], suffix: str) -> None:
    path = tmp_path / f"records{suffix}"
    with path.open("wb") as file:
        write_depth_records(file, suffix, records)
    kind = ("--kind", "inverse")
    for words in (
        ("show", path, "-o", tmp_path / "p.png"),
        ("inspect", path, *kind, "-o", tmp_path / "p.png"),
        ("encode", path, *kind, "-o", tmp_path / "q.jsonl"),
        ("eval", path, *kind),
    ):
        done = CliRunner().invoke(app, ["depth", *map(str, words)])
        assert done.exit_code == 1, words
        assert "perceptok depth decode" in f"{' '.join(done.output.split())} {done.exception}", words
        assert not (tmp_path / "p.png").exists()
    with pytest.raises(DepthMapError, match="perceptok depth decode"):
        DepthMap.read(path, kind="inverse")


def test_the_codes_of_a_file_of_records_are_not_a_map(tmp_path: Path) -> None:
    with (tmp_path / "a.npz").open("wb") as file:
        write_depth_records(file, ".npz", PLAIN)
    with pytest.raises(DepthMapError, match="perceptok depth decode"):
        DepthMap.read(tmp_path / "a.npz", kind="inverse", key="codes")


def test_records_on_standard_input_and_codes_without_records() -> None:
    for record in (*PLAIN, *FRAMES):
        done = CliRunner().invoke(app, ["depth", "show", "-", "-o", "p.png"], input=f"\n{record.to_json()}\n")
        assert done.exit_code == 1
        assert "perceptok depth decode" in str(done.exception)


def test_the_text_that_records_carry_is_shown(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(PLAIN[0].to_json(text=True))
    done = CliRunner().invoke(app, ["depth", "show", str(tmp_path / "a.jsonl"), "-o", str(tmp_path / "p.png")])
    assert done.exit_code == 0, done.output


def test_other_npz_with_codes_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", depth=np.eye(3, dtype=np.float32), codes=np.ones(4))
    assert DepthMap.read(tmp_path / "a.npz", kind="inverse").values.shape == (3, 3)
