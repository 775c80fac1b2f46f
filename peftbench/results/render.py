"""Tables -> CSV, Markdown and the terminal. The only place where numbers of the leaderboard are rounded."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from peftbench.results.files import replace_text
from peftbench.results.leaderboard import Row, Score, Table

EMPTY = "—"
MARK = " †"

LEGEND = (
    "Accuracy in percent on the test split, mean ± sample standard deviation over seeds (no ± for one seed). "
    "params: trainable parameters of the method, without the head; head: those of the head. memory: weights, "
    "gradients, optimizer state and saved activations of one training step, counted. mean of groups: mean of the "
    "group means; flat mean: mean of all data sets; never compare one with the other. PPT: flat mean as a fraction, "
    f"times exp(-log10(params / 10 M + 1)). {EMPTY}: no record, hence no means. "
    f"{MARK.strip()}: not as in the paper, see the notes."
)


def frame(table: Table) -> pd.DataFrame:
    """One row per method with unrounded numbers: accuracies in percent as `<column>_mean`, `_std` and `_n`."""
    # object columns keep whole numbers whole beside empty cells
    return pd.DataFrame([_numbers(table, row) for row in table.rows], dtype=object)


def to_csv(table: Table) -> str:
    """The table as CSV with unrounded numbers (see `frame`); what is unknown or does not exist is empty."""
    return frame(table).to_csv(index=False, lineterminator="\n")


def to_markdown(table: Table) -> str:
    """The table as Markdown for readers: rounded, under a heading, with its notes below."""
    headers, rows = _texts(table, [*_costs(table), *_column_names(table), *_means(table), "seeds"])
    cells = pd.DataFrame([[text.replace("|", "\\|") for text in row] for row in rows])
    body = cells.to_markdown(
        index=False,
        headers=[header.replace("|", "\\|") for header in headers],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left", *["right"] * (len(headers) - 1)],
    )
    notes = "".join(f"\n- {note}" for note in [*table.notes, *_remarks(table)])
    return f"## {table.title}\n\n{body}\n" + (f"{notes}\n" if notes else "")


def show(table: Table, console: Console) -> None:
    """Print the table: means and costs first, then data sets, in as many pieces below each other as the width needs."""
    console.print(Text(table.title, style="bold"))
    piece: list[str] = []
    for block in ([*_means(table), "seeds"], _costs(table), *([name] for name in _column_names(table))):
        if piece and not _fits(_rich(table, [*piece, *block]), console):
            console.print(_rich(table, piece))
            piece = []
        piece += block
    console.print(_rich(table, piece))
    for note in [*table.notes, *_remarks(table)]:
        console.print(Text(f"  {note}", style="dim"))
    console.print()


def write(tables: Sequence[Table], folder: Path) -> tuple[Path, Path]:
    """Write leaderboard.csv and leaderboard.md, each in one step; raises `RecordError` when the disk refuses."""
    csv, markdown = folder / "leaderboard.csv", folder / "leaderboard.md"
    text = io.StringIO()
    if tables:
        pd.concat([frame(table) for table in tables]).to_csv(text, index=False, lineterminator="\n")
    replace_text(csv, text.getvalue())
    replace_text(markdown, "\n".join(["# Leaderboard\n", f"{LEGEND}\n", *map(to_markdown, tables)]))
    return csv, markdown


def _remarks(table: Table) -> list[str]:
    """One footnote for each remark, with the rows it belongs to."""
    methods: dict[str, list[str]] = {}
    for row in sorted(table.rows, key=lambda row: row.method):
        if row.remark:
            methods.setdefault(row.remark, []).append(row.method)
    return [f"{MARK.strip()} {', '.join(names)}: {remark}" for remark, names in methods.items()]


def _numbers(table: Table, row: Row) -> dict[str, Any]:
    low, high = row.num_seeds
    values: dict[str, Any] = {
        "backbone": table.backbone,
        "protocol": table.protocol,
        "hyperparameters": table.hyperparameters,
        "method": row.method,
        "remark": row.remark,
        "complete": row.complete,
        "num_seeds_min": low,
        "num_seeds_max": high,
        "params_method": row.params_method,
        "params_head": row.params_head,
        "memory_bytes": row.memory_bytes,
        "train_images_per_second": row.train_images_per_second,
        "eval_images_per_second": row.eval_images_per_second,
        "device": row.device,
        "ppt": row.ppt,
    }
    scores: dict[str, Score | None] = {"mean_of_groups": row.mean_of_groups, "flat": row.flat_mean}
    scores |= {f"{group}_group": row.group_means.get(group) for group in table.groups}
    scores |= {column.name: row.cells.get(column.name) for column in table.columns}
    for name, score in scores.items():
        values[f"{name}_mean"] = None if score is None else 100 * score.mean
        values[f"{name}_std"] = None if score is None or score.std is None else 100 * score.std
        values[f"{name}_n"] = None if score is None else score.n
    return values


def _costs(table: Table) -> list[str]:
    """Cost headers; the device is shown where a table has more than one."""
    several = len({row.device for row in table.rows}) > 1
    return ["params (M)", "head (M)", "memory (MB)", "train img/s", "eval img/s", *(["device"] if several else [])]


def _column_names(table: Table) -> list[str]:
    return [column.name for column in table.columns]


def _means(table: Table) -> list[str]:
    """Headers of the means; with a single group its mean, the mean of groups and the flat mean are one number."""
    groups = [*(f"{group} mean" for group in table.groups), "mean of groups"] if len(table.groups) > 1 else []
    return [*groups, "flat mean", "PPT"]


def _texts(table: Table, headers: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Rounded text of the chosen columns behind the method, row by row."""
    names = [row.method + (MARK if row.remark else "") for row in table.rows]
    rows = [[name, *(_text(row, header) for header in headers)] for name, row in zip(names, table.rows, strict=True)]
    return ["method", *headers], rows


