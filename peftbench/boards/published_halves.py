"""Published base-to-new rows, of which only means over the eleven sets are known, as rows of tables."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence

from peftbench.boards.comparison import compare
from peftbench.boards.halves import BASE, NEW, H
from peftbench.boards.published import FOLDER, Source, load_sources, titles_of
from peftbench.boards.rows import row_key
from peftbench.boards.table import Row, Score, Table
from peftbench.foundation.metric import Metric

TASK = "base_to_new"
# a table that these rows may stand beside has all of the sets
WHOLE = "few-shot CLIP, 11 of 11 tasks"


@dataclasses.dataclass(frozen=True)
class PublishedHalves:
    """One row: `base`, `new` and `h` in percent, as printed. Zero-shot rows have no shots."""

    method: str
    variant: str
    backbone: str
    pretraining: str
    shots: str
    epochs: str
    base: str
    new: str
    h: str
    source: str
    notes: str

    @property
    def label(self) -> str:
        words = ", ".join(part for part in (self.variant, self.epochs and f"{self.epochs} epochs") if part)
        return f"{self.method} ({words})" if words else self.method


def load_halves() -> list[PublishedHalves]:
    with (FOLDER / f"{TASK}.csv").open(encoding="utf-8", newline="") as file:
        return [PublishedHalves(**line) for line in csv.DictReader(file)]


def halves_beside(tables: Sequence[Table]) -> list[Table]:
    """The tables; those of base to new over all eleven sets with the published rows of their backbone."""
    rows, sources = load_halves(), load_sources()
    result = []
    for table in tables:
        whole = table.task.split(" ")[0] == TASK and table.suite == WHOLE
        title = table.backbone.split(" (")[0]
        matching = [row for row in rows if whole and title in titles_of(row.backbone, row.pretraining)]
        result.append(_with(table, matching, sources))
    return result


def halves_alone() -> list[Table]:
    """A table of the published rows for each backbone."""
    rows, sources = load_halves(), load_sources()
    tables = []
    for backbone in sorted({f"{row.backbone} {row.pretraining}" for row in rows}):
        own = [row for row in rows if f"{row.backbone} {row.pretraining}" == backbone]
        empty = Table(backbone, "16 shots", "as published", (), (), (), compare((), ()), task=TASK, metric=Metric(H))
        tables.append(_with(empty, own, sources))
    return tables


def _with(table: Table, found: list[PublishedHalves], sources: Mapping[str, Source]) -> Table:
    if not found:
        return table
    named = sorted({row.source for row in found})
    notes = [
        "published rows are as printed: means over the eleven sets, each by its own protocol",
        *(f"published by {name} ({sources[name].publication}): {sources[name].protocol}" for name in named),
        *(f"{row.label}: {row.notes}" for row in found if row.notes),
    ]
    rows = tuple(sorted((_row(row, sources) for row in found), key=lambda row: row_key(row, Metric(H))))
    return dataclasses.replace(table, published=rows, notes=(*table.notes, *notes))


def _row(line: PublishedHalves, sources: Mapping[str, Source]) -> Row:
    num_seeds = sources[line.source].num_seeds
    mean = Score(float(line.h) / 100, None, num_seeds)
    return Row(
        method=line.label,
        cells={},
        group_means={},
        mean_of_groups=mean,
        flat_mean=mean,
        ppt=None,
        params_method=None,
        sources=(line.source,),
        beside={BASE: Score(float(line.base), None, num_seeds), NEW: Score(float(line.new), None, num_seeds)},
    )
