"""What all contracts start from."""

from __future__ import annotations

import pytest

from peftbench.foundation.seeding import seed_everything


def pytest_configure(config: pytest.Config) -> None:
    """Wherever the contracts are run from, their marks are known."""
    config.addinivalue_line("markers", "gpu: needs a CUDA device")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Ahead of its fixtures: what a contract draws does not depend on the tests before it."""
    seed_everything(0)
