"""What every command shares: progress without a terminal, and the device."""

from __future__ import annotations

import re
from typing import get_args, get_type_hints

import pytest
import torch
from typer.testing import CliRunner

from perceptok.data import SpecialistConfig
from perceptok.errors import ConfigError
from perceptok_cli import console
from perceptok_cli.console import choose_device, progress_bar
from perceptok_cli.main import app


def test_progress_without_a_terminal_is_a_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar("encoding", 3) as advance:
        for _ in range(3):
            advance()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    with progress_bar("training", 3) as advance:
        advance("loss 2.31")
        advance()
        advance()
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"training: 1 of 3, \d:\d\d:\d\d left, loss 2\.31", lines[0])
    assert re.fullmatch(r"training: 2 of 3, \d:\d\d:\d\d left", lines[1])
    assert len(lines) == 2


def test_the_default_device_is_the_accelerator_where_there_is_one() -> None:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    assert choose_device(None) == ("cpu" if accelerator is None else accelerator.type)
    assert choose_device(None, ("cpu",)) == "cpu"
    assert choose_device("cpu") == "cpu"


@pytest.mark.parametrize("device", ["gpu", "cuda:99", ""])
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(ConfigError, match=f"the device '{device}' cannot be used: "):
        choose_device(device)


def test_a_device_that_a_command_cannot_use() -> None:
    with pytest.raises(ConfigError, match="--device is one of cpu, cuda here; got 'meta'"):
        choose_device("meta", ("cpu", "cuda"))


def read_help(*command: str) -> str:
    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
    assert result.exit_code == 0
    return " ".join(re.sub(r"[│╭╰─╮╯]", " ", result.output).split())


@pytest.mark.parametrize(
    "command",
    [
        *(
            "llava infer",
            "llava eval",
            "llava replace",
            "llava serve",
            "llava merge",
            "llava export",
            "demo",
            "data estimate",
        ),
        *("depth encode", "depth decode", "depth eval", "aurora depth", "aurora counting"),
    ],
)
def test_every_command_words_the_device_alike(command: str) -> None:
    text = read_help(*command.split())
    assert "Where to compute, such as cpu or cuda; default: the accelerator, if there is one." in text


def test_every_specialist_is_named() -> None:
    forms = get_args(get_type_hints(SpecialistConfig)["form"])
    assert len(forms) >= 4
    text = read_help("data", "build")
    assert [form for form in forms if form not in text] == []
    text = read_help("data", "estimate")
    assert [form for form in forms if form.endswith("depth") and form not in text] == []
