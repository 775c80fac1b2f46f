"""What a reader must know before comparing the numbers of a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from peftbench.boards.dense import Singles, notes_on_singles
from peftbench.boards.halves import H
from peftbench.boards.recipe import Shipped, unknown_methods
from peftbench.boards.rows import row_key
from peftbench.boards.sharing import on_sharing
from peftbench.boards.table import Column, Row
from peftbench.foundation.metric import Metric

_UNKNOWN = (
    "this method is not installed here, so what it ships is not known (PEFTBENCH_PLUGINS names the folders of plug-ins)"
)


def notes_on(
    records: Sequence[Mapping[str, Any]],
    columns: Sequence[Column],
    shared: Sequence[Column],
    rows: Sequence[Row],
    metric: Metric,
    shipped: Shipped,
    singles: Singles,
) -> Iterable[str]:
    """One note after the other, first those on columns and means, last those on methods."""
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
    yield from notes_on_singles(records, singles)
    yield from (f"{method}: {_UNKNOWN}" for method in unknown_methods(records, shipped))


def _on_reference(rows: Sequence[Row], metric: Metric) -> Iterable[str]:
    """Full fine-tuning below a linear probe is no upper reference."""
    linear = [row for row in rows if row.method.split(" ")[0] == "linear" and row.mean_of_groups]
    for row in rows:
        if row.reference and row.mean_of_groups and linear and row_key(linear[0], metric) < row_key(row, metric):
            yield (
                f"{row.method} stands below {linear[0].method}: with this recipe and rate it shows "
                "where training stopped, not what full fine-tuning can do"
            )
