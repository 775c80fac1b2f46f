"""What a set of accuracies can and cannot tell apart. Plain numbers in, plain numbers out; None where data is lacking.

`scores: [methods, datasets]` are mean accuracies, higher is better. Tests across data sets follow Demsar, "Statistical
Comparisons of Classifiers over Multiple Data Sets", JMLR 2006.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import stdtr, stdtrit

Matrix = npt.NDArray[np.float64]

LEVEL = 0.05
# With fewer, the chi-square approximation of Friedman's test and the ranks themselves say nothing.
FEWEST_DATASETS = 3
# Below these the approximation is rough (Demsar, section 3.2.2).
ROUGH_DATASETS, ROUGH_METHODS = 10, 5


@dataclass(frozen=True)
class Friedman:
    """Friedman's test of the hypothesis that all methods rank alike: chi-square statistic and its p-value."""

    statistic: float
    p: float


def interval95(std: float, n: int) -> float | None:
    """Half the width of the two-sided 95 % t interval of a mean of `n` numbers with sample deviation `std`."""
    if n < 2:
        return None
    return float(stdtrit(n - 1, 0.975)) * std / math.sqrt(n)


def average_ranks(scores: Matrix) -> Matrix:
    """Mean rank of each method over the data sets, 1 is best; equal scores share the mean of their ranks."""
    # means over seeds in another order differ in the last bit, which must not break a tie
    return stats.rankdata(-np.round(scores, 12), axis=0).mean(axis=1)


def friedman(scores: Matrix) -> Friedman | None:
    """Friedman's test over data sets; None with fewer than 3 methods or `FEWEST_DATASETS`, or when all are equal."""
    methods, datasets = scores.shape
    if methods < 3 or datasets < FEWEST_DATASETS or np.all(np.ptp(scores, axis=0) < 1e-12):
        return None
    result = stats.friedmanchisquare(*np.round(scores, 12))
    return Friedman(float(result.statistic), float(result.pvalue))


def critical_difference(num_methods: int, num_datasets: int) -> float | None:
    """Nemenyi: average ranks further apart than this differ at the 5 % level; None where `friedman` has no answer."""
    if num_methods < 3 or num_datasets < FEWEST_DATASETS:
        return None
    q = float(stats.studentized_range.ppf(1 - LEVEL, num_methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(num_methods * (num_methods + 1) / (6 * num_datasets))


def wilcoxon_can_decide(num_methods: int, num_datasets: int) -> bool:
    """Whether the smallest possible p-value, 2 / 2^datasets, survives Holm's correction over all pairs of methods."""
    return num_methods > 1 and math.comb(num_methods, 2) * 2.0 ** (1 - num_datasets) <= LEVEL


def wilcoxon_holm(scores: Matrix) -> Matrix:
    """Two-sided Wilcoxon signed-rank test over data sets for each pair: `[methods, methods]` p-values after Holm.

    Exact wherever no differences are zero or tied; equal pairs have p = 1.
    """
    methods = len(scores)
    first, second = np.triu_indices(methods, k=1)
    differences = np.round(scores[first] - scores[second], 12)
    sizes = np.sort(np.abs(differences), axis=1)
    plain = (sizes[:, 0] > 0) & np.all(np.diff(sizes, axis=1) > 0, axis=1)
    p = np.ones(len(differences))
    if plain.any():
        # one call for all pairs without ties: the exact distribution is then computed once
        p[plain] = stats.wilcoxon(differences[plain], axis=1).pvalue
    for index in np.flatnonzero(~plain):
        if np.any(differences[index]):
            p[index] = stats.wilcoxon(differences[index]).pvalue
    matrix = np.ones((methods, methods))
    matrix[first, second] = matrix[second, first] = holm(p)
    return matrix


def pooled_t(samples: Sequence[tuple[float, float, int]]) -> list[float | None]:
    """Two-sided t tests of each mean against the first, as in a one-way analysis of variance.

    `samples` are (mean, sample deviation, n) with n >= 2. The variance is pooled over all of them, since a handful of
    seeds does not tell a method's own. None where nothing varies and the means differ.
    """
    freedom = sum(n - 1 for _, _, n in samples)
    variance = sum((n - 1) * std**2 for _, std, n in samples) / max(freedom, 1)
    first, _, first_n = samples[0]
    p_values: list[float | None] = []
    for mean, _, n in samples[1:]:
        if variance == 0:
            p_values.append(1.0 if mean == first else None)
        else:
            t = abs(first - mean) / math.sqrt(variance * (1 / first_n + 1 / n))
            p_values.append(2 * float(stdtr(freedom, -t)))
    return p_values


def holm(p_values: Sequence[float] | Matrix) -> Matrix:
    """Holm's step-down adjusted p-values, in the given order (Holm, Scand. J. Statistics 1979)."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    adjusted = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    result = np.empty_like(adjusted)
    result[order] = adjusted
    return result
