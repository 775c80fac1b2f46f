"""Running cells and reading their records from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from peftbench.api.tables import rows_of
from peftbench.records.record import RunRecord
from peftbench.sweep.single import run_words, written


def run(*words: str, results: Path | str | None = None, **choices: Any) -> RunRecord:
    """Train and evaluate one cell, or find it done, and return its record: the command line as a function.

    words: as on the command line (`"method.rank=4"`). choices: group=choice and seed (`method="lora"`,
    `dataset="digits"`, `train="short"`). results: the folder for records (default: `results`).

        peftbench.run("method.rank=4", method="lora", dataset="digits", seed=1)

    Raises what the command line says: `ConfigError` with every wrong word, `MissingInput`, `NotApplicable`,
    `TrainingDiverged`.
    """
    asked = [*words, *(f"{key}={written(value)}" for key, value in choices.items())]
    if results is not None:
        asked.append(f"runtime.results={written(str(results))}")
    return run_words(asked)


def records(results: Path | str = "results") -> pd.DataFrame:
    """All records of a results folder, one row each; a `score` is a fraction. The columns: `records/collect.py`.

    A file that is no record is left out and named on stderr.
    """
    return rows_of(results)
