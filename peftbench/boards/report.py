"""The leaderboard as a page: one HTML file that works from disk, or a folder for static hosting."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftbench.boards.costs import AXES
from peftbench.boards.page import page_tables
from peftbench.boards.places import PAGE, part_file, part_name, picture_file
from peftbench.boards.render import write
from peftbench.boards.table import Table
from peftbench.boards.texts import LEGEND
from peftbench.foundation.files import replace_bytes, replace_text
from peftbench.records.packed import to_line
from peftbench.records.record import RunRecord

ASSETS = Path(__file__).resolve().parents[1] / "assets" / "report"
SCRIPTS = ("base.js", "records.js", "plots.js", "chooser.js", "grid.js", "views.js", "page.js")
# More records than this would make one file slow to open; their numbers link to the files instead.
MOST_EMBEDDED = 5_000


def write_report(
    path: Path,
    tables: Sequence[Table],
    records: Iterable[RunRecord],
    families: Mapping[str, str],
    links: Mapping[str, str] | None = None,
    strips: Mapping[str, str] | None = None,
    pictures: Mapping[str, bytes] | None = None,
) -> Path:
    """Write the page to `path`, in one step.

    `families` says of each method by name what kind it is. `records` are embedded, compressed, and unpacked when a
    reader asks for one; `links` give a relative path for those that are not. `strips`: data set -> a picture of its
    clips as a data URL, shown beside their records. `pictures` are PNG files of some records, by fingerprint, which are
    embedded as well.
    """
    shown = {
        name: f"data:image/png;base64,{base64.b64encode(data).decode()}" for name, data in (pictures or {}).items()
    }
    parts = {
        name: f'<script type="text/plain" id="records-{name}">{base64.b64encode(packed).decode()}</script>'
        for name, packed in _parts(tables, records).items()
    }
    body = "\n".join(parts.values())
    replace_text(path, _page(tables, families, body, links or {}, False, strips or {}, shown))
    return path


def write_site(
    folder: Path,
    tables: Sequence[Table],
    records: Iterable[RunRecord],
    families: Mapping[str, str],
    strips: Mapping[str, str] | None = None,
    pictures: Mapping[str, bytes] | None = None,
) -> list[Path]:
    """Write the page as `folder`/index.html for static hosting, and return what was written.

    The records lie beside it, one compressed file for each data set of each table, fetched when a reader asks for one;
    so do the tables as CSV, JSON, Markdown and LaTeX, and the `pictures` of records.
    """
    paths = [folder / PAGE, folder / ".nojekyll"]
    shown = {name: picture_file(name) for name in pictures or {}}
    replace_text(paths[0], _page(tables, families, "", {}, True, strips or {}, shown))
    for name, data in (pictures or {}).items():
        paths.append(folder / shown[name])
        replace_bytes(paths[-1], data)
    if not paths[1].is_file():
        # one that is there says the same, whatever is in it
        replace_text(paths[1], "")
    for name, packed in _parts(tables, records).items():
        paths.append(folder / part_file(name))
        replace_bytes(paths[-1], packed)
    return [*paths, *write(tables, folder)]


def _page(
    tables: Sequence[Table],
    families: Mapping[str, str],
    records: str,
    links: Mapping[str, str],
    files: bool,
    strips: Mapping[str, str],
    pictures: Mapping[str, str],
) -> str:
    content = {
        "legend": LEGEND,
        "axes": AXES,
        "tables": page_tables(tables, families),
        "links": dict(links),
        "pictures": dict(pictures),
        "files": files,
        "strips": dict(strips),
    }
    filled = {
        "css": (ASSETS / "report.css").read_text(encoding="utf-8"),
        "data": _embedded(content),
        "records": records,
        "script": "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS),
    }
    template = (ASSETS / "report.html").read_text(encoding="utf-8")
    # in one pass: nothing inside a value is taken for a place
    return re.sub(r"\{\{ (\w+) \}\}", lambda place: filled[place[1]], template)


def _embedded(value: Any) -> str:
    """JSON that may stand inside a script element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _without_test(record: RunRecord) -> RunRecord:
    """What a page of validation scores may hold of a record: nothing that was measured on the test split."""
    return dataclasses.replace(record, metrics={**record.metrics, "test": None}, predictions=None)


def _parts(tables: Sequence[Table], records: Iterable[RunRecord]) -> dict[str, bytes]:
    """`<table>-<data set>`, by position -> the records behind that column, as compressed lines."""
    untested = any(table.split == "val" for table in tables)
    lines = {record.fingerprint: to_line(_without_test(record) if untested else record) for record in records}
    parts = {}
    for number, table in enumerate(tables):
        for index, column in enumerate(table.columns):
            used = {name for row in table.rows for name in row.records.get(column.name, ()) if name in lines}
            if used:
                packed = b"".join(lines[name] for name in sorted(used))
                parts[part_name(number, index)] = gzip.compress(packed, mtime=0)
    return parts
