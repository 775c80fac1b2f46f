"""Figures printed by others, as rows beside measured ones: each by its own protocol, never averaged with any.

The figures and where they come from are in `peftbench/assets/published/` (see its README.md).
"""

from __future__ import annotations

import csv
import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from peftbench.boards.comparison import compare
from peftbench.boards.means import overall_means
from peftbench.boards.rows import row_key
from peftbench.boards.table import Column, Row, Score, Table, ppt
from peftbench.foundation.metric import ACCURACY, Metric

FOLDER = Path(__file__).resolve().parents[1] / "assets" / "published"
UNVERIFIED = (
    "‡: the checkpoint, or whether the mean is flat or of groups, is not stated where the row was read, "
    "or the row comes from a summary written by others"
)
# Benchmark -> what precedes its data sets' names in labels.
BENCHMARKS = {"vtab1k": "vtab/", "fgvc": "fgvc/", "fewshot_clip": "coop/", "video": "", "dense": "", "boxes": ""}
# Benchmark that is not of classification -> its task here, that task's number, the file, and the number's name there.
TASKS = {
    "dense": ("segmentation", Metric("miou"), "dense", "miou"),
    "boxes": ("detection", Metric("ap"), "dense", "ap_box"),
}


@dataclass(frozen=True)
class Source:
    """Who printed figures, and what is known of how they were made; "" where it is not stated."""

    source: str
    publication: str
    taken_from: str
    reported_epoch: str
    inputs: str
    augmentation: str
    checkpoint: str
    seeds: str
    trust: str

    @property
    def num_seeds(self) -> int:
        """Seeds behind each figure; 0 when not stated."""
        return int(self.seeds or 0)

    @property
    def protocol(self) -> str:
        """The protocol in one line."""
        parts = {
            "reported": self.reported_epoch,
            "inputs": self.inputs,
            "augmentation": self.augmentation,
            "checkpoint": self.checkpoint,
            "seeds": self.seeds or "not stated",
        }
        known = {name: text for name, text in parts.items() if text != "not stated"}
        words = "; ".join(f"{name}: {text}" for name, text in known.items()) or "protocol not stated"
        return f"{words}; trust: {self.trust}"


@dataclass(frozen=True)
class Published:
    """One row of a printed table. `figures`: data set label -> accuracy, or what `task` is judged by, in percent.

    Rows that repeat the same figures for the same method are one, with all their `sources`; the first is leading.
    """

    method: str
    variant: str
    backbone: str
    pretraining: str
    benchmark: str
    figures: Mapping[str, str]
    groups: Mapping[str, str]
    params_millions: str
    sources: tuple[str, ...]
    notes: str
    # "flat" or "group" -> the mean as printed, in percent, of a row whose single figures are not known
    means: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # data set label -> top-5 accuracy in percent, where it is printed beside
    top5: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def task(self) -> str:
        """Empty for classification."""
        return TASKS[self.benchmark][0] if self.benchmark in TASKS else ""

    def stands_beside(self, table: Table) -> bool:
        """Whether a table is of the same backbone and task."""
        return table.task == self.task and table.backbone.split(" (")[0] in backbones_of(self)

    @property
    def label(self) -> str:
        return f"{self.method} ({self.variant})" if self.variant else self.method

    @property
    def unverified(self) -> bool:
        """Whether the checkpoint, or which mean a mean is, was not stated where the row was read."""
        second_hand = any(source.endswith("_secondary") for source in self.sources)
        return second_hand or any("unverified" in text for text in (self.pretraining, *self.means))


def load_sources() -> dict[str, Source]:
    return {line["source"]: Source(**line) for line in _lines("sources")}


def load_published() -> list[Published]:
    """All published rows of classification, segmentation and detection, in the order of the files."""
    renamed = {kind: _renamed(kind) for kind in ("method", "dataset")}
    found: dict[tuple[object, ...], Published] = {}
    for benchmark, prefix in BENCHMARKS.items():
        by_row: dict[tuple[str, ...], list[dict[str, str]]] = {}
        for line in _figures(benchmark):
            key = tuple(line[name] for name in ("source", "method", "variant", "backbone", "pretraining"))
            by_row.setdefault(key, []).append(line)
        for (source, method, variant, backbone, pretraining), lines in by_row.items():
            labels = [prefix + renamed["dataset"].get(line["dataset"], [line["dataset"]])[0] for line in lines]
            figures = dict(zip(labels, (line["accuracy"] for line in lines), strict=True))
            [name] = renamed["method"].get(f"{method} {variant}".strip(), [method])
            values = tuple(sorted((label, float(figure)) for label, figure in figures.items()))
            top5 = {label: line["top5"] for label, line in zip(labels, lines, strict=True) if line.get("top5")}
            key_of_values = (name, backbone, pretraining, values)
            if key_of_values in found:
                first = found[key_of_values]
                both = (*first.sources, source)
                found[key_of_values] = dataclasses.replace(first, sources=both, top5={**top5, **first.top5})
                continue
            found[key_of_values] = Published(
                name,
                "" if name != method else variant,
                backbone,
                pretraining,
                benchmark,
                figures,
                dict(zip(labels, (line["group"] for line in lines), strict=True)),
                lines[0]["trainable_params_m"],
                (source,),
                lines[0]["notes"],
                top5=top5,
            )
    return list(found.values())


