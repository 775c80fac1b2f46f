"""Tables of made-up records, and the records for them."""

from __future__ import annotations

from typing import Any

from peftbench.boards.leaderboard import leaderboard
from peftbench.boards.table import Row, Table
from peftbench.records.collect import collect
from peftbench.records.record import RunRecord
from peftbench.train.options import OptimSpec
from tests.record_factory import make_record


def tables(*records: RunRecord) -> list[Table]:
    return leaderboard(collect(records))


def only_table(*records: RunRecord) -> Table:
    [table] = tables(*records)
    return table


def rows_by_name(table: Table) -> dict[str, Row]:
    return {row.method: row for row in table.rows}


def cells(method: str, scores: dict[str, list[float]], **choices: Any) -> list[RunRecord]:
    """One record per data set and seed."""
    return [
        make_record(method=method, dataset=dataset, accuracy=accuracy, seed=seed, **choices)
        for dataset, accuracies in scores.items()
        for seed, accuracy in enumerate(accuracies)
    ]


def recipe_record(method: str, lr: float, dataset: str = "digits", accuracy: float = 0.5) -> RunRecord:
    options = {
        "optim": OptimSpec(lr=lr, warmup_epochs=0.5).identity(),
        "train": {"epochs": 5, "batch_size": 16, "precision": "fp32"},
    }
    return make_record(method=method, dataset=dataset, options=options, accuracy=accuracy)
