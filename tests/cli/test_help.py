"""`perceptok --help` is quick: commands import their libraries when they run."""

from __future__ import annotations

import json
import subprocess
import sys

_MEASURE = """
import json, sys
before = len(sys.modules)
from perceptok_cli.main import app
from typer.testing import CliRunner
result = CliRunner().invoke(app, ["--help"])
heavy = sorted({"torch", "transformers", "numpy", "scipy", "PIL", "peft", "ray"} & sys.modules.keys())
own = sum(name.startswith("perceptok") for name in sys.modules)
values = {"modules": len(sys.modules) - before, "own": own, "heavy": heavy, "code": result.exit_code}
print(json.dumps({**values, "text": result.output}))
"""


def measure() -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", _MEASURE], capture_output=True, text=True, check=True, timeout=120)
    values: dict[str, object] = json.loads(done.stdout)
    return values


def test_help_imports_little() -> None:
    """No library that computes, and few modules beside those of the command line's own framework."""
    run = measure()
    assert run["code"] == 0
    assert "depth" in str(run["text"])
    assert run["heavy"] == []
    assert int(str(run["own"])) < 30
    assert int(str(run["modules"])) < 600
