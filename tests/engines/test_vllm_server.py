"""vLLM's server: structural tags, bad requests, and what a budget does."""

from __future__ import annotations

import json
from pathlib import Path

import openai
import pytest

from perceptok.decoding import GrammarConfig, detect_engine
from tests.engines.served_checks import (
    ServedEngineTests,
    ask,
    build_constraint,
    open_client,
)

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1800)]
ENGINE, SCRIPT = "vllm", "serve_vllm"


def test_the_model_is_described(server: str) -> None:
    engine = detect_engine(server)
    assert (engine.name, engine.models, engine.max_model_len) == ("vllm", ("perception",), 1024)


class TestServer(ServedEngineTests):
    """The tests of every engine."""


@pytest.mark.parametrize("ordered_axes", ["x", "xy"])
def test_the_order_of_coordinates(server: str, tiny_model: Path, ordered_axes: str) -> None:
    body = build_constraint(server, tiny_model, GrammarConfig(first="box", max_boxes=1), ordered_axes=ordered_axes)
    for seed in range(5):
        text, _ = ask(open_client(server), seed, 60, body)
        x1, y1, x2, y2 = (int(part.partition(">")[0]) for part in text.split("<PIXEL_")[1:5])
        assert x2 >= x1
        assert ordered_axes == "x" or y2 >= y1


@pytest.mark.parametrize(
    "tag",
    [
        {"type": "structural_tag", "format": {"type": "grammar", "grammar": "root ::= missing"}},
        pytest.param(
            {"type": "structural_tag", "format": {"type": "grammar", "grammar": "root ::= Token(999999)"}},
            marks=pytest.mark.xfail(strict=True, reason="vLLM 0.32.0 answers 500, and goes on serving"),
        ),
        {"type": "structural_tag"},
    ],
)
def test_a_tag_that_is_not_valid_is_a_bad_request(server: str, tag: dict[str, object]) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        ask(open_client(server), 0, 50, {"structured_outputs": {"structural_tag": json.dumps(tag)}})
    assert caught.value.status_code == 400
