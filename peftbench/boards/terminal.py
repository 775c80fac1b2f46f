"""Tables on the terminal, in as many pieces below each other as its width needs."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from peftbench.boards.table import Table
from peftbench.boards.texts import (
    EMPTY,
    RANK,
    SEEDS,
    VERDICT,
    all_rows,
    beside_headers,
    column_headers,
    cost_headers,
    mean_headers,
    notes,
    text,
    texts,
)


def show(table: Table, console: Console) -> None:
    """Print the table: means and verdict first, then costs and data sets; no piece is wider than the console.

    Means and standings that no row has are left out.
    """
    console.print(Text(table.title, style="bold"))
    piece: list[str] = []
    compared = [RANK, VERDICT] if table.comparison.methods else []
    means = [name for name in mean_headers(table) if any(text(table, row, name) != EMPTY for row in all_rows(table))]
    first = [*means, *beside_headers(table), *compared, SEEDS]
    for header in [*first, *cost_headers(table), *column_headers(table)]:
        if piece and not _fits(_rich(table, [*piece, header]), console):
            console.print(_rich(table, piece))
            piece = []
        piece.append(header)
    console.print(_rich(table, piece))
    for note in notes(table):
        console.print(Text(f"  {note}", style="dim"))
    console.print()


def _rich(table: Table, chosen: Sequence[str]) -> RichTable:
    result = RichTable(box=SIMPLE_HEAD, header_style="bold", padding=(0, 1))
    result.add_column("method", max_width=36, overflow="fold")
    for name in chosen:
        result.add_column(_short_header(table, name), justify="right")
    for index, (row, cells) in enumerate(zip(all_rows(table), texts(table, chosen), strict=True)):
        style = "italic" if row.sources else "" if row.complete else "dim"
        result.add_row(*map(Text, cells), style=style, end_section=index == len(table.rows) - 1)
    return result


def _short_header(table: Table, name: str) -> Text:
    """One word per line, and `vtab/dtd` as `dtd` where all columns come from one family: columns stay narrow."""
    families = {column.dataset.rpartition("/")[0] for column in table.columns}
    if len(families) == 1 and name in column_headers(table):
        name = name.removeprefix(f"{families.pop()}/")
    return Text(name.replace(" ", "\n"), justify="right")


def _fits(table: RichTable, console: Console) -> bool:
    return Measurement.get(console, console.options.update(width=10_000), table).maximum <= console.width
