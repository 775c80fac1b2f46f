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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-m quick`: what a contributor runs at each change: units, import rules, contracts on one plain transformer."""
    for item in items:
        place = item.path.relative_to(REPOSITORY).parts[:2] if item.path.is_relative_to(REPOSITORY) else ()
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        plain = place == ("peftbench", "contracts") and parameters.get("backbone") == "vit_cls"
        if not item.get_closest_marker("slow") and (plain or place in _QUICK):
            item.add_marker(pytest.mark.quick)


_QUICK = {("tests", name) for name in ("unit", "test_imports.py", "test_docs.py")}
