"""The figures that the tables of bad inputs end with."""

from __future__ import annotations

from collections import Counter

import pytest

TALLY = pytest.StashKey[Counter]()


@pytest.fixture(scope="session")
def tally(pytestconfig: pytest.Config) -> Counter:
    """Bad inputs `tried` and answered `well` so far."""
    return pytestconfig.stash.setdefault(TALLY, Counter())


def pytest_terminal_summary(terminalreporter, config):
    counted = config.stash.get(TALLY, None)
    if counted:
        tried, well = counted["tried"], counted["well"]
        terminalreporter.write_line(f"bad inputs: {tried} tried, {well} answered well, {tried - well} not")
