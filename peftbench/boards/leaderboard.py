"""Rows -> leaderboard tables. A pure function: no clock, no disk, the same tables for any order of the rows."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from peftbench.boards.comparison import compare
from peftbench.boards.dense import Singles, beside, by_class, notes_on_singles, single_tasks
from peftbench.boards.halves import H, halves
from peftbench.boards.recipe import Shipped, changed, rates, recipe, setting, suite, unknown_methods
from peftbench.boards.sharing import on_sharing, repeated_columns, shared_columns
from peftbench.boards.shots import by_shots, family_names
from peftbench.boards.table import Column, Row, Score, Table, ppt, score
from peftbench.boards.untrained import stands_in, without_recipe
from peftbench.boards.variants import column_names, distinct_names, extend_label, split_settings
from peftbench.foundation.metric import ACCURACY, FRACTION, HIGHER, Metric
from peftbench.records.collect import CLASSIFICATION

# VTAB's order; any other group follows by name.
_GROUP_ORDER = ("natural", "specialized", "structured")

# The columns of `collect` that a table is made of.
_USED = (
    "fingerprint",
    "repetition_group",
    "setting",
    "task",
    "metric",
    "better",
    "unit",
    "backbone",
    "protocol",
    "hyperparameters",
    "replaced",
    "method",
    "remark",
    "dataset",
    "group",
    "data",
    "membership",
    "test_images",
    "seed",
    "score",
    "others",
    "params_method",
    "params_head",
    "memory_bytes",
    "memory_batch_size",
    "train_flops_per_image",
    "forward_flops_per_image",
    "train_images_per_second",
    "eval_images_per_second",
    "device",
    "order_gap",
    "top5_accuracy",
    "command",
    "steps",
)


class Judged(NamedTuple):
    """What a number is: cells of another task or metric are never in one table."""

    task: str
    metric: str
    better: str
    unit: str

    @property
    def as_metric(self) -> Metric:
        return Metric(self.metric, self.better, self.unit)


class Key(NamedTuple):
    """What one table holds. `family` is that of tables which differ in their shots alone, "" where none are drawn."""

    judged: Judged
    backbone: str
    protocol: str
    hyperparameters: str
    family: str

    def may_stand_in(self, other: Key) -> bool:
        """Whether cells of this table that took no step may stand in another one, if their protocol is the same."""
        return self[:2] == other[:2] and self.hyperparameters == other.hyperparameters


# Full fine-tuning: what every paper measures against, and no PEFT method.
REFERENCE = "full"

_UNKNOWN = (
    "this method is not installed here, so what it ships is not known (PEFTBENCH_PLUGINS names the folders of plug-ins)"
)

# One repetition group in one column: seed -> score.
Repetitions = dict[int, float]


def leaderboard(rows: pd.DataFrame, shipped: Shipped | None = None, split: str = "test") -> list[Table]:
    """Tables from the rows of `collect`: one for each task with its metric, backbone, protocol with training recipe,
    and choice of hyperparameters (defaults, a published preset, tuned with a budget).

    Where one label stands for several weights, protocols or recipes (`train.*`), each has a table that names what
    differs. Rows without a test score (trials that only choose hyperparameters) are left out: a validation score
    is no result. With `split="val"` the tables hold validation scores and nothing else. Means and ranks are over the
    data sets that the rows share (`shared_columns`). Methods are sorted by mean of groups, best first; incomplete rows
    last; equal ones by name. `shipped` (what the yaml files set) marks the rows that were trained otherwise.
    """
    if split == "val":
        rows = rows.assign(score=rows["val_score"], others=None)
    scored = rows[rows["score"].notna()].drop_duplicates("fingerprint").sort_values("fingerprint")
    columns = [scored[name].tolist() for name in _USED]
    records = [dict(zip(_USED, values, strict=True)) for values in zip(*columns, strict=True)]
    by_table = _by_table(records)
    singles = single_tasks(record for record in records if record["others"])
    tables = [_table(key, by_table[key], shipped or {}, split, singles) for key in sorted(by_table)]
    return [*tables, *by_shots(tables)]


def _by_table(records: Sequence[dict[str, Any]]) -> dict[Key, list[dict[str, Any]]]:
    """The records of each table; what took no step of training is in those of every recipe of its protocol."""
    backbones = distinct_names(records, "backbone", ("backbone",))
    named = [{**record, "backbone": backbone} for record, backbone in zip(records, backbones, strict=True)]
    tables = _keyed([record for record in named if record["steps"]])
    beside: dict[Key, list[dict[str, Any]]] = {}
    for key, untrained in _keyed(without_recipe(record for record in named if not record["steps"])).items():
        for record in untrained:
            found = [other for other in tables if key.may_stand_in(other) and stands_in(record, tables[other])]
            for place in found or [key]:
                beside.setdefault(place, []).append(record)
    return {key: [*tables.get(key, ()), *beside.get(key, ())] for key in {**tables, **beside}}


def _keyed(records: Sequence[dict[str, Any]]) -> dict[Key, list[dict[str, Any]]]:
    protocols = distinct_names(records, "protocol", ("protocol", "train"))
    tables: dict[Key, list[dict[str, Any]]] = {}
    for record, protocol, family in zip(records, protocols, family_names(records), strict=True):
        judged = Judged(record["task"], record["metric"], record["better"], record["unit"])
        key = Key(judged, record["backbone"], protocol, record["hyperparameters"], family)
        tables.setdefault(key, []).append(record)
    return tables


def _table(
    key: Key,
    records: Sequence[dict[str, Any]],
    shipped: Shipped,
    split: str,
    singles: Singles,
) -> Table:
    names = column_names(records)
    cells: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for record in records:
        cells.setdefault(record["method"], []).append((names[record["data"], record["dataset"]], record))
    by_row: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for method in sorted(cells):
        for label, row_cells in split_settings(method, cells[method]).items():
            # a method may already carry the very label that a split produces
            unique = label if label not in by_row else extend_label(label, "another setting")
            by_row[unique] = row_cells
    columns = sorted(_columns(records, names), key=_column_key)
    shared = shared_columns([set(row_cells) for row_cells in by_row.values()], columns)
    seeds = [{name: len(cell) for name, cell in row_cells.items()} for row_cells in by_row.values()]
    shared = repeated_columns(seeds, shared)
    metric = key.judged.as_metric
    found = (_row(method, row_cells, columns, shared, shipped, metric, singles) for method, row_cells in by_row.items())
    rows = sorted(found, key=lambda row: row_key(row, metric))
    notes = (
        *_notes(records, columns, shared, rows, metric),
        *notes_on_singles(records, singles),
        *(f"{method}: {_UNKNOWN}" for method in unknown_methods(records, shipped)),
    )
    words, short = recipe(records)
    return Table(
        key.backbone,
        key.protocol,
        key.hyperparameters,
        tuple(columns),
        tuple(rows),
        notes,
        compare(rows, shared, metric),
        task="" if key.judged.task == CLASSIFICATION else key.judged.task,
        metric=metric,
        shared=tuple(shared),
        suite=suite(columns),
        recipe=words,
        short=short,
        split=split,
        shots=json.loads(records[0]["setting"]).get("protocol", {}).get("shots"),
        family=key.family,
    )


def _columns(records: Iterable[Mapping[str, Any]], names: Mapping[tuple[str, str], str]) -> list[Column]:
    columns = {}
    for record in records:
        key = record["data"], record["dataset"]
        if key not in columns:
            columns[key] = Column(
                names[key], record["dataset"], record["group"], record["membership"], record["test_images"]
            )
    return list(columns.values())


def _row(
    method: str,
    cells: Mapping[str, list[dict[str, Any]]],
    columns: Sequence[Column],
    shared: Sequence[Column],
    shipped: Shipped,
    metric: Metric = ACCURACY,
    singles: Singles | None = None,
) -> Row:
    repetitions: dict[str, Repetitions] = {
        name: {int(record["seed"]): float(record["score"]) for record in records} for name, records in cells.items()
    }
    names = {column.name for column in shared}
    compared = {name: values for name, values in repetitions.items() if name in names}
    group_means, mean_of_groups, flat_mean = overall_means(compared, shared)
    both = halves(cells, [column.name for column in shared]) if metric.name == H and flat_mean else None
    if both:
        group_means, mean_of_groups, flat_mean = {}, both.h, both.h
    params_method, order_gap = _cost(cells, "params_method"), _cost(cells, "order_gap")
    # the score is defined for a share of right answers
    rated = metric.unit == FRACTION and metric.better == HIGHER
    records = [record for group in cells.values() for record in group]
    devices = sorted({str(record["device"] or "unknown") for records in cells.values() for record in records})
    return Row(
        method=method,
        cells={c.name: score(list(repetitions[c.name].values())) for c in columns if c.name in cells},
        group_means=group_means,
        mean_of_groups=mean_of_groups,
        flat_mean=flat_mean,
        ppt=None if flat_mean is None or params_method is None or not rated else ppt(flat_mean.mean, params_method),
        params_method=params_method,
        params_head=_cost(cells, "params_head"),
        memory_bytes=_cost(cells, "memory_bytes"),
        train_flops_per_image=_cost(cells, "train_flops_per_image"),
        forward_flops_per_image=_cost(cells, "forward_flops_per_image"),
        train_images_per_second=_cost(cells, "train_images_per_second") if len(devices) == 1 else None,
        eval_images_per_second=_cost(cells, "eval_images_per_second") if len(devices) == 1 else None,
        device=" / ".join(devices),
        remark=" / ".join(sorted({record["remark"] for records in cells.values() for record in records} - {""})),
        records={
            name: tuple(record["fingerprint"] for record in sorted(records, key=lambda record: record["seed"]))
            for name, records in cells.items()
        },
        rate=rates(map(setting, records)),
        changed="; ".join(sorted({changed(record, shipped) for record in records} - {""})),
        reference=method.split(" ")[0] == REFERENCE,
        by_class=by_class(cells),
        beside=both.shown
        if both
        else beside({name: records for name, records in cells.items() if records[0]["others"]}, singles or {}),
        order_gap=order_gap,
        top5_accuracy=None if order_gap is None else _cost(cells, "top5_accuracy"),
    )


def overall_means(
    repetitions: Mapping[str, Repetitions], columns: Sequence[Column]
) -> tuple[dict[str, Score], Score | None, Score | None]:
    """(mean of each group, mean of the group means, flat mean) of a row; nothing unless every column has a cell."""
    distinct = len({column.dataset for column in columns}) == len(columns)
    if not columns or not distinct or repetitions.keys() != {column.name for column in columns}:
        return {}, None, None
    groups: dict[str, list[Repetitions]] = {}
    for column in columns:
        groups.setdefault(column.group, []).append(repetitions[column.name])
    flat = _mean_over([[cell for group in groups.values() for cell in group]])
    return {name: _mean_over([group]) for name, group in groups.items()}, _mean_over(list(groups.values())), flat


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


def row_key(row: Row, metric: Metric = ACCURACY) -> tuple[bool, float, str]:
    """Order of rows: by mean of groups, best first; incomplete ones last; equal ones by name."""
    return not row.complete, -metric.goodness(row.mean_of_groups.mean) if row.mean_of_groups else 0.0, row.method


def _on_reference(rows: Sequence[Row], metric: Metric) -> Iterable[str]:
    """Full fine-tuning below a linear probe is no upper reference."""
    linear = [row for row in rows if row.method.split(" ")[0] == "linear" and row.mean_of_groups]
    for row in rows:
        if row.reference and row.mean_of_groups and linear and row_key(linear[0], metric) < row_key(row, metric):
            yield (
                f"{row.method} stands below {linear[0].method}: with this recipe and rate it shows "
                "where training stopped, not what full fine-tuning can do"
            )


def _notes(
    records: Sequence[Mapping[str, Any]],
    columns: Sequence[Column],
    shared: Sequence[Column],
    rows: Sequence[Row],
    metric: Metric,
) -> Iterable[str]:
    """What a reader must know before comparing numbers of this table."""
    for column in columns:
        if column.name != column.dataset or column.test_images.startswith("subset"):
            yield f"{column.name}: images {column.membership}, test {column.test_images}"
    datasets = [column.dataset for column in shared]
    twice = sorted({dataset for dataset in datasets if datasets.count(dataset) > 1})
    if twice:
        yield (
            f"{', '.join(twice)}: several sets of images under one name, so no means; choose one with --membership, by "
            "its membership or its revision"
        )
    else:
        yield from on_sharing(columns, shared, rows)
    yield from _on_reference(rows, metric)
    if metric.name == H:
        yield "h: harmonic mean of base and new accuracy; flat mean: that of the mean base and the mean new accuracy"
    sizes = sorted({record["memory_batch_size"] for record in records if not pd.isna(record["memory_batch_size"])})
    if len(sizes) > 1:
        yield f"memory was counted at different batch sizes ({', '.join(f'{size:.0f}' for size in sizes)})"
    if any(row.order_gap is not None for row in rows):
        yield (
            "samples are clips: GFLOPs and images per second are of one clip and view; order gap: test score in the "
            "frames' natural order less that in a random one, and top-5 accuracy, both on average over data sets"
        )
    if len({row.device for row in rows}) > 1:
        yield "images per second were measured on different devices and compare within one device only"
