"""`python -m peftbench compare`: where measured cells differ from published figures by more than their uncertainty."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text
from scipy.special import stdtrit

from peftbench.api.tables import measured
from peftbench.boards.escaping import csv_text
from peftbench.boards.published import Published, backbones_of, load_published, load_sources
from peftbench.boards.table import Score, Table
from peftbench.boards.texts import CHANGED, MARK, footnotes, marked
from peftbench.cli.arguments import Arguments, a_csv, a_folder
from peftbench.cli.tables import check_table
from peftbench.config.having import first_of
from peftbench.foundation.errors import MissingInput
from peftbench.foundation.files import replace_text
from peftbench.foundation.terminal import print_fitted, table_width
from peftbench.records.index import read_reported

_USUAL = "vit_b16_in21k"
DIFFERS, WITHIN, UNKNOWN = "differs", "within", "unknown"


@dataclass(frozen=True)
class Difference:
    """One measured cell beside one published figure, in percent and percentage points.

    `uncertainty` is None, and the verdict "unknown", where a single seed was measured. `recipe`: epochs, batch,
    precision and rates of the measured one; `adapted` and `changed` as `Row.remark` and `Row.changed`.
    """

    backbone: str
    protocol: str
    dataset: str
    method: str
    measured: float
    std: float | None
    num_seeds: int
    published: float
    published_as: str
    sources: str
    reported: str
    uncertainty: float | None
    remark: str
    recipe: str = ""
    adapted: str = ""
    changed: str = ""

    @property
    def difference(self) -> float:
        return self.measured - self.published

    @property
    def verdict(self) -> str:
        if self.uncertainty is None:
            return UNKNOWN
        return DIFFERS if abs(self.difference) > self.uncertainty else WITHIN


def differences(tables: Iterable[Table], published: Sequence[Published]) -> Iterator[Difference]:
    """Each measured cell beside each published figure of the same backbone, method and data set."""
    sources = load_sources()
    for table in tables:
        matching = [line for line in published if line.stands_beside(table)]
        for row in table.rows:
            for line in (line for line in matching if line.method == row.method.split(" (")[0]):
                source = sources[line.sources[0]]
                for column in table.columns:
                    if column.name not in row.cells or column.dataset not in line.figures:
                        continue
                    score, printed = row.cells[column.name], line.figures[column.dataset]
                    yield Difference(
                        backbone=table.backbone,
                        protocol=f"{table.protocol}, {table.choice}",
                        dataset=column.name,
                        method=row.method,
                        measured=100 * score.mean,
                        std=None if score.std is None else 100 * score.std,
                        num_seeds=score.n,
                        published=float(printed),
                        published_as=line.label,
                        sources=" ".join(line.sources),
                        reported=source.reported_epoch,
                        uncertainty=uncertainty(score, printed, source.num_seeds),
                        remark=line.notes,
                        recipe=("short recipe: " if table.short else "") + table.recipe,
                        adapted=row.remark,
                        changed=row.changed,
                    )


def uncertainty(score: Score, printed: str, published_seeds: int) -> float | None:
    """Half the width, in points, of the 95 % interval in which the published figure should lie if nothing differs.

    It is the prediction interval of the mean of as many further seeds as the source had (one where it does not say),
    t * std * sqrt(1 / n + 1 / m), which takes their spread to be the measured one, plus half of the last printed digit.
    None for fewer than two measured seeds.
    """
    if score.std is None:
        return None
    spread = 100 * score.std * math.sqrt(1 / score.n + 1 / max(published_seeds, 1))
    digits = len(printed.partition(".")[2])
    return float(stdtrit(score.n - 1, 0.975)) * spread + 0.5 * 10.0**-digits


def main(words: list[str]) -> int:
    """Exit code 0 whether or not figures differ. Raises `MissingInput` when nothing can be compared."""
    _run(_parser().parse_args(words))
    return 0


def _run(arguments: argparse.Namespace) -> None:
    check_table(arguments.out, [field.name for field in fields(Difference)][:5])
    rows = read_reported(arguments.results, not arguments.no_index)
    published = [line for line in load_published() if not arguments.source or set(line.sources) & set(arguments.source)]
    found = list(differences(measured(rows), published))
    if not found:
        raise MissingInput(_nothing_beside(arguments.results, sorted(set(rows["backbone"])), len(rows), published))
    counts = {verdict: sum(item.verdict == verdict for item in found) for verdict in (DIFFERS, WITHIN, UNKNOWN)}
    shown = found if arguments.all else [item for item in found if item.verdict == DIFFERS]
    if shown:
        Console(width=table_width()).print(_table(shown))
        print_fitted("\n".join(_notes(shown)))
    print_fitted(
        f"{len(found)} pairs of a measured cell and a published figure: {counts[DIFFERS]} differ by more than the "
        f"uncertainty, {counts[WITHIN]} lie within it, {counts[UNKNOWN]} have a single seed and cannot be judged"
    )
    if arguments.out:
        replace_text(arguments.out, to_csv(found))
        print(f"wrote {arguments.out}")


def _nothing_beside(results: Path, own: list[str], num_records: int, published: Sequence[Published]) -> str:
    """Why nothing can be compared, and what could be."""
    if not num_records:
        return f"no records under {results}; run a cell first, or point --results to a folder that holds records/"
    # that of the example first
    known = sorted({name for line in published for name in backbones_of(line)}, key=lambda name: (name != _USUAL, name))
    return (
        f"none of the {num_records} records under {results} has a published figure: they are of {', '.join(own)}, and "
        f"figures are of {first_of(known)}. A cell that can be compared: backbone={_USUAL} method=lora "
        "dataset=vtab/caltech101"
    )


def to_csv(found: Sequence[Difference]) -> str:
    """All pairs, unrounded; with the source's remarks and what it reported."""
    lines = [{**vars(item), "difference": item.difference, "verdict": item.verdict} for item in found]
    return csv_text(pd.DataFrame(lines, dtype=object))


