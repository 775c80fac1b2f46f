"""Beside a leaderboard's tables: what few repetitions say of each row, how sure it is of itself, and how robust."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from peftbench.boards.escaping import csv_text, markdown
from peftbench.boards.places import RELIABILITY, RELIABILITY_FORMATS
from peftbench.boards.reliability import (
    Estimate,
    Runs,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    with_interval,
)
from peftbench.boards.table import Row, Table
from peftbench.boards.texts import EMPTY
from peftbench.boards.variants import extend_label
from peftbench.foundation.files import replace_text
from peftbench.foundation.metric import FRACTION, Metric
from peftbench.records.collect import PAPER_DEFAULTS

LEGEND = (
    "Over the data sets that the rows of a table share, with the interval of 95 % of 2,000 stratified bootstrap draws "
    "over seeds (Agarwal et al., NeurIPS 2021); one seed has none. IQM: interquartile mean, of the middle half of all "
    "scores. P(better): how often a run is better than one of the reference, a tie being half; both ends on one side "
    "of 0.5 tell them apart. ECE: expected calibration error in percent, 15 bins, mean over data sets. corrupted: mean "
    "over corrupted copies of the test images, of the records in which it was measured. A row 'tuned' is the same "
    "method with what its own trials chose."
)
# what a row is compared with: the first of these that a table has
REFERENCES = ("lora", "linear")
_NUM_THRESHOLDS = 21


@dataclass(frozen=True)
class Line:
    """One row: `improvement` is over the table's reference, None for itself. `ece` and `corrupted` are fractions."""

    method: str
    iqm: Estimate
    improvement: Estimate | None
    profile: tuple[float, ...]
    ece: float | None
    corrupted: float | None


@dataclass(frozen=True)
class Reliability:
    """The lines of one table, by interquartile mean, best first. `pairs[i][j]`: probability that i is better than j."""

    title: str
    metric: Metric
    reference: str
    thresholds: tuple[float, ...]
    lines: tuple[Line, ...]
    pairs: tuple[tuple[float, ...], ...]


def reliability(
    tables: Sequence[Table], rows: pd.DataFrame, robustness: Mapping[str, float] | None = None
) -> list[Reliability]:
    """One for each table with a row that has as many seeds on each shared data set; tuned ones join those of defaults.

    `rows` are those of `collect` that the tables were made of; `robustness` is fingerprint -> mean score on corrupted
    test images.
    """
    scored = "val_score" if tables and tables[0].split == "val" else "score"
    known = {name: dict(zip(rows["fingerprint"], rows[name], strict=True)) for name in (scored, "ece")}
    found = []
    for table in tables:
        named = {row.method: row for row in table.rows} | _tuned(table, tables)
        runs = {name: one for name, row in named.items() if (one := _runs(table, row, known[scored])) is not None}
        if runs:
            beside = {
                name: (_mean(table, named[name], known["ece"]), _mean(table, named[name], robustness or {}))
                for name in runs
            }
            found.append(_of(table, runs, beside))
    return found


def _tuned(table: Table, tables: Sequence[Table]) -> dict[str, Row]:
    """Rows of other tables on the same footing, whose methods' own trials chose their hyperparameters."""
    if table.hyperparameters != PAPER_DEFAULTS:
        return {}
    same = [
        other
        for other in tables
        if other.hyperparameters.startswith("tuned")
        and (other.task, other.metric, other.backbone, other.protocol, other.shots)
        == (table.task, table.metric, table.backbone, table.protocol, table.shots)
    ]
    return {
        extend_label(row.method, ", ".join([other.hyperparameters, *([f"lr {row.rate}"] if row.rate else [])])): row
        for other in same
        for row in other.rows
    }


def _runs(table: Table, row: Row, scores: Mapping[str, float]) -> Runs | None:
    """Goodness [seeds, datasets]; None unless every shared data set was run with as many seeds."""
    columns = [row.records.get(column.name, ()) for column in table.shared]
    if not columns or len({len(names) for names in columns}) > 1 or not columns[0]:
        return None
    return np.array([[table.metric.goodness(float(scores[name])) for name in names] for names in columns]).T


def _mean(table: Table, row: Row, values: Mapping[str, Any]) -> float | None:
    """Mean over the shared data sets; None where one record does not know it."""
    found: list[list[Any]] = [[values.get(name) for name in row.records[column.name]] for column in table.shared]
    if any(pd.isna(value) for column in found for value in column):
        return None
    return statistics.fmean(statistics.fmean(column) for column in found)


def _of(table: Table, runs: Mapping[str, Runs], beside: Mapping[str, tuple[float | None, float | None]]) -> Reliability:
    reference = next((name for name in REFERENCES if name in runs), "")
    thresholds = _thresholds(table.metric, list(runs.values()))
    lines = [
        Line(
            name,
            with_interval(interquartile_mean, one),
            with_interval(probability_of_improvement, one, runs[reference])
            if reference and name != reference
            else None,
            tuple(performance_profile(one, [table.metric.goodness(value) for value in thresholds])),
            *beside[name],
        )
        for name, one in runs.items()
    ]
    lines.sort(key=lambda line: (-line.iqm.value, line.method))
    pairs = tuple(
        tuple(float(probability_of_improvement(runs[one.method], runs[other.method])) for other in lines)
        for one in lines
    )
    return Reliability(table.title, table.metric, reference, thresholds, tuple(lines), pairs)


