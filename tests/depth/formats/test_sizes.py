"""Small files that declare gigabytes are refused before they are unpacked, and large ones are read when allowed."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import perceptok as pt
from perceptok.errors import DepthMapError

SIDE = 12_000


def bombs(folder: Path) -> list[Path]:
    """144 million zeros in files of a few hundred kilobytes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (SIDE, SIDE)})
    compressor = zlib.compressobj(9)
    with (
        zipfile.ZipFile(folder / "zeros.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("depth.npy", "w", force_zip64=True) as member,
    ):
        member.write(header.getvalue())
        for _ in range(SIDE):
            member.write(bytes(SIDE * 4))
    Image.new("L", (SIDE, SIDE)).save(folder / "zeros.png")
    tifffile.imwrite(
        folder / "zeros.tiff", np.broadcast_to(np.zeros(SIDE, "u1"), (SIDE, SIDE)), compression="zlib", rowsperstrip=64
    )
    (folder / "cut.npy").write_bytes(header.getvalue())
    assert compressor
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return bombs(tmp_path_factory.mktemp("bombs"))


def test_bombs_are_refused(files: list[Path]) -> None:
    assert {path.suffix for path in files} == {".npy", ".npz", ".png", ".tiff"}
    for path in files:
        assert path.stat().st_size < 1_000_000
        with pytest.raises(DepthMapError, match=r"declares 144000000 values.*--max-pixels"):
            pt.DepthMap.read(path, kind="inverse")


def test_in_little_memory(files: list[Path]) -> None:
    """With 3 GB of address space beside what is loaded, each is one clear error."""
    code = (
        "import resource, sys, perceptok as pt\n"
        "pt.DepthMap, pt.errors.DepthMapError\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000,) * 2)\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        pt.DepthMap.read(path, kind='inverse')\n"
        "    except pt.errors.DepthMapError:\n"
        "        print('refused')\n"
    )
    command = [sys.executable, "-c", code, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["refused"] * len(files), done.stderr


@pytest.mark.parametrize("suffix", [".png", ".npy", ".npz", ".tiff", ".exr"])
def test_the_limit_is_the_callers(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"map{suffix}"
    depth = pt.DepthMap.from_array(np.full((30, 40), 2.0, np.float32), kind="metric", unit="m")
    depth.write(path)
    kind, unit = (None, None) if suffix == ".npz" else ("metric", "mm" if suffix == ".png" else "m")
    assert pt.DepthMap.read(path, kind=kind, unit=unit, max_pixels=3000).values.shape == (30, 40)  # type: ignore[arg-type]
    with pytest.raises(DepthMapError, match="at most 1199"):
        pt.DepthMap.read(path, kind=kind, unit=unit, max_pixels=1199)  # type: ignore[arg-type]
