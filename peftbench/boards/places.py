"""What a leaderboard may write over: files that it wrote itself, with this version or another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from peftbench.boards.table import Table
from peftbench.foundation.errors import ConfigError
from peftbench.foundation.files import check_writable
from peftbench.foundation.overwriting import begins_with, columns_of, refuse_other

TABLES, RELIABILITY = "leaderboard", "reliability"
REPORT, PAGE = "leaderboard.html", "index.html"
# the endings of each set of tables
FORMATS, RELIABILITY_FORMATS = ("csv", "json", "md", "tex"), ("csv", "json", "md")

# words of the legends, near the start of all forms but CSV, and columns of the CSV: those of every version so far
_WORDS = {
    TABLES: "mean ± sample standard deviation over seeds",
    RELIABILITY: "stratified bootstrap draws over seeds (Agarwal et al.",
}
_COLUMNS = {
    TABLES: {"backbone", "protocol", "method", "complete", "num_seeds_min", "num_seeds_max"},
    RELIABILITY: {"table", "method", "iqm", "iqm_low", "iqm_high", "reference"},
}
# of assets/report/report.html
_TITLE = "<title>peftbench leaderboard</title>"


def check_tables(folder: Path, option: str = "--out") -> None:
    """What is refused of a folder for leaderboard.csv, .json, .md and .tex, ahead of the work.

    `option` names the folder on the command line. Raises `ConfigError` where one would take the place of a file of
    others, `RecordError` where it cannot be written. What is there stays as it is.
    """
    _check_forms(folder, TABLES, FORMATS, option)


def check_reliability(folder: Path) -> None:
    """The same of reliability.csv, .json and .md. Raises as `check_tables`."""
    _check_forms(folder, RELIABILITY, RELIABILITY_FORMATS, "--out")


def check_report(folder: Path) -> None:
    """The same of the page in one file. Raises as `check_tables`."""
    _check_page(folder / REPORT, "--out")


def check_site(folder: Path, tables: Sequence[Table], records: Path) -> None:
    """The same of a site of these tables. `records`: the folder of those that are read, where none may be written.

    Records and pictures of a site say nothing of who wrote them, the page beside them does. Raises as `check_tables`.
    """
    if (folder / "records").resolve().is_relative_to(records.resolve()):
        raise ConfigError([f"--site {folder} would write among the records that are read; name another folder"])
    page = folder / PAGE
    _check_page(page, "--site")
    own = page.is_file() and _is_page(page)
    for name in _beside_a_page(tables):
        _check(folder / name, "site with its page beside it, by which one is known,", lambda _: own, "--site")
    check_tables(folder, "--site")


def part_name(number: int, index: int) -> str:
    """What the records behind a column are called, by the positions of table and column."""
    return f"{number}-{index}"


def part_file(part: str) -> str:
    """Where a site keeps the records of a part."""
    return f"records/{part}.jsonl.gz"


def picture_file(fingerprint: str) -> str:
    """Where a site keeps the picture of a record."""
    return f"pictures/{fingerprint}.png"


def _beside_a_page(tables: Sequence[Table]) -> Iterable[str]:
    """What a site of these tables may hold beside its page and the tables, from its folder."""
    for number, table in enumerate(tables):
        yield from (part_file(part_name(number, index)) for index in range(len(table.columns)))
    yield from map(picture_file, sorted({name for table in tables for name in table.fingerprints}))


def _check_forms(folder: Path, name: str, formats: Sequence[str], option: str) -> None:
    def is_own(path: Path) -> bool:
        return columns <= set(columns_of(path)) if path.suffix == ".csv" else begins_with(path, _WORDS[name])

    columns = _COLUMNS[name]
    for ending in formats:
        _check(folder / f"{name}.{ending}", f"table of a {name}", is_own, option)


def _check_page(path: Path, option: str) -> None:
    _check(path, "page of a leaderboard", _is_page, option)


def _is_page(path: Path) -> bool:
    return begins_with(path, _TITLE)


def _check(path: Path, kind: str, is_own: Callable[[Path], bool], option: str) -> None:
    refuse_other(path, kind, is_own, instead=f"name another folder with {option}")
    check_writable(path)