def _text(row: Row, header: str) -> str:
    if header in row.cells:
        score = row.cells[header]
        return _percent(score, 1) + (f" (n={score.n})" if score.n < row.num_seeds[1] else "")
    group = header.removesuffix(" mean")
    if header != group and group in row.group_means:
        return _percent(row.group_means[group], 1)
    low, high = row.num_seeds
    known = {
        "params (M)": _number(row.params_method, 1e6, 3),
        "head (M)": _number(row.params_head, 1e6, 3),
        "memory (MB)": _number(row.memory_bytes, 1e6, 0),
        "train img/s": _number(row.train_images_per_second, 1, 0),
        "eval img/s": _number(row.eval_images_per_second, 1, 0),
        "device": row.device,
        "mean of groups": _percent(row.mean_of_groups, 2),
        "flat mean": _percent(row.flat_mean, 2),
        "PPT": _number(row.ppt, 1, 2),
        "seeds": str(low) if low == high else f"{low} to {high}",
    }
    return known.get(header, EMPTY)


def _percent(score: Score | None, decimals: int) -> str:
    if score is None:
        return EMPTY
    mean = f"{100 * score.mean:.{decimals}f}"
    return mean if score.std is None else f"{mean} ± {100 * score.std:.{decimals}f}"


def _number(value: float | None, unit: float, decimals: int) -> str:
    return EMPTY if value is None else f"{value / unit:.{decimals}f}"


def _rich(table: Table, headers: Sequence[str]) -> RichTable:
    names, rows = _texts(table, headers)
    result = RichTable(box=SIMPLE_HEAD, header_style="bold", padding=(0, 1))
    result.add_column("method", max_width=36, overflow="fold")
    for name in names[1:]:
        result.add_column(_short_header(table, name), justify="right")
    for row, texts in zip(table.rows, rows, strict=True):
        result.add_row(*map(Text, texts), style="" if row.complete else "dim")
    return result


def _short_header(table: Table, name: str) -> Text:
    """One word per line, and `vtab/dtd` as `dtd` where all columns come from one family: columns stay narrow."""
    families = {column.dataset.rpartition("/")[0] for column in table.columns}
    if len(families) == 1 and name in _column_names(table):
        name = name.removeprefix(f"{families.pop()}/")
    return Text(name.replace(" ", "\n"), justify="right")


def _fits(table: RichTable, console: Console) -> bool:
    return Measurement.get(console, console.options.update(width=10_000), table).maximum <= console.width