def _notes(items: Sequence[Difference]) -> list[str]:
    """What beside chance may lie behind a difference: how the cells were trained, and how methods depart."""
    departing = [(MARK, item.adapted, item.method) for item in items if item.adapted]
    departing += [(CHANGED, item.changed, item.method) for item in items if item.changed]
    recipes = dict.fromkeys(f"measured by: {item.recipe}" for item in items if item.recipe)
    return [*recipes, *footnotes(sorted(departing))]


def _table(items: Sequence[Difference]) -> RichTable:
    result = RichTable(box=SIMPLE_HEAD, header_style="bold")
    for name in ("backbone", "data set", "method", "measured", "published", "difference", "±", "source", "verdict"):
        numeric = name in ("measured", "published", "difference", "±")
        result.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for item in sorted(items, key=lambda item: (item.backbone, item.dataset, item.method, item.sources)):
        measured = f"{item.measured:.1f}" + ("" if item.std is None else f" ± {item.std:.1f}")
        more = item.sources.count(" ")
        cells = [
            item.backbone,
            item.dataset,
            marked(item.method, item.adapted, item.changed),
            measured,
            f"{item.published:g}",
            f"{item.difference:+.1f}",
            "?" if item.uncertainty is None else f"{item.uncertainty:.1f}",
            item.sources.split()[0] + (f" +{more}" if more else ""),
            item.verdict,
        ]
        result.add_row(*map(Text, cells))
    return result


def _parser() -> Arguments:
    parser = Arguments.of("compare", __doc__)
    parser.add_argument(
        "--results", type=a_folder, default=Path("results"), help="folder that holds records/ (%(default)s)"
    )
    parser.add_argument("--source", nargs="+", choices=sorted(load_sources()), help="only figures of these sources")
    parser.add_argument("--all", action="store_true", help="list what lies within the uncertainty, too")
    parser.add_argument("--out", type=a_csv, metavar="FILE.csv", help="write all pairs as CSV")
    parser.add_argument("--no-index", action="store_true", help="read every record again, keep no index of them")
    return parser
