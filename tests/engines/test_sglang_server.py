"""SGLang's server: structural tags, bad requests, and what a budget does."""

from __future__ import annotations

import openai
import pytest

from perceptok.decoding import detect_engine
from tests.engines.served_checks import ServedEngineTests, ask, open_client

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1800)]
ENGINE, SCRIPT = "sglang", "serve_sglang"


class TestServer(ServedEngineTests):
    """The tests of every engine."""


def test_the_backend_of_grammars_is_stated(server: str) -> None:
    assert detect_engine(server).grammar_backend == "xgrammar"


@pytest.mark.parametrize(
    "tag",
    [
        {"type": "structural_tag", "format": {"type": "grammar", "grammar": "root ::= missing"}},
        {"type": "structural_tag"},
    ],
)
def test_a_tag_that_is_not_valid_is_a_bad_request(server: str, tag: dict[str, object]) -> None:
    with pytest.raises(openai.BadRequestError):
        ask(open_client(server), 0, 5, {"response_format": tag})
