"""The public names: explicit, sorted, cheap to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import perceptok as pt


def test_every_name_is_declared_everywhere_and_resolves() -> None:
    tree = ast.parse(Path(pt.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == pt._HOMES
    assert set(pt.__all__) == set(imported)
    assert pt.__all__ == sorted(pt.__all__, key=lambda name: (not name.isupper(), name))
    assert all(getattr(pt, name) is not None for name in pt.__all__)
    assert set(pt.__all__) <= set(dir(pt))


def test_unknown_name() -> None:
    assert not hasattr(pt, "DepthCodex")


def test_import_costs_next_to_nothing() -> None:
    program = (
        "import torch, time, sys; start = time.perf_counter(); import perceptok; took = time.perf_counter() - start; "
        "print(took, 'transformers' in sys.modules, 'scipy' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert float(printed[0]) < 0.3
    assert printed[1:] == ["False", "False"]


def test_codec_does_not_import_transformers() -> None:
    program = (
        "import sys; from perceptok import DepthCodec; DepthCodec.from_pretrained(); "
        "print('transformers' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "False"
