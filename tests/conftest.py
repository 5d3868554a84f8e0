"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine is not a failed property.
settings.register_profile("perceptok", deadline=None)
settings.load_profile("perceptok")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data beside the repository, or PERCEPTOK_SHARED; skips where there is none."""
    beside = Path(__file__).resolve().parents[1] / ".." / "shared"
    folder = Path(os.environ.get("PERCEPTOK_SHARED", beside)).resolve()
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}")
    return folder
