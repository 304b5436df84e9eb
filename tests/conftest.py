"""Shared fixtures: where the data folder is, and a skip that names it when it is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("BITWRIGHT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder with test images and checkpoints; tests that need it skip when it is absent."""
    if not (DATA / "SHA256SUMS").is_file():
        pytest.skip(f"no data folder at {DATA}; set BITWRIGHT_DATA")
    return DATA
