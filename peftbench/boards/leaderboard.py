"""Rows -> leaderboard tables. A pure function: no clock, no disk, the same tables for any order of the rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from peftbench.boards.comparison import compare
from peftbench.boards.dense import Singles, single_tasks
from peftbench.boards.grouping import Key, by_table
from peftbench.boards.notes import notes_on
from peftbench.boards.recipe import Shipped, recipe, suite
from peftbench.boards.rows import Cells, row_key, row_of
from peftbench.boards.sharing import repeated_columns, shared_columns
from peftbench.boards.shots import by_shots
from peftbench.boards.table import Column, Table
from peftbench.boards.variants import column_names, extend_label, split_settings
from peftbench.records.collect import CLASSIFICATION

# VTAB's order; any other group follows by name.
_GROUP_ORDER = ("natural", "specialized", "structured")

# The columns of `collect` that a table is made of.
_USED = (
    "fingerprint",
    "repetition_group",
    "setting",
    "task",
    "metric",
    "better",
    "unit",
    "backbone",
    "protocol",
    "hyperparameters",
    "replaced",
    "method",
    "remark",
    "dataset",
    "group",
    "data",
    "membership",
    "test_images",
    "seed",
    "score",
    "others",
    "params_method",
    "params_head",
    "memory_bytes",
    "memory_batch_size",
    "train_flops_per_image",
    "forward_flops_per_image",
    "train_images_per_second",
    "eval_images_per_second",
    "device",
    "order_gap",
    "top5_accuracy",
    "command",
    "steps",
)


def leaderboard(rows: pd.DataFrame, shipped: Shipped | None = None, split: str = "test") -> list[Table]:
    """Tables from the rows of `collect`: one for each task with its metric, backbone, protocol with training recipe,
    and choice of hyperparameters (defaults, a published preset, tuned with a budget).

    Where one label stands for several weights, protocols or recipes (`train.*`), each has a table that names what
    differs. Rows without a test score (trials that only choose hyperparameters) are left out: a validation score
    is no result. With `split="val"` the tables hold validation scores and nothing else. Means and ranks are over the
    data sets that the rows share (`shared_columns`). Methods are sorted by mean of groups, best first; incomplete rows
    last; equal ones by name. `shipped` (what the yaml files set) marks the rows that were trained otherwise.
    """
    if split == "val":
        rows = rows.assign(score=rows["val_score"], others=None)
    scored = rows[rows["score"].notna()].drop_duplicates("fingerprint").sort_values("fingerprint")
    columns = [scored[name].tolist() for name in _USED]
    records = [dict(zip(_USED, values, strict=True)) for values in zip(*columns, strict=True)]
    grouped = by_table(records)
    singles = single_tasks(record for record in records if record["others"])
    tables = [_table(key, grouped[key], shipped or {}, split, singles) for key in sorted(grouped)]
    return [*tables, *by_shots(tables)]


def _table(
    key: Key,
    records: Sequence[dict[str, Any]],
    shipped: Shipped,
    split: str,
    singles: Singles,
) -> Table:
    names = column_names(records)
    by_row = _by_row(records, names)
    columns = sorted(_columns(records, names), key=_column_key)
    shared = shared_columns([set(cells) for cells in by_row.values()], columns)
    shared = repeated_columns([{name: len(cell) for name, cell in cells.items()} for cells in by_row.values()], shared)
    metric = key.judged.as_metric
    found = (row_of(method, cells, columns, shared, shipped, metric, singles) for method, cells in by_row.items())
    rows = sorted(found, key=lambda row: row_key(row, metric))
    words, short = recipe(records)
    return Table(
        key.backbone,
        key.protocol,
        key.hyperparameters,
        tuple(columns),
        tuple(rows),
        tuple(notes_on(records, columns, shared, rows, metric, shipped, singles)),
        compare(rows, shared, metric),
        task="" if key.judged.task == CLASSIFICATION else key.judged.task,
        metric=metric,
        shared=tuple(shared),
        suite=suite(columns),
        recipe=words,
        short=short,
        split=split,
        shots=json.loads(records[0]["setting"]).get("protocol", {}).get("shots"),
        family=key.family,
    )


def _by_row(records: Sequence[dict[str, Any]], names: Mapping[tuple[str, str], str]) -> dict[str, Cells]:
    """Label of a row -> its cells: a method, and one row more for every setting that would meet another in a cell."""
    of_method: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for record in records:
        of_method.setdefault(record["method"], []).append((names[record["data"], record["dataset"]], record))
    rows: dict[str, Cells] = {}
    for method in sorted(of_method):
        for label, cells in split_settings(method, of_method[method]).items():
            # a method may already carry the very label that a split produces
            unique = label if label not in rows else extend_label(label, "another setting")
            rows[unique] = cells
    return rows


def _columns(records: Iterable[Mapping[str, Any]], names: Mapping[tuple[str, str], str]) -> list[Column]:
    columns = {}
    for record in records:
        key = record["data"], record["dataset"]
        if key not in columns:
            columns[key] = Column(
                names[key], record["dataset"], record["group"], record["membership"], record["test_images"]
            )
    return list(columns.values())


def _column_key(column: Column) -> tuple[int, str, str]:
    known = _GROUP_ORDER.index(column.group) if column.group in _GROUP_ORDER else len(_GROUP_ORDER)
    return known, column.group, column.name