def load_means() -> list[Published]:
    """Rows of which only means are known, for reading beside whole rows: they are compared with nothing."""
    names = ("source", "method", "variant", "backbone", "pretraining")
    whole = {tuple(line[name] for name in names) for benchmark in BENCHMARKS for line in _figures(benchmark)}
    return [
        Published(
            line["method"],
            line["variant"],
            line["backbone"],
            line["pretraining"],
            line["benchmark"],
            {},
            {},
            line["trainable_params_m"],
            (line["source"],),
            "",
            {line["mean_kind"]: line["published_mean"]},
        )
        for line in _lines("published_means")
        if line["benchmark"] in BENCHMARKS and tuple(line[name] for name in names) not in whole
    ]


def backbones_of(row: Published) -> list[str]:
    """Titles of the backbones here that the published one stands for."""
    return titles_of(row.backbone, row.pretraining)


def titles_of(backbone: str, pretraining: str) -> list[str]:
    """Titles of the backbones here that a published one stands for."""
    return _renamed("backbone").get(f"{backbone} {pretraining}", [])


def beside(tables: Sequence[Table]) -> list[Table]:
    """The tables with the published rows of their backbone that share a data set with them."""
    published, sources = load_published(), load_sources()
    result = []
    for table in tables:
        matching = [row for row in published if row.stands_beside(table)]
        result.append(_with_published(table, matching, sources))
    return result


def alone() -> list[Table]:
    """Tables of the published rows alone, one for each benchmark and backbone."""
    sources = load_sources()
    by_table: dict[tuple[str, str], list[Published]] = {}
    for row in load_published():
        by_table.setdefault(_table_of(row), []).append(row)
    for row in load_means():
        # a mean alone makes no table
        by_table.get(_table_of(row), []).append(row)
    tables = []
    for (backbone, benchmark), rows in sorted(by_table.items()):
        groups = {label: group for row in rows for label, group in row.groups.items()}
        columns = tuple(Column(label, label, group, "as published", "as published") for label, group in groups.items())
        task, metric, *_ = TASKS.get(benchmark, ("", ACCURACY))
        empty = Table(
            backbone, benchmark, "as published", columns, (), (), compare((), columns), task=task, metric=metric
        )
        tables.append(_with_published(empty, rows, sources))
    return tables


def _table_of(row: Published) -> tuple[str, str]:
    return f"{row.backbone} {row.pretraining.removesuffix('_unverified')}", row.benchmark


def _with_published(table: Table, published: Iterable[Published], sources: Mapping[str, Source]) -> Table:
    rows = [row for row in (_row(line, table.columns, sources) for line in published) if row is not None]
    named = sorted({source for row in rows for source in row.sources})
    notes = [f"published by {name} ({sources[name].publication}): {sources[name].protocol}" for name in named]
    if rows:
        notes.insert(0, "published rows are as printed, each by its own protocol; params with or without the head")
    if any(row.unverified for row in rows):
        notes.insert(1, UNVERIFIED)
    return dataclasses.replace(
        table, published=tuple(sorted(rows, key=row_key)), notes=(*table.notes, *dict.fromkeys(notes))
    )


def _row(line: Published, columns: Sequence[Column], sources: Mapping[str, Source]) -> Row | None:
    num_seeds = sources[line.sources[0]].num_seeds
    fractions = {c.name: float(line.figures[c.dataset]) / 100 for c in columns if c.dataset in line.figures}
    if not fractions and not line.means:
        return None
    group_means, mean_of_groups, flat_mean = overall_means({n: {0: f} for n, f in fractions.items()}, columns)
    for kind, printed in line.means.items():
        mean = Score(float(printed) / 100, None, num_seeds)
        mean_of_groups, flat_mean = (None, mean) if kind == "flat" else (mean, None)
    top5 = [float(line.top5[c.dataset]) / 100 for c in columns if c.name in fractions and c.dataset in line.top5]
    params = float(line.params_millions) * 1e6 if line.params_millions else None
    return Row(
        method=line.label,
        cells={name: Score(fraction, None, num_seeds) for name, fraction in fractions.items()},
        group_means=group_means,
        mean_of_groups=mean_of_groups,
        flat_mean=flat_mean,
        ppt=None if flat_mean is None or params is None else ppt(flat_mean.mean, params),
        params_method=params,
        sources=line.sources,
        unverified=line.unverified,
        top5_accuracy=statistics.fmean(top5) if top5 and len(top5) == len(fractions) else None,
    )


def _figures(benchmark: str) -> list[dict[str, str]]:
    """The lines of a benchmark; of a file with several metrics those of its task's number, as `accuracy`."""
    if benchmark not in TASKS:
        return _lines(benchmark)
    _, _, file, metric = TASKS[benchmark]
    return [line | {"accuracy": line["value"], "group": benchmark} for line in _lines(file) if line["metric"] == metric]


def _renamed(kind: str) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for line in _lines("names"):
        if line["kind"] == kind:
            names.setdefault(line["published"], []).append(line["measured"])
    return names


def _lines(name: str) -> list[dict[str, str]]:
    with (FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
