"""The leaderboard of a results folder, as an object that shows itself in a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd

from peftbench.boards.leaderboard import leaderboard as tables_of
from peftbench.boards.narrow import narrowed
from peftbench.boards.render import frame, to_markdown
from peftbench.boards.table import Table
from peftbench.boards.texts import headers, notes, texts
from peftbench.foundation.errors import MissingInput
from peftbench.records.index import read_rows, say_skipped
from peftbench.records.store import Store


@dataclass(frozen=True)
class Board:
    """Leaderboard tables. A notebook shows them; `frame` has the numbers, `tables` everything behind them."""

    tables: tuple[Table, ...]

    @property
    def frame(self) -> pd.DataFrame:
        """One row per method and table with unrounded numbers; accuracies in percent."""
        return pd.concat([frame(table) for table in self.tables], ignore_index=True)

    def __str__(self) -> str:
        return "\n".join(to_markdown(table) for table in self.tables)

    def _repr_html_(self) -> str:
        return "".join(_html(table) for table in self.tables)


def leaderboard(
    results: Path | str = "results",
    *,
    backbone: str | None = None,
    method: str | None = None,
    dataset: str | None = None,
    protocol: str | None = None,
) -> Board:
    """The tables of `python -m peftbench leaderboard`, narrowed to equal labels where they are given.

    A file that is no record is left out and named on stderr, as the command does.
    Raises `MissingInput` where there is nothing to show, `ConfigError` for a label that no record has.
    """
    asked = {"backbone": backbone, "method": method, "dataset": dataset, "protocol": protocol}
    chosen = {column: [label] for column, label in asked.items() if label is not None}
    tables = measured(narrowed(rows_of(results), chosen))
    if not tables:
        raise MissingInput(f"no record under {Path(results) / 'records'} has a test score; run a cell first")
    return Board(tuple(tables))


def measured(rows: pd.DataFrame, split: str = "test") -> list[Table]:
    """The tables of rows of `collect`, in which those that were not trained as the shipped files say are marked.

    split: `test`, or `val` for validation scores alone.
    """
    from peftbench.config.left_out import completed  # reads the options of parts
    from peftbench.config.shipped import shipped_options  # reads all yaml files

    rows = rows.assign(**{name: rows[name].map(completed(rows[name])) for name in ("setting", "data")})
    return tables_of(rows, shipped_options(), split)


def rows_of(results: Path | str) -> pd.DataFrame:
    """The rows of all records of a results folder, by this process alone; a line on stderr for what is no record."""
    rows, skipped = read_rows(Store(Path(results)), use_index=False)
    say_skipped(skipped)
    return rows


def _html(table: Table) -> str:
    names = headers(table)
    head = "".join(f"<th>{escape(name)}</th>" for name in ["method", *names])
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in texts(table, names)
    )
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes(table))
    return (
        f"<h4>{escape(table.title)}</h4><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        f"<ul>{listed}</ul>"
    )
