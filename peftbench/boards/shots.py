"""Accuracy by the number of images a class: what several few-shot tables say together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from peftbench.boards.comparison import compare
from peftbench.boards.table import Column, Row, Score, Table

GROUP = "shots"


def by_shots(tables: Sequence[Table]) -> list[Table]:
    """One table for each family of few-shot tables that differ in the shots alone: methods by shots.

    A cell is a row's flat mean over the data sets that the tables share, which are the same in all of them.
    """
    families: dict[tuple[object, ...], dict[int, Table]] = {}
    for table in tables:
        if table.shots is not None:
            names = tuple(column.name for column in table.shared)
            key = (table.task, table.metric, table.backbone, _stem(table), table.choice, table.split, names)
            families.setdefault(key, {})[table.shots] = table
    return [_table(family) for family in families.values() if len(family) > 1]


def _stem(table: Table) -> str:
    """The protocol without its shots: `fewshot_coop_16` -> `fewshot_coop`."""
    return table.protocol.replace(f"_{table.shots}", "", 1)


def header(shots: int) -> str:
    return f"{shots} shot{'s' if shots > 1 else ''}"


def _table(family: dict[int, Table]) -> Table:
    shots = sorted(family)
    largest = family[shots[-1]]
    columns = tuple(Column(header(count), header(count), GROUP, "", "") for count in shots)
    found: dict[str, dict[str, Score]] = {}
    for count in shots:
        for row in family[count].rows:
            if row.flat_mean is not None:
                found.setdefault(row.method, {})[header(count)] = row.flat_mean
    rows = [_row(largest, method, cells, columns) for method, cells in found.items()]
    names = ", ".join(column.name for column in largest.shared)
    return dataclasses.replace(
        largest,
        protocol=f"{_stem(largest)} by shots",
        columns=columns,
        shared=columns,
        rows=tuple(sorted(rows, key=lambda row: (row.flat_mean is None, -_last(row, columns), row.method))),
        notes=(f"each number: mean over {names}; flat mean: over the shots",),
        comparison=compare((), columns),
        published=(),
        shots=None,
        recipe="",
        short=False,
    )


def _row(largest: Table, method: str, cells: dict[str, Score], columns: Sequence[Column]) -> Row:
    known = next((row for row in largest.rows if row.method == method), None)
    whole = len(cells) == len(columns)
    mean = Score(sum(cell.mean for cell in cells.values()) / len(cells), None, min(cell.n for cell in cells.values()))
    overall = mean if whole else None
    return Row(
        method=method,
        cells=cells,
        group_means={},
        mean_of_groups=overall,
        flat_mean=overall,
        ppt=None,
        params_method=known.params_method if known else None,
        remark=known.remark if known else "",
    )


def _last(row: Row, columns: Sequence[Column]) -> float:
    """The score with the most shots that a row has."""
    return next(row.cells[column.name].mean for column in reversed(columns) if column.name in row.cells)
