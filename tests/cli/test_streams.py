"""Standard streams that the shell has closed, and names that look like markup."""

from __future__ import annotations

import subprocess
import sys

import pytest

from perceptok_cli.console import print_table, progress_bar


def test_a_closed_standard_output_is_an_error_of_ours() -> None:
    command = f"{sys.executable} -m perceptok_cli.main data presets >&-"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot write standard output: it is closed")
    assert "Traceback" not in done.stderr


def test_a_command_without_output_needs_none() -> None:
    command = f"{sys.executable} -m perceptok_cli.main data check does-not-exist >&- 2>&-"
    assert subprocess.run(["/bin/sh", "-c", command], check=False).returncode == 2


def test_names_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Records of out[/x]", ("[bold]name", "count"), [("[/y]", "1")])
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("out[/x]", "[bold]name", "[/y]"))
    with progress_bar("out[/x]", 1) as advance:
        advance("[/z]")
