"""Rows -> leaderboard tables. A pure function: no clock, no disk, the same tables for any order of the rows."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from peftbench.results.variants import describe, differing, extend_label, flatten, restored

# VTAB's order; any other group follows by name.
_GROUP_ORDER = ("natural", "specialized", "structured")

# One repetition group in one column: seed -> accuracy as a fraction.
Repetitions = dict[int, float]


@dataclass(frozen=True)
class Score:
    """Mean of an accuracy over `n` seeds and its sample standard deviation, as fractions; None for a single seed."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Column:
    """One data set of a table. `name` is its header, which says when membership departs from the official list."""

    name: str
    dataset: str
    group: str
    membership: str
    test_images: str


@dataclass(frozen=True)
class Row:
    """One method in one setting. All means are None unless every column of the table has a cell.

    `remark` says how far the method is from its paper, empty where it is as published.
    Costs are means over the row's own cells, None when one of them is unknown; `device` names where the images per
    second were measured, and they are None when that is more than one device.
    """

    method: str
    cells: Mapping[str, Score]
    group_means: Mapping[str, Score]
    mean_of_groups: Score | None
    flat_mean: Score | None
    ppt: float | None
    params_method: float | None
    params_head: float | None
    memory_bytes: float | None
    train_images_per_second: float | None
    eval_images_per_second: float | None
    device: str
    remark: str

    @property
    def complete(self) -> bool:
        return self.flat_mean is not None

    @property
    def num_seeds(self) -> tuple[int, int]:
        """Fewest and most seeds of a cell."""
        counts = [score.n for score in self.cells.values()]
        return min(counts), max(counts)


@dataclass(frozen=True)
class Table:
    """Methods that may be compared: one backbone, weights, protocol and recipe, and one choice of hyperparameters."""

    backbone: str
    protocol: str
    hyperparameters: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column.group for column in self.columns))

    @property
    def title(self) -> str:
        return f"{self.backbone}, {self.protocol}, {self.hyperparameters}"


def leaderboard(rows: pd.DataFrame) -> list[Table]:
    """Tables from the rows of `collect`: one for each backbone, protocol with training recipe, and choice of
    hyperparameters (paper defaults, a published preset, tuned with a budget).

    Where one label stands for several weights, protocols or recipes (`train.*`), each has a table that names what
    differs. Rows without a test accuracy (trials that only choose hyperparameters) are left out: a validation score
    is no result. Methods are sorted by mean of groups, highest first; incomplete rows last; equal ones by name.
    """
    scored = rows[rows["accuracy"].notna()].drop_duplicates("fingerprint").sort_values("fingerprint")
    records = [{str(key): value for key, value in record.items()} for record in scored.to_dict("records")]
    backbones = _distinct_names(records, "backbone", ("backbone",))
    protocols = _distinct_names(records, "protocol", ("protocol", "train"))
    by_table: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for record, backbone, protocol in zip(records, backbones, protocols, strict=True):
        by_table.setdefault((backbone, protocol, record["hyperparameters"]), []).append(record)
    return [_table(*key, by_table[key]) for key in sorted(by_table)]


