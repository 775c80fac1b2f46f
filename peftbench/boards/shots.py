"""Accuracy by the number of images a class: what several few-shot tables say together."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from peftbench.boards.comparison import compare
from peftbench.boards.halves import H
from peftbench.boards.table import Column, Row, Score, Table
from peftbench.boards.variants import distinct_names
from peftbench.foundation.identity import canonical

GROUP = "shots"


def family_names(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of each record its protocol without the shots, with what differs in the recipe where one has several; "" where
    the protocol draws no shots. Tables of one family differ in the shots alone."""
    bare = [_without_shots(record) for record in records]
    names = iter(distinct_names([record for record in bare if record], "protocol", ("protocol", "train")))
    return [next(names) if record else "" for record in bare]


def _without_shots(record: Mapping[str, Any]) -> dict[str, Any] | None:
    setting = json.loads(record["setting"])
    protocol = setting.get("protocol", {})
    if protocol.get("shots") is None:
        return None
    kept = {name: value for name, value in protocol.items() if name not in ("shots", "title")}
    stem = record["protocol"].replace(f"_{protocol['shots']}", "", 1)
    return {**record, "protocol": stem, "setting": canonical({**setting, "protocol": kept})}


def by_shots(tables: Sequence[Table]) -> list[Table]:
    """One table for each family of few-shot tables that differ in the shots alone: methods by shots.

    A cell is a row's mean over the data sets that the family's tables share. Tables without these are left out.
    """
    families: dict[tuple[object, ...], list[Table]] = {}
    for table in tables:
        if table.shots is not None:
            # the H of several data sets is no mean of theirs
            names = tuple(column.name for column in table.shared) if table.metric.name == H else ()
            key = (table.task, table.metric, table.backbone, table.family, table.hyperparameters, table.split, names)
            families.setdefault(key, []).append(table)
    return [_table(alike, names) for family in families.values() for alike, names in _alike(family)]


def _alike(family: Sequence[Table]) -> list[tuple[dict[int, Table], tuple[str, ...]]]:
    """The tables of a family by their shots that share the most cells, and the names of what they share; none where no
    two of them share a data set."""
    named = [frozenset(column.name for column in table.shared) for table in family]
    common = {first & second for place, first in enumerate(named) for second in named[place + 1 :]} - {frozenset()}
    if not common:
        return []
    chosen = min(common, key=lambda names: (-len(names) * sum(names <= other for other in named), sorted(names)))
    alike = {table.shots: table for table, names in zip(family, named, strict=True) if chosen <= names}
    return [({shots: alike[shots] for shots in sorted(s for s in alike if s)}, tuple(sorted(chosen)))]


def header(shots: int) -> str:
    return f"{shots} shot{'s' if shots > 1 else ''}"


def _table(family: Mapping[int, Table], names: Sequence[str]) -> Table:
    largest = family[max(family)]
    columns = tuple(Column(header(count), header(count), GROUP, "", "") for count in family)
    found: dict[str, dict[str, Score]] = {}
    for count, table in family.items():
        for row in table.rows:
            if (mean := _mean(row, table, names)) is not None:
                found.setdefault(row.method, {})[header(count)] = mean
    rows = [_row(family.values(), method, cells, columns) for method, cells in found.items()]
    return dataclasses.replace(
        largest,
        protocol=f"{largest.family} by shots",
        columns=columns,
        shared=columns,
        rows=tuple(sorted(rows, key=lambda row: (row.flat_mean is None, -_last(row, columns), row.method))),
        notes=(f"each number: mean over {', '.join(names)}; flat mean: over the shots",),
        comparison=compare((), columns),
        published=(),
        shots=None,
        recipe="",
        short=any(table.short for table in family.values()),
    )


def _mean(row: Row, table: Table, names: Sequence[str]) -> Score | None:
    """A row's mean over some of the data sets of its table; without a spread where these are several of more."""
    if len(names) == len(table.shared):
        return row.flat_mean
    cells = [row.cells[name] for name in names if name in row.cells]
    if len(cells) < len(names):
        return None
    if len(cells) == 1:
        return cells[0]
    return Score(sum(cell.mean for cell in cells) / len(cells), None, min(cell.n for cell in cells))


def _row(tables: Iterable[Table], method: str, cells: dict[str, Score], columns: Sequence[Column]) -> Row:
    known = [row for table in tables for row in table.rows if row.method == method]
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
        params_method=known[-1].params_method,
        remark=known[-1].remark,
        changed=known[-1].changed,
    )


def _last(row: Row, columns: Sequence[Column]) -> float:
    """The score with the most shots that a row has."""
    return next(row.cells[column.name].mean for column in reversed(columns) if column.name in row.cells)
