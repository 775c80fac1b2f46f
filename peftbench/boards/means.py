"""Means over data sets, groups and seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from peftbench.boards.table import Column, Score, score

# One repetition group in one column: seed -> score.
Repetitions = dict[int, float]


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