def score(values: Sequence[float]) -> Score:
    """Mean and sample standard deviation (n - 1 in the denominator) of one number per seed."""
    return Score(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def ppt(accuracy: float, num_params: float) -> float:
    """Performance-per-trainable-parameters score: accuracy * exp(-log10(P / 10 + 1)), P in millions, accuracy in 0..1.

    V-PETL Bench (Xin et al., NeurIPS 2024) prints the score without its formula. This one is inferred from the printed
    numbers, of which it reproduces 84 of 91 to the two printed decimals; P leaves out the classification head.
    """
    return accuracy * math.exp(-math.log10(num_params / 1e7 + 1))


def _distinct_names(records: Sequence[Mapping[str, Any]], label: str, sections: Sequence[str]) -> list[str]:
    """Each record's `label`, with what differs in those sections of the identity where one label has several."""
    identities = [json.loads(record["identity"]) for record in records]
    # a preset may set a recipe's options per data set: the recipe is what it was before
    replaced = [json.loads(record["replaced"]) for record in records]
    settings = [
        restored(flatten({section: identity.get(section) for section in sections}), old)
        for identity, old in zip(identities, replaced, strict=True)
    ]
    by_label: dict[str, list[dict[str, Any]]] = {}
    for record, setting in zip(records, settings, strict=True):
        by_label.setdefault(record[label], []).append(setting)
    names = {name: differing(group) for name, group in by_label.items()}
    return [
        extend_label(record[label], describe(setting, names[record[label]]))
        for record, setting in zip(records, settings, strict=True)
    ]


def _table(backbone: str, protocol: str, hyperparameters: str, records: Sequence[dict[str, Any]]) -> Table:
    columns = _columns(records)
    by_row: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for method in sorted({record["method"] for record in records}):
        cells = [
            (columns[record["data"], record["dataset"]].name, record)
            for record in records
            if record["method"] == method
        ]
        for label, row_cells in _split_settings(method, cells).items():
            # a method may already carry the very label that a split produces
            unique = label if label not in by_row else extend_label(label, "another setting")
            by_row[unique] = row_cells
    ordered = sorted(columns.values(), key=_column_key)
    rows = sorted((_row(method, cells, ordered) for method, cells in by_row.items()), key=_row_key)
    notes = tuple(_notes(records, ordered, rows))
    return Table(backbone, protocol, hyperparameters, tuple(ordered), tuple(rows), notes)


def _columns(records: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Column]:
    """(data, dataset) -> column. Different images under one dataset label become columns that say what differs."""
    first: dict[tuple[str, str], Mapping[str, Any]] = {}
    for record in records:
        first.setdefault((record["data"], record["dataset"]), record)
    columns = {}
    for key, record in first.items():
        dataset, membership = record["dataset"], record["membership"]
        kind = membership.split(":")[0]
        name = extend_label(dataset, kind if kind.endswith("-style") else "")
        data = flatten(json.loads(record["data"]))
        names = differing(flatten(json.loads(other)) for other, label in first if label == dataset)
        name = extend_label(name, describe(data, names))
        columns[key] = Column(name, dataset, record["group"], membership, record["test_images"])
    return columns


def _split_settings(
    method: str, cells: Sequence[tuple[str, dict[str, Any]]]
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Row label -> column -> repetitions. Settings of one method that meet in one column are never averaged.

    The options in which they differ there split the method into rows of their own in every column.
    """
    settings: dict[str, dict[str, dict[str, Any]]] = {}
    for column, record in cells:
        identity = {key: value for key, value in json.loads(record["identity"]).items() if key != "seed"}
        settings.setdefault(column, {})[record["repetition_group"]] = flatten(identity)
    names = sorted({name for groups in settings.values() for name in differing(groups.values())})
    rows: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for column, record in cells:
        label = extend_label(method, describe(settings[column][record["repetition_group"]], names))
        rows.setdefault(label, {}).setdefault(column, []).append(record)
    return rows


def _row(method: str, cells: Mapping[str, list[dict[str, Any]]], columns: Sequence[Column]) -> Row:
    repetitions: dict[str, Repetitions] = {
        name: {int(record["seed"]): float(record["accuracy"]) for record in records} for name, records in cells.items()
    }
    groups: dict[str, list[Repetitions]] = {}
    if set(cells) == {column.name for column in columns} and len({column.dataset for column in columns}) == len(
        columns
    ):
        for column in columns:
            groups.setdefault(column.group, []).append(repetitions[column.name])
    flat_mean = _mean_over([[cell for group in groups.values() for cell in group]]) if groups else None
    params_method = _cost(cells, "params_method")
    devices = sorted({str(record["device"] or "unknown") for records in cells.values() for record in records})
    return Row(
        method=method,
        cells={c.name: score(list(repetitions[c.name].values())) for c in columns if c.name in cells},
        group_means={name: _mean_over([group]) for name, group in groups.items()},
        mean_of_groups=_mean_over(list(groups.values())) if groups else None,
        flat_mean=flat_mean,
        ppt=None if flat_mean is None or params_method is None else ppt(flat_mean.mean, params_method),
        params_method=params_method,
        params_head=_cost(cells, "params_head"),
        memory_bytes=_cost(cells, "memory_bytes"),
        train_images_per_second=_cost(cells, "train_images_per_second") if len(devices) == 1 else None,
        eval_images_per_second=_cost(cells, "eval_images_per_second") if len(devices) == 1 else None,
        device=" / ".join(devices),
        remark=" / ".join(sorted({record["remark"] for records in cells.values() for record in records} - {""})),
    )


def _mean_over(groups: Sequence[Sequence[Repetitions]]) -> Score:
    """Mean over groups of the mean over a group's data sets, seed by seed, then over seeds.

    Where the data sets were not all run with the same seeds there is no spread of the whole: std is None and n the
    fewest seeds of a data set.
    """
    cells = [cell for group in groups for cell in group]
    if all(cell.keys() == cells[0].keys() for cell in cells):
        return score(
            [
                statistics.fmean(statistics.fmean(cell[seed] for cell in group) for group in groups)
                for seed in sorted(cells[0])
            ]
        )
    mean = statistics.fmean(statistics.fmean(statistics.fmean(cell.values()) for cell in group) for group in groups)
    return Score(mean, None, min(len(cell) for cell in cells))


def _cost(cells: Mapping[str, list[dict[str, Any]]], name: str) -> float | None:
    """Mean of a cost over a row's data sets, each the mean over its seeds; None when a cell does not know it."""
    values = [[record[name] for record in records] for records in cells.values()]
    if any(pd.isna(value) for column in values for value in column):
        return None
    return statistics.fmean(statistics.fmean(column) for column in values)


def _column_key(column: Column) -> tuple[int, str, str]:
    known = _GROUP_ORDER.index(column.group) if column.group in _GROUP_ORDER else len(_GROUP_ORDER)
    return known, column.group, column.name


def _row_key(row: Row) -> tuple[bool, float, str]:
    return not row.complete, -row.mean_of_groups.mean if row.mean_of_groups else 0.0, row.method


def _notes(records: Sequence[Mapping[str, Any]], columns: Sequence[Column], rows: Sequence[Row]) -> Iterable[str]:
    """What a reader must know before comparing numbers of this table."""
    for column in columns:
        if column.name != column.dataset or column.test_images.startswith("subset"):
            yield f"{column.name}: images {column.membership}, test {column.test_images}"
    datasets = [column.dataset for column in columns]
    twice = sorted({dataset for dataset in datasets if datasets.count(dataset) > 1})
    if twice:
        yield f"{', '.join(twice)}: several sets of images under one name, so no means; choose one with --membership"
    elif not all(row.complete for row in rows):
        missing = sum(not row.complete for row in rows)
        yield f"without means, for lack of a data set that another row has: {missing} of {len(rows)} rows"
    sizes = sorted({record["memory_batch_size"] for record in records if not pd.isna(record["memory_batch_size"])})
    if len(sizes) > 1:
        yield f"memory was counted at different batch sizes ({', '.join(map(str, sizes))})"
    if len({row.device for row in rows}) > 1:
        yield "images per second were measured on different devices and compare within one device only"
