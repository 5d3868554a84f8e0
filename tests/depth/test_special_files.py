"""Pipes, devices and archives that unpack to gigabytes, wherever a depth command reads a file: an error, at once."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from perceptok.depth import DepthCodec, DepthMap, find_maps, load_aurora_checkpoint, read_depth_records
from perceptok.errors import CheckpointError, ConfigError, DepthMapError, MalformedBlockError, PerceptokError


def link_to_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


SPECIAL: list[Callable[[Path], None]] = [os.mkfifo, link_to_zeros]


@pytest.mark.parametrize("make", SPECIAL, ids=["pipe", "device"])
@pytest.mark.parametrize("suffix", [".png", ".npy", ".npz", ".tiff", ".pfm", ".exr"])
def test_maps(tmp_path: Path, suffix: str, make: Callable[[Path], None]) -> None:
    path = tmp_path / f"a{suffix}"
    make(path)
    with pytest.raises(DepthMapError, match=r"is a (pipe|device), not a regular file"):
        DepthMap.read(path, kind="inverse")


@pytest.mark.parametrize("make", SPECIAL, ids=["pipe", "device"])
def test_masks_and_lists(tmp_path: Path, make: Callable[[Path], None]) -> None:
    np.save(tmp_path / "a.npy", np.ones((4, 4), np.float32))
    make(tmp_path / "mask.png")
    with pytest.raises(DepthMapError, match=r"its mask .* .is a (pipe|device)"):
        DepthMap.read(tmp_path / "a.npy", kind="inverse", mask=tmp_path / "mask.png")
    make(tmp_path / "list.txt")
    with pytest.raises(DepthMapError, match=r"the list cannot be read .is a (pipe|device)"):
        find_maps([tmp_path / "list.txt"])


@pytest.mark.parametrize("suffix", [".jsonl", ".npz", ".parquet"])
def test_records(tmp_path: Path, suffix: str) -> None:
    """The user may name a pipe of JSON lines as the input; a device never ends."""
    link_to_zeros(tmp_path / f"a{suffix}")
    with pytest.raises(MalformedBlockError, match="is a device"):
        list(read_depth_records(tmp_path / f"a{suffix}"))
    if suffix != ".jsonl":
        os.mkfifo(tmp_path / f"b{suffix}")
        with pytest.raises(MalformedBlockError, match="is a pipe"):
            list(read_depth_records(tmp_path / f"b{suffix}"))


@pytest.mark.parametrize("make", SPECIAL, ids=["pipe", "device"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_codecs(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    DepthCodec.from_pretrained().save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    make(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"is a (pipe|device)"):
        DepthCodec.from_pretrained(tmp_path)
    make(tmp_path / "vae.pt")
    with pytest.raises(CheckpointError, match=r"is a (pipe|device)"):
        load_aurora_checkpoint(tmp_path / "vae.pt")


def test_configurations(tmp_path: Path) -> None:
    from perceptok.config import read_mapping

    link_to_zeros(tmp_path / "train.yaml")
    with pytest.raises(ConfigError, match="is a device"):
        read_mapping(tmp_path / "train.yaml")
    (tmp_path / "large.json").write_bytes(b" " * (2**24 + 1))
    with pytest.raises(ConfigError, match="at most 16777216 are read"):
        read_mapping(tmp_path / "large.json")


def write_npz_bomb(path: Path) -> None:
    """2 GB of zeros in 2 MB."""
    names = ("codes", "name", "kind", "near", "far", "width", "height", "codec")
    header = b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '|u1', 'fortran_order': False, 'shape': (20000000, 10, 10), }"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                member.write(header.ljust(127) + b"\n")
                if name == "codes":
                    for _ in range(200):
                        member.write(bytes(10_000_000))


def write_parquet_bomb(path: Path) -> None:
    """One record of 300 million codes: run lengths take no space."""
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    codes = pyarrow.ListArray.from_arrays([0, 300_000_000], pyarrow.array(np.zeros(300_000_000, np.uint8)))
    columns = {"codes": codes, "near": [1.0], "far": [0.0], "width": [4], "height": [4]}
    columns |= {name: ["x"] for name in ("name", "kind", "codec")}
    parquet.write_table(pyarrow.table(columns), path)


@pytest.mark.parametrize("write", [write_npz_bomb, write_parquet_bomb])
def test_archives_that_unpack_to_gigabytes(tmp_path: Path, write: Callable[[Path], None]) -> None:
    """Refused with 300 MB of address space beside what is loaded."""
    path = tmp_path / f"a.{write.__name__.split('_')[1]}"
    write(path)
    assert path.stat().st_size < 3_000_000
    code = (
        "import resource, sys\n"
        "import pyarrow.parquet, numpy\n"
        "from perceptok.depth import read_depth_records\n"
        "from perceptok.errors import MalformedBlockError\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000,) * 2)\n"
        "try:\n"
        "    list(read_depth_records(sys.argv[1]))\n"
        "except MalformedBlockError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    refusals = ("declares 2000001024 bytes", "a record has at most 100", "a column has 300000000 values in 1 rows")
    assert any(refusal in done.stdout for refusal in refusals), done.stderr


def test_long_names_in_records(tmp_path: Path) -> None:
    line = '{"name": "' + "a" * 5000 + '", "codes": [' + ", ".join(["1"] * 100) + '], "kind": "inverse", "near": 1, '
    (tmp_path / "a.jsonl").write_text(line + '"far": 0, "width": 4, "height": 4, "codec": "x"}\n')
    with pytest.raises(PerceptokError, match="name: expected the relative name of a file"):
        list(read_depth_records(tmp_path / "a.jsonl"))
