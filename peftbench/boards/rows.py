"""One row of a table: the records of one method in one setting, and its place among the others."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import pandas as pd

from peftbench.boards.dense import Singles, beside, by_class
from peftbench.boards.halves import H, halves
from peftbench.boards.means import Repetitions, overall_means
from peftbench.boards.recipe import Shipped, changed, rates, setting
from peftbench.boards.table import Column, Row, ppt, score
from peftbench.foundation.metric import ACCURACY, FRACTION, HIGHER, Metric

# The records of a row by column, one for each seed.
Cells = dict[str, list[dict[str, Any]]]

# Full fine-tuning: what every paper measures against, and no PEFT method.
REFERENCE = "full"


def row_of(
    method: str,
    cells: Cells,
    columns: Sequence[Column],
    shared: Sequence[Column],
    shipped: Shipped,
    metric: Metric,
    singles: Singles,
) -> Row:
    """The row of a method: scores of its cells, means over the `shared` columns, costs and what is said of it."""
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
        else beside({name: records for name, records in cells.items() if records[0]["others"]}, singles),
        order_gap=order_gap,
        top5_accuracy=None if order_gap is None else _cost(cells, "top5_accuracy"),
    )


def _cost(cells: Cells, name: str) -> float | None:
    """Mean of a cost over a row's data sets, each the mean over its seeds; None when a cell does not know it."""
    values = [[record[name] for record in records] for records in cells.values()]
    if any(pd.isna(value) for column in values for value in column):
        return None
    return statistics.fmean(statistics.fmean(column) for column in values)


def row_key(row: Row, metric: Metric = ACCURACY) -> tuple[bool, float, str]:
    """Order of rows: by mean of groups, best first; incomplete ones last; equal ones by name."""
    return not row.complete, -metric.goodness(row.mean_of_groups.mean) if row.mean_of_groups else 0.0, row.method
