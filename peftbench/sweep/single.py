"""One cell from words to its record, for callers that go on working with it."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from peftbench.cells.cell import Cell, plan
from peftbench.config.gate import from_tree
from peftbench.config.runtime import RuntimeSpec
from peftbench.foundation.errors import ConfigError
from peftbench.foundation.terminal import print_fitted
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from peftbench.sweep.attempt import run_claimed
from peftbench.sweep.grid import plan_grid
from peftbench.sweep.outdated import outdated
from peftbench.sweep.state import recorded


def planned(words: list[str]) -> tuple[Cell, RuntimeSpec]:
    """The one cell that the words name. Raises `ConfigError` for wrong words and for several cells."""
    grid, _ = plan_grid(words)
    if len(grid.cells) != 1:
        raise ConfigError([f"one cell is to be run; these words name {len(grid.cells)}"])
    config, runtime = from_tree(grid.cells[0].config)
    return replace(plan(config), words=tuple(words)), runtime


def run_words(words: list[str], silent: bool = False) -> RunRecord:
    """Run the one cell that the words name, or find it done; `silent` prints nothing of it.

    Raises what running it does; the failure is noted as that of any cell.
    """
    return found_or_run(words, silent)[0]


def found_or_run(words: list[str], silent: bool = False) -> tuple[RunRecord, bool]:
    """As `run_words`, with whether the cell was done before."""
    cell, runtime = planned(words)
    if silent:
        runtime = replace(runtime, progress=False)
    store = Store(runtime.results_root)
    found = store.find(cell.fingerprint, cell.labels) is not None and runtime.on_existing != "rerun"
    if not found:
        run_claimed(cell, runtime, store, say=not silent)
    record = recorded(cell, store)
    for line in outdated(cell.config, record) if found and not silent else ():
        print_fitted(f"note: {line}", sys.stderr)
    return record, found


def written(value: Any) -> str:
    """A value as a word has it: text with signs of its own in quotes."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return str(value)
    plain = value and all(sign.isalnum() or sign in "_-./+" for sign in value)
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return value if plain else f"'{escaped}'"