def _thresholds(metric: Metric, runs: Sequence[Runs]) -> tuple[float, ...]:
    """Every five points of a percentage; of another unit steps between the worst and the best score."""
    if metric.unit == FRACTION:
        return tuple(np.linspace(0, 1, _NUM_THRESHOLDS).round(2).tolist())
    seen = np.concatenate([np.ravel(one) for one in runs])
    return tuple(metric.goodness(value) for value in np.linspace(seen.min(), seen.max(), _NUM_THRESHOLDS).tolist())


def to_markdown(one: Reliability) -> str:
    """The lines for readers, under the title of their table."""
    better = f"P(better than {one.reference})"
    names = ["method", "IQM [95 %]", better, "ECE", "corrupted"]
    cells = [
        [
            line.method,
            _shown(_read(line.iqm, one.metric), 2 + one.metric.finer),
            _shown(line.improvement, 2),
            *(EMPTY if value is None else f"{100 * value:.1f}" for value in (line.ece,)),
            EMPTY if line.corrupted is None else f"{one.metric.scale * line.corrupted:.{1 + one.metric.finer}f}",
        ]
        for line in one.lines
    ]
    kept = [index for index in range(len(names)) if index < 2 or any(row[index] != EMPTY for row in cells)]
    body = pd.DataFrame([[markdown(row[index]) for index in kept] for row in cells]).to_markdown(
        index=False,
        headers=[markdown(names[index]) for index in kept],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left", *["right"] * (len(kept) - 1)],
    )
    return f"## {markdown(one.title)}\n\n{body}\n"


def frame(one: Reliability) -> pd.DataFrame:
    """One row a method with unrounded numbers, the profile as `above_<threshold>`; fractions in percent."""
    scale = one.metric.scale
    rows = []
    for line in one.lines:
        iqm, over = _read(line.iqm, one.metric), line.improvement or Estimate(float("nan"), None, None)
        rows.append(
            {
                "table": one.title,
                "method": line.method,
                "iqm": iqm.value,
                "iqm_low": iqm.low,
                "iqm_high": iqm.high,
                "reference": one.reference,
                "p_better": None if line.improvement is None else over.value,
                "p_better_low": over.low,
                "p_better_high": over.high,
                "ece": None if line.ece is None else 100 * line.ece,
                "corrupted": None if line.corrupted is None else scale * line.corrupted,
                **{f"above_{scale * t:.4g}": share for t, share in zip(one.thresholds, line.profile, strict=True)},
            }
        )
    return pd.DataFrame(rows, dtype=object)


def document(one: Reliability) -> dict[str, Any]:
    """Everything as plain values; fractions in percent."""
    numbers = frame(one).drop(columns=["table", "reference"])
    plain = [name for name in numbers.columns if not name.startswith("above_")]
    return {
        "title": one.title,
        "reference": one.reference,
        "thresholds": [one.metric.scale * value for value in one.thresholds],
        "rows": [
            {**values, "profile": list(line.profile)}
            for values, line in zip(numbers[plain].to_dict("records"), one.lines, strict=True)
        ],
        "probability_of_improvement": [list(row) for row in one.pairs],
    }


def write(found: Sequence[Reliability], folder: Path) -> list[Path]:
    """Write reliability.md, .csv and .json, each in one step; raises `RecordError` when the disk refuses."""
    contents = {
        "csv": csv_text(pd.concat([frame(one) for one in found])) if found else "",
        "json": json.dumps(
            {"schema": 1, "legend": LEGEND, "tables": [document(one) for one in found]},
            indent=1,
            ensure_ascii=False,
            allow_nan=False,
        )
        + "\n",
        "md": "\n".join(["# Reliability\n", f"{LEGEND}\n", *map(to_markdown, found)]),
    }
    paths = [folder / f"{RELIABILITY}.{ending}" for ending in RELIABILITY_FORMATS]
    for path in paths:
        replace_text(path, contents[path.suffix[1:]])
    return paths


def _read(estimate: Estimate, metric: Metric) -> Estimate:
    """From goodness to what people read; of lower-is-better numbers the ends change places."""
    value, low, high = (None if x is None else metric.scale * metric.goodness(x) for x in vars(estimate).values())
    assert value is not None
    ends = (low, high) if metric.goodness(1.0) > 0 else (high, low)
    return Estimate(value, *ends)


def _shown(estimate: Estimate | None, decimals: int) -> str:
    if estimate is None:
        return EMPTY
    value = f"{estimate.value:.{decimals}f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{estimate.low:.{decimals}f}, {estimate.high:.{decimals}f}]"
