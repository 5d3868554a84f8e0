"""SGLang's server: structural tags, and what a budget does."""

from __future__ import annotations

import pytest

from tests.engines.served_checks import ServedEngineTests

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1800)]
ENGINE, SCRIPT = "sglang", "serve_sglang"


class TestServer(ServedEngineTests):
    """The tests of every engine."""
