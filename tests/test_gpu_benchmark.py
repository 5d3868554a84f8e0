"""The script of GPU measurements runs, tiny and on the CPU, and its table has every part."""

from __future__ import annotations

import pytest

from tests.benchmarks.gpu import main


def test_tiny_on_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--device", "cpu", "--tiny"])
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    names = [row[0].strip() for row in rows]
    for part in ("encode", "decode", "reference networks", "update of the codec", "cross entropy", "distillation loss"):
        assert any(name.startswith(part) for name in names), part
    assert any(name.startswith("processor") for name in names)
    own_threads = "folder of 4 PNG maps"
    assert {own_threads, f"{own_threads}, reference one by one"} <= set(names)
    assert all(float(row[2]) > 0 for row in rows if row[0].strip())
    assert all(float(row[1]) > 0 for row in rows if row[0].strip() not in ("", own_threads))
    assert "codes as on the CPU: 100.00%" in rows[1][-1]
    assert "NO" not in "".join(row[-1] for row in rows)
