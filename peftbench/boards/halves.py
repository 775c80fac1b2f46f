"""Base-to-new generalisation in tables: accuracies over the trained and the unseen half of the classes, and their H."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from peftbench.boards.table import Score, score

# the primary metric of such records, and the two it is the harmonic mean of
H, BASE, NEW = "h", "base", "new"


class Halves(NamedTuple):
    """Means over data sets of both accuracies, and their harmonic mean; fractions."""

    base: Score
    new: Score
    h: Score

    @property
    def shown(self) -> dict[str, Score]:
        """Header -> percent."""
        return {name: _percent(value) for name, value in ((BASE, self.base), (NEW, self.new))}


def harmonic(first: float, second: float) -> float:
    """The harmonic mean of two numbers of at least 0."""
    return 2 * first * second / (first + second) if first + second else 0.0


def halves(cells: Mapping[str, Sequence[Mapping[str, Any]]], columns: Sequence[str]) -> Halves | None:
    """Of a row's records by column; None unless every column has some.

    H over data sets is the harmonic mean of the mean base and the mean new accuracy, not the mean of each set's H: so
    do all published rows, as far as both can be computed. Seed by seed where all sets have the same seeds, whose spread
    is then the one shown; else without a spread.
    """
    if not columns or not set(columns) <= set(cells):
        return None
    if not all(record["others"] for name in columns for record in cells[name]):
        return None
    by_column = [{int(record["seed"]): _accuracies(record) for record in cells[name]} for name in columns]
    seeds = set(by_column[0])
    if any(set(found) != seeds for found in by_column):
        mean_base, mean_new = _mean([_mean(list(found.values())) for found in by_column])
        fewest = min(map(len, by_column))
        means = (mean_base, mean_new, harmonic(mean_base, mean_new))
        return Halves(*(Score(mean, None, fewest) for mean in means))
    by_seed = [_mean([found[seed] for found in by_column]) for seed in sorted(seeds)]
    base, new = (score([pair[half] for pair in by_seed]) for half in (0, 1))
    spread = score([harmonic(*pair) for pair in by_seed])
    return Halves(base, new, Score(harmonic(base.mean, new.mean), spread.std, spread.n))


def _accuracies(record: Mapping[str, Any]) -> tuple[float, float]:
    others = json.loads(record["others"])
    return float(others[BASE]), float(others[NEW])


def _mean(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return sum(pair[0] for pair in pairs) / len(pairs), sum(pair[1] for pair in pairs) / len(pairs)


def _percent(value: Score) -> Score:
    return Score(100 * value.mean, None if value.std is None else 100 * value.std, value.n)
