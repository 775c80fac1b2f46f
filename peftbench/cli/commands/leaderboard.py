"""`python -m peftbench leaderboard`: records -> tables on the terminal, as CSV, JSON, Markdown, LaTeX and HTML."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pandas as pd
from rich.console import Console

from peftbench.api.tables import measured
from peftbench.boards.narrow import narrowed
from peftbench.boards.places import REPORT, TABLES, check_reliability, check_report, check_site, check_tables
from peftbench.boards.published import alone, beside
from peftbench.boards.published_halves import halves_alone, halves_beside
from peftbench.boards.reliability_tables import reliability
from peftbench.boards.reliability_tables import write as write_reliability
from peftbench.boards.render import write
from peftbench.boards.report import MOST_EMBEDDED, write_report, write_site
from peftbench.boards.table import Table
from peftbench.boards.terminal import show
from peftbench.cli.arguments import Arguments, a_folder
from peftbench.cli.strips import GROUP, strips_of
from peftbench.foundation.errors import ConfigError, MissingInput, did_you_mean
from peftbench.foundation.terminal import table_width
from peftbench.records.index import read_reported
from peftbench.records.packed import OWN, PACKED
from peftbench.records.robustness import mean_scores
from peftbench.records.store import Store

# Columns of `collect` that an option of the same name narrows.
_FILTERS = ("backbone", "method", "dataset", "protocol", "membership")


def main(words: list[str]) -> int:
    """Exit code 0. Raises `MissingInput` when there is nothing to show."""
    _run(_parser().parse_args(words))
    return 0


def _parser() -> Arguments:
    parser = Arguments.of("leaderboard", __doc__)
    parser.add_argument(
        "--results", type=a_folder, default=Path("results"), help="folder that holds records/ (%(default)s)"
    )
    parser.add_argument(
        "--published",
        nargs="?",
        const="beside",
        choices=("beside", "all"),
        help="add published rows beside measured ones of the same backbone and data sets; all: also tables of "
        "published rows alone",
    )
    parser.add_argument(
        "--select",
        default="test",
        choices=("test", "val"),
        help="val: validation scores, to choose a method without reading the test split",
    )
    parser.add_argument(
        "--suite",
        nargs="+",
        metavar="PACK",
        help="only records of these packs; packed: of all packs; own: those that are in none",
    )
    parser.add_argument(
        "--reliability",
        action="store_true",
        help="also write reliability.md, .csv and .json: interquartile means and probabilities of improvement with "
        "bootstrap intervals, performance profiles, calibration, robustness",
    )
    parser.add_argument("--no-report", action="store_true", help="write no HTML report")
    parser.add_argument("--site", type=Path, metavar="DIR", help="also write the page as a static site for web hosting")
    parser.add_argument("--no-index", action="store_true", help="read every record again, keep no index of them")
    parser.add_argument("--out", type=a_folder, help="folder to write to (<results>/leaderboard, or published/ in it)")
    for name in _FILTERS:
        parser.add_argument(
            f"--{name}", nargs="+", metavar=name.upper(), help=f"only these; matches the {name} exactly"
        )
    return parser


def _run(arguments: argparse.Namespace) -> None:
    everything = read_reported(arguments.results, not arguments.no_index)
    chosen = {name: getattr(arguments, name) for name in _FILTERS if getattr(arguments, name)}
    suites = _suites(everything, Store(arguments.results))
    rows = narrowed(_of_suites(everything, suites, arguments.suite), chosen, "--")
    if arguments.published and arguments.select == "val":
        raise ConfigError(["--published: published figures are test scores; leave out --select val"])
    tables = measured(rows, arguments.select)
    if arguments.published:
        tables = halves_beside(beside(tables))
        tables += [*alone(), *halves_alone()] if arguments.published == "all" else []
    if not tables:
        raise MissingInput(
            _nothing_to_show(arguments.results / "records", len(everything), len(rows), arguments.select)
        )
    left = _left_to_packs(arguments, {suites[name] for name in rows["fingerprint"]})
    # a choice of the records does not take the place of all
    folder = arguments.out or (None if chosen else _folder(arguments, left))
    _check_places(arguments, folder, tables)
    console = Console(width=table_width())
    for table in tables:
        show(table, console)
    trials = int(rows["score"].isna().sum())
    if trials and arguments.select == "test":
        print(f"left out {trials} record{'s' if trials > 1 else ''} without a test score (they only choose settings)")
    if arguments.site:
        store = Store(arguments.results)
        records, strips = store.read(_used(tables)), _strips(tables, rows, store)
        written = write_site(arguments.site, tables, records, _families(), strips, _pictures(tables, store))
        print(f"wrote {written[0]} and {len(written) - 1} files beside it")
    if folder is None:
        print("not written, since it holds only a choice of the records; --out DIR writes it there")
        return
    if left and arguments.out is None:
        print(f"{arguments.results / TABLES} is left to the packed suites (--suite packed writes it)")
    for path in write(tables, folder):
        print(f"wrote {path}")
    if arguments.reliability:
        found = reliability(tables, rows, mean_scores(arguments.results))
        for path in write_reliability(found, folder):
            print(f"wrote {path}")
    if not arguments.no_report:
        print(f"wrote {_report(folder, tables, rows, Store(arguments.results))}")


def _check_places(arguments: argparse.Namespace, folder: Path | None, tables: list[Table]) -> None:
    """Refuses what stands in the way of any file that is to be written, ahead of the first."""
    if arguments.site:
        check_site(arguments.site, tables, Store(arguments.results).records_folder)
    if folder is None:
        return
    check_tables(folder)
    if arguments.reliability:
        check_reliability(folder)
    if not arguments.no_report:
        check_report(folder)


def _left_to_packs(arguments: argparse.Namespace, suites: set[str]) -> bool:
    """Whether packed suites have the folder of tables to themselves, so that no own cell changes it."""
    return OWN in suites and (len(suites) > 1 or bool(arguments.suite))


def _folder(arguments: argparse.Namespace, left: bool) -> Path:
    """Where tables go that no option places; `left`: the usual folder is left to packed suites."""
    own = arguments.results / "work" / TABLES
    if arguments.select == "val":
        return own / "val"
    base = own if left else arguments.results / TABLES
    return base / "published" if arguments.published else base


def _suites(rows: pd.DataFrame, store: Store) -> dict[str, str]:
    """Fingerprint -> the name of the pack that its record is in, `own` where it is in none."""
    packed = {name: path.name.removesuffix(".jsonl.gz") for name, path in store.packed().items()}
    return {name: packed.get(name, OWN) for name in rows["fingerprint"]}


def _of_suites(rows: pd.DataFrame, suites: dict[str, str], wanted: list[str] | None) -> pd.DataFrame:
    """Rows of the wanted packs. Raises `ConfigError` for a pack that is not there, `MissingInput` where nothing is in
    what stands for several.
    """
    if not wanted:
        return rows
    known = {*suites.values(), OWN, PACKED}
    if problems := [f"--suite: no pack '{name}'{did_you_mean(name, known)}" for name in wanted if name not in known]:
        raise ConfigError(problems)
    packs = set(wanted) | (set(suites.values()) - {OWN} if PACKED in wanted else set())
    chosen = rows[[suites[name] in packs for name in rows["fingerprint"]]]
    if len(rows) and not len(chosen):
        where = "outside packs" if OWN in wanted else "in a pack"
        raise MissingInput(f"--suite {' '.join(wanted)}: no record is {where}; leave out --suite for all {len(rows)}")
    return chosen


def _report(folder: Path, tables: list[Table], rows: pd.DataFrame, store: Store) -> Path:
    used = _used(tables)
    if len(used) <= MOST_EMBEDDED:
        strips, pictures = _strips(tables, rows, store), _pictures(tables, store)
        path = folder / REPORT
        return write_report(path, tables, store.read(used), _families(), strips=strips, pictures=pictures)
    labels = ("backbone", "method", "dataset")
    paths = store.packed() | {
        fingerprint: path
        for fingerprint, *names in zip(rows["fingerprint"], *(rows[label] for label in labels), strict=True)
        if fingerprint in used and (path := store.path_of(dict(zip(labels, names, strict=True)), fingerprint)).is_file()
    }
    links = {name: os.path.relpath(paths[name], folder) for name in sorted(used & paths.keys())}
    if tables[0].split == "val":
        links = {}  # they would lead from validation scores to test scores
    return write_report(folder / REPORT, tables, [], _families(), links)


def _strips(tables: list[Table], rows: pd.DataFrame, store: Store) -> dict[str, str]:
    """Frames of the clips behind the tables, from one record of each data set."""
    shown = rows[(rows["group"] == GROUP) & rows["fingerprint"].isin(_used(tables))]
    return strips_of(store.read(set(shown.drop_duplicates("dataset")["fingerprint"])))


def _pictures(tables: list[Table], store: Store) -> dict[str, bytes]:
    """What `show --keep` drew of the records behind the tables; nothing for tables of validation scores."""
    if tables[0].split == "val":
        return {}
    paths = {name: store.picture_path(name) for name in sorted(_used(tables))}
    return {name: path.read_bytes() for name, path in paths.items() if path.is_file()}


def _families() -> dict[str, str]:
    """Method -> its kind. Imports every method, and so torch, which only the page needs."""
    from peftbench.methods.base import METHODS

    return {name: METHODS.get(name).family for name in METHODS.names()}


def _used(tables: list[Table]) -> set[str]:
    """Fingerprints of the records behind the tables."""
    return {name for table in tables for name in table.fingerprints}


def _nothing_to_show(folder: Path, num_records: int, num_chosen: int, split: str) -> str:
    if not num_records:
        advice = "run a cell first (python -m peftbench ...) or point --results to a folder that holds records/"
        return f"no records under {folder}; {advice}"
    if not num_chosen:
        return "no record has all of the chosen labels and packs; choose fewer"
    if split == "val":
        return f"none of the {num_chosen} records has a validation score; protocol=vtab1k_tune records them"
    return (
        f"none of the {num_chosen} records has a test score: trials that choose settings are no results; --select val "
        "shows their validation scores"
    )
