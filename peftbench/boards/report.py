"""The leaderboard as one HTML file that works from disk: tables, plots, and the record behind each number."""

from __future__ import annotations

import base64
import gzip
import importlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftbench.boards.pareto import AXES, front, points
from peftbench.boards.render import document
from peftbench.boards.table import Row, Table
from peftbench.boards.texts import (
    EMPTY,
    LEGEND,
    RANK,
    SEEDS,
    VERDICT,
    all_rows,
    column_headers,
    cost_headers,
    label,
    mean_headers,
    notes,
    text,
)
from peftbench.foundation.errors import MissingInput
from peftbench.foundation.files import replace_text
from peftbench.records.packed import to_line
from peftbench.records.record import RunRecord

ASSETS = Path(__file__).resolve().parents[1] / "assets" / "report"
# More records than this would make the page slow to open; their numbers link to the files instead.
MOST_EMBEDDED = 5_000


def available() -> bool:
    """Whether the libraries of the extra `report` are installed."""
    try:
        _library("plotly.offline"), _library("itables.utils"), _library("jinja2")
    except MissingInput:
        return False
    return True


def write_report(
    path: Path, tables: Sequence[Table], records: Iterable[RunRecord], links: Mapping[str, str] | None = None
) -> Path:
    """Write the report to `path`, in one step.

    `records` are embedded, compressed; `links` give a relative path for those that are not. Raises `MissingInput` when
    the extra `report` is not installed.
    """
    jinja = _library("jinja2")
    bundle = _library("itables.utils").find_package_file("html/dt_bundle.js")
    environment = jinja.Environment(autoescape=True, undefined=jinja.StrictUndefined)
    template = environment.from_string((ASSETS / "report.html").read_text(encoding="utf-8"))
    html = template.render(
        legend=LEGEND,
        tables=[_view(table) for table in tables],
        data=_embedded([_plotted(table) for table in tables]),
        links=_embedded(dict(links or {})),
        records=_packed(records),
        plotly=_library("plotly.offline").get_plotlyjs(),
        datatables=base64.b64encode(bundle.read_bytes()).decode(),
        datatables_css=bundle.with_suffix(".css").read_text(encoding="utf-8"),
        css=(ASSETS / "report.css").read_text(encoding="utf-8"),
        scripts=[(ASSETS / name).read_text(encoding="utf-8") for name in ("plots.js", "report.js")],
    )
    replace_text(path, html)
    return path


def _view(table: Table) -> dict[str, Any]:
    """What the template shows of a table."""
    names = [*mean_headers(table), RANK, VERDICT, SEEDS, *cost_headers(table), *column_headers(table)]
    return {
        "title": table.title,
        "notes": notes(table),
        "headers": names,
        "verdicts": sorted({text(table, row, VERDICT) for row in all_rows(table)} - {EMPTY}),
        "rows": [
            {
                "label": label(row),
                "kind": "published" if row.sources else "complete" if row.complete else "incomplete",
                "cells": [
                    {
                        "text": text(table, row, name),
                        "order": _order(table, row, name),
                        "records": " ".join(_behind(table, row, name)),
                    }
                    for name in names
                ],
            }
            for row in all_rows(table)
        ],
    }


def _order(table: Table, row: Row, header: str) -> float | str:
    """What a column is sorted by; what is unknown sorts as lowest."""
    if header == VERDICT:
        return text(table, row, header)
    words = text(table, row, header).split()
    try:
        return float(words[0])
    except ValueError:
        return -1.0


def _behind(table: Table, row: Row, header: str) -> list[str]:
    """Fingerprints of the records that a number was made from."""
    if header in row.cells:
        return list(row.records.get(header, ()))
    if header in mean_headers(table) and text(table, row, header) != EMPTY:
        group = header.removesuffix(" mean")
        chosen = [c.name for c in table.columns if group not in table.groups or c.group == group]
        return [fingerprint for name in chosen for fingerprint in row.records.get(name, ())]
    return []


def _plotted(table: Table) -> dict[str, Any]:
    """The table's plain values with what the plots need besides."""
    scatter = {}
    for axis, title in AXES.items():
        found = points(table, axis)
        on_front = set(front([(value, accuracy) for _, value, accuracy in found]))
        scatter[axis] = {
            "title": title,
            "points": [
                {
                    "method": row.method,
                    "cost": value,
                    "accuracy": accuracy,
                    "interval": _percent(row.mean_of_groups.interval if row.mean_of_groups else None),
                    "front": index in on_front,
                }
                for index, (row, value, accuracy) in enumerate(found)
            ],
        }
    overall = "mean of groups" if len(table.groups) > 1 else "mean accuracy"
    return {**document(table), "scatter": scatter, "overall": overall}


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def _embedded(value: Any) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def _packed(records: Iterable[RunRecord]) -> str:
    lines = sorted(to_line(record) for record in records)
    return base64.b64encode(gzip.compress(b"".join(lines), mtime=0)).decode()


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingInput(f"the HTML report needs {error.name}; pip install 'peftbench[report]'") from None
