"""Statistics of few repetitions over several data sets (Agarwal et al., NeurIPS 2021, arXiv:2108.13264).

`runs: [seeds, datasets]` are the scores of one method, higher is better. Plain numbers in, plain numbers out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Runs = npt.NDArray[np.float64]

LEVEL = 0.95
DRAWS = 2000
SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval; the ends are None where nothing was repeated."""

    value: float
    low: float | None
    high: float | None


def interquartile_mean(runs: Runs) -> Runs:
    """Mean of the middle half of all scores: a quarter of them, rounded down, is left out at either end."""
    ordered = np.sort(runs.reshape(*runs.shape[:-2], -1), axis=-1)
    size = ordered.shape[-1]
    middle: Runs = ordered[..., size // 4 : size - size // 4].mean(axis=-1)
    return middle


def probability_of_improvement(first: Runs, second: Runs) -> Runs:
    """Mean over data sets of how often a run of `first` beats one of `second`; a tie counts as half of one."""
    over = first[..., :, None, :] - second[..., None, :, :]
    wins: Runs = ((over > 0) + 0.5 * (over == 0)).mean(axis=(-3, -2, -1))
    return wins


def performance_profile(runs: Runs, thresholds: Sequence[float]) -> list[float]:
    """For each threshold the share of scores, over seeds and data sets, that are above it."""
    return [float((runs > threshold).mean()) for threshold in thresholds]


def with_interval(statistic: Callable[..., Runs], *runs: Runs, draws: int = DRAWS, seed: int = SEED) -> Estimate:
    """A statistic of one or more methods with its percentile interval under the stratified bootstrap.

    Each draw takes as many seeds as there are, with replacement, on each data set and of each method by itself: the
    data sets are the question asked and stay as they are. `statistic` takes [..., seeds, datasets] of each method.
    Deterministic in `seed`.
    """
    value = float(statistic(*runs))
    if any(len(each) < 2 for each in runs):
        return Estimate(value, None, None)
    generator = np.random.default_rng(seed)
    found = statistic(*(_resampled(each, generator, draws) for each in runs))
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


def _resampled(runs: Runs, generator: np.random.Generator, draws: int) -> Runs:
    """[draws, seeds, datasets]"""
    chosen = generator.integers(len(runs), size=(draws, *runs.shape))
    return np.take_along_axis(runs[None], chosen, axis=1)


def expected_best(scores: Sequence[float]) -> list[float]:
    """For n = 1, 2, ... trials the expected best of n, all choices of n of the trials being alike.

    The unbiased estimate sum_i x_(i) C(i - 1, n - 1) / C(N, n) over the sorted scores (Tang et al., ACL 2020,
    arXiv:2004.13705) of what Dodge et al. (EMNLP 2019, arXiv:1909.03004) show; higher is better.
    """
    ordered = np.sort(np.asarray(scores, dtype=float))
    size = len(ordered)
    share = np.full(size, 1 / max(size, 1))  # C(i - 1, n - 1) / C(N, n) at n = 1
    expected = []
    for n in range(1, size + 1):
        expected.append(float(share @ ordered))
        # C(i-1, n) / C(N, n+1) from C(i-1, n-1) / C(N, n)
        share = share * np.maximum(np.arange(size) - (n - 1), 0) / n * (n + 1) / max(size - n, 1)
    return expected


def expected_best_with(first: float, drawn: Sequence[float]) -> list[float]:
    """For n = 1, 2, ... trials the expected best of a first one that is always made and n - 1 of those `drawn`.

    All choices among `drawn` are alike, none is taken twice, and the best of them counts where it is above `first`.
    """
    return [float(first), *expected_best([max(first, score) for score in drawn])]
