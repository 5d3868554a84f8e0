"""SGLang's server: structural tags, and what a budget does."""

from __future__ import annotations

from pathlib import Path

import pytest

from perceptok.decoding import detect_engine
from tests.engines.served_checks import check_budget_cuts, check_constrained_answers, check_ten_requests_at_once

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1800)]
ENGINE = "sglang"


def build_command(python: Path, model: Path, port: int) -> list[str]:
    from serve_sglang import build_command

    return build_command(python, model, port)


def test_the_engine_is_recognised(server: str) -> None:
    engine = detect_engine(server)
    assert engine.name == "sglang"
    assert engine.version


def test_blocks_and_boxes_are_whole(server: str, tiny_model: Path) -> None:
    check_constrained_answers(server, tiny_model)


def test_ten_requests_at_once(server: str, tiny_model: Path) -> None:
    check_ten_requests_at_once(server, tiny_model)


def test_the_budget_cuts_a_block(server: str, tiny_model: Path) -> None:
    check_budget_cuts(server, tiny_model)
