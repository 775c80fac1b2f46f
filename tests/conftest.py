"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real weights and data that are not part of the repository; tests that need it skip without it."""
    folder = Path(os.environ.get("PEFTBENCH_SHARED", REPOSITORY / ".." / "shared"))
    if not folder.is_dir():
        pytest.skip("set PEFTBENCH_SHARED to the folder with the real weights and data")
    return folder
