"""What the page of a leaderboard shows of its tables, as plain values: texts, what sorts them, costs and records."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from peftbench.boards.costs import AXES, cost
from peftbench.boards.dense import of_classes
from peftbench.boards.shots import GROUP as SHOTS
from peftbench.boards.table import Row, Score, Table
from peftbench.boards.texts import (
    EMPTY,
    RANK,
    SEEDS,
    VERDICT,
    all_rows,
    beside_headers,
    column_headers,
    cost_headers,
    label,
    mean_headers,
    notes,
    text,
)
from peftbench.foundation.metric import FRACTION, HIGHER


def page_tables(tables: Sequence[Table], families: Mapping[str, str]) -> list[dict[str, Any]]:
    """One plain value for each table; `families` says of each method what kind it is, "other" where it does not."""
    return [_table(table, families) for table in tables]


def _table(table: Table, families: Mapping[str, str]) -> dict[str, Any]:
    columns = _columns(table)
    comparison = table.comparison
    return {
        "title": table.title,
        "split": table.split,
        "overall": "mean of groups" if len(table.groups) > 1 else "flat mean",
        # what a score is multiplied with to be read, its unit, and -1 where less is better
        "scale": table.metric.scale,
        "finer": table.metric.finer,
        "unit": " %" if table.metric.unit == FRACTION else f" {table.metric.unit}".rstrip(),
        "sign": 1 if table.metric.better == HIGHER else -1,
        "means": [name for name in mean_headers(table) if name != "PPT"],
        "notes": notes(table),
        "columns": columns,
        "tasks": [{"name": column["name"], "short": column["short"]} for column in columns if column["kind"] == "task"],
        "over_shots": table.groups == (SHOTS,),
        # of each class, in percent: what the rows' `classes` are
        "of_classes": of_classes(table.task)[1],
        "rows": [_row(table, row, [column["name"] for column in columns], families) for row in all_rows(table)],
        "comparison": {
            "methods": list(comparison.methods),
            "average_ranks": list(comparison.ranks),
            "nemenyi_critical_difference": comparison.critical_difference,
        },
    }


def _columns(table: Table) -> list[dict[str, Any]]:
    """Means first, then data sets, then what they cost; `tasks` are the data sets behind a number."""
    tasks = column_headers(table)
    families = {column.dataset.rpartition("/")[0] for column in table.columns}
    prefix = f"{families.pop()}/" if len(families) == 1 else ""
    kinds = [
        ("mean", mean_headers(table)),
        ("standing", [RANK, VERDICT, SEEDS]),
        ("task", tasks),
        ("beside", beside_headers(table)),
        ("cost", cost_headers(table)),
    ]
    return [
        {"name": name, "short": name.removeprefix(prefix), "kind": kind, "tasks": _behind(table, name)}
        for kind, names in kinds
        for name in names
    ]


def _behind(table: Table, header: str) -> list[str]:
    if header in column_headers(table):
        return [header]
    if header not in mean_headers(table):
        return []
    group = header.removesuffix(" mean")
    return [column.name for column in table.shared if group not in table.groups or column.group == group]


def _row(table: Table, row: Row, headers: Sequence[str], families: Mapping[str, str]) -> dict[str, Any]:
    scores = {**row.cells, **{f"{name} mean": score for name, score in row.group_means.items()}}
    scores |= {name: score for name, score in _overall(row) if score is not None}
    texts = [text(table, row, header) for header in headers]
    return {
        "label": label(row),
        "method": row.method,
        "family": families.get(re.split(r"[ (\[+]", row.method)[0], "other"),
        "kind": "published" if row.sources else "complete" if row.complete else "incomplete",
        "remark": row.remark,
        "verdict": "" if (verdict := text(table, row, VERDICT)) == EMPTY else verdict,
        "texts": texts,
        "orders": [_order(header, shown) for header, shown in zip(headers, texts, strict=True)],
        "scores": {name: _score(score, table.metric.scale) for name, score in scores.items()},
        "costs": {axis: cost(row, axis) for axis in AXES},
        "records": {name: list(fingerprints) for name, fingerprints in row.records.items()},
        "classes": dict(row.by_class),
    }


def _overall(row: Row) -> list[tuple[str, Score | None]]:
    return [("mean of groups", row.mean_of_groups), ("flat mean", row.flat_mean)]


def _score(score: Score, scale: int) -> dict[str, float | None]:
    interval = None if score.interval is None else scale * score.interval
    return {"mean": scale * score.mean, "ci95": interval}


def _order(header: str, shown: str) -> float | str | None:
    """What a column is sorted by; None, which stays last, where nothing is known."""
    if shown == EMPTY:
        return None
    try:
        return float(shown.split()[0])
    except ValueError:
        return shown
