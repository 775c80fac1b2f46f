"""A choice among the rows of a leaderboard, by their labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pandas as pd

from peftbench.boards.variants import shown
from peftbench.foundation.errors import ConfigError, did_you_mean


def narrowed(rows: pd.DataFrame, chosen: Mapping[str, Sequence[str]], prefix: str = "") -> pd.DataFrame:
    """Rows of `collect` whose labels are among the chosen ones: column -> labels.

    Raises `ConfigError` for a label that no record has; `prefix` stands before the column there, as options have it.
    """
    labels = {
        column: [_labels(column, *pair) for pair in zip(rows[column], rows["data"], strict=True)] for column in chosen
    }
    known = {column: {name for names in of_rows for name in names} for column, of_rows in labels.items()}
    problems = [
        f"{prefix}{column}: no record has '{name}'{did_you_mean(name, known[column])}"
        for column, names in chosen.items()
        for name in names
        if len(rows) and name not in known[column]
    ]
    if problems:
        raise ConfigError(problems)
    kept = [
        all(not labels[column][place].isdisjoint(names) for column, names in chosen.items())
        for place in range(len(rows))
    ]
    return rows[pd.Series(kept, index=rows.index, dtype=bool)]


def _labels(column: str, label: str, data: str) -> set[str]:
    """What a row answers to; images also to their revision, in full or as a table's column shows it."""
    dataset = json.loads(data)["dataset"] if column == "membership" else None
    revision = dataset.get("revision") if isinstance(dataset, dict) else None
    return {label} if revision is None else {label, str(revision), shown(revision)}
