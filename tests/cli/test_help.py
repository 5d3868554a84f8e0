"""`perceptok --help` is fast: commands import their libraries when they run."""

from __future__ import annotations

import json
import subprocess
import sys

_MEASURE = """
import json, resource, sys
used = lambda: sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
before = used()
from perceptok_cli.main import app
from typer.testing import CliRunner
result = CliRunner().invoke(app, ["--help"])
heavy = sorted({"torch", "transformers", "numpy", "scipy", "PIL", "peft", "ray"} & sys.modules.keys())
print(json.dumps({"seconds": used() - before, "heavy": heavy, "code": result.exit_code, "text": result.output}))
"""


def measured() -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", _MEASURE], capture_output=True, text=True, check=True, timeout=120)
    values: dict[str, object] = json.loads(done.stdout)
    return values


def test_help_is_fast() -> None:
    """Processor time beyond the start of the interpreter, the minimum of three."""
    runs = [measured() for _ in range(3)]
    assert runs[0]["code"] == 0
    assert "depth" in str(runs[0]["text"])
    assert runs[0]["heavy"] == []
    assert min(float(str(run["seconds"])) for run in runs) < 0.5
