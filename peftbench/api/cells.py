"""Running cells and reading their records from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from peftbench.cells.cell import plan
from peftbench.config.gate import from_tree
from peftbench.foundation.errors import ConfigError, RecordError
from peftbench.records.claims import claims_of
from peftbench.records.index import read_rows
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from peftbench.sweep.attempt import run_noted
from peftbench.sweep.grid import plan_grid


def run(*words: str, results: Path | str | None = None, **choices: Any) -> RunRecord:
    """Train and evaluate one cell, or find it done, and return its record: the command line as a function.

    words: as on the command line (`"method.rank=4"`). choices: group=choice and seed (`method="lora"`,
    `dataset="digits"`, `train="short"`). results: the folder for records (default: `results`).

        peftbench.run("method.rank=4", method="lora", dataset="digits", seed=1)

    Raises what the command line says: `ConfigError` with every wrong word, `MissingInput`, `NotApplicable`,
    `TrainingDiverged`.
    """
    asked = [*words, *(f"{key}={_written(value)}" for key, value in choices.items())]
    if results is not None:
        asked.append(f"runtime.results={_written(str(results))}")
    grid, _ = plan_grid(asked)
    if len(grid.cells) != 1:
        raise ConfigError([f"run() runs one cell; these words name {len(grid.cells)}"])
    config, runtime = from_tree(grid.cells[0].config)
    cell, store = plan(config), Store(runtime.results_root)
    if store.find(cell.fingerprint, cell.labels) is None or runtime.on_existing == "rerun":
        claim = claims_of(store).take(cell.fingerprint)
        if claim is None:
            held = claims_of(store).holder(cell.fingerprint)
            raise RecordError(f"this cell is being run by {held.owner if held else 'another worker'}")
        with claim:
            error = run_noted(cell, runtime, store).error
        if error is not None:
            raise error
    return store.get(cell.fingerprint)


def records(results: Path | str = "results") -> pd.DataFrame:
    """All records of a results folder, one row each; accuracies are fractions. The columns: `records/collect.py`."""
    rows, _ = read_rows(Store(Path(results)), use_index=False)
    return rows


def _written(value: Any) -> str:
    """A value as the command line writes it: text with any sign of its own in quotes."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    plain = all(sign.isalnum() or sign in "_-./+" for sign in text)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return text if not isinstance(value, str) or plain else f"'{escaped}'"
