"""Which data sets of a table its means, ranks and verdicts are over, and the words for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from peftbench.boards.table import Column, Row


def shared_columns(rows: Sequence[set[str]], columns: Sequence[Column]) -> list[Column]:
    """The columns that means and ranks are taken over, so that one row with a data set of its own changes no other's.

    `rows` are the names of each row's columns. Of the sets of columns that rows have in common, the one with the most
    cells: columns times rows that have them all. Equal ones: the one with more columns, then the first by name.
    """
    distinct = {frozenset(row) for row in rows}
    candidates = distinct | {first & second for first in distinct for second in distinct}
    sizes = {names: (len(names) * sum(names <= row for row in rows), len(names)) for names in candidates if names}
    most = max(sizes.values())
    chosen = min(sorted(names) for names, size in sizes.items() if size == most)
    return [column for column in columns if column.name in chosen]


def repeated_columns(seeds: Sequence[Mapping[str, int]], shared: Sequence[Column]) -> list[Column]:
    """Those of the shared columns that have as many seeds as more than half of them have, or more: fewer seeds of a new
    data set would take the spread over seeds, and with it every verdict, from all rows.

    `seeds` says of each row how many seeds each of its columns has; a column counts as most rows have it.
    """
    usual = {
        column.name: Counter(row[column.name] for row in seeds if column.name in row).most_common(1)[0][0]
        for column in shared
    }
    counts = sorted(usual.values())
    most_have = counts[(len(counts) - 1) // 2]
    return [column for column in shared if usual[column.name] >= most_have]


def on_sharing(columns: Sequence[Column], shared: Sequence[Column], rows: Sequence[Row]) -> Iterable[str]:
    """Over what the means are, wherever that is not simply everything."""
    complete = sum(row.complete for row in rows)
    fewest = min((row.cells[column.name].n for row in rows for column in shared if column.name in row.cells), default=0)
    others = [_with_seeds(column.name, rows, fewest) for column in columns if column not in shared]
    if others:
        named = ", ".join(column.name for column in shared) if len(shared) <= 6 else f"{len(shared)} data sets"
        beside = ", ".join(others) if len(others) <= 6 else f"{len(others)} data sets"
        yield f"means and ranks are over {named}, which {complete} of {len(rows)} rows share; not in them: {beside}"
    if complete < len(rows):
        yield f"without means, for lack of a shared data set: {len(rows) - complete} of {len(rows)} rows"


def _with_seeds(name: str, rows: Sequence[Row], fewest: int) -> str:
    """A data set that no row has repeated as often as the shared ones is said to have fewer seeds."""
    fewer = all(row.cells[name].n < fewest for row in rows if name in row.cells)
    return f"{name} (fewer seeds)" if fewer else name
