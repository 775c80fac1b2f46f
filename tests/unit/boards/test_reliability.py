"""Interquartile means, bootstrap intervals, profiles and budgets against numbers computed by other means."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from peftbench.boards.reliability import (
    Estimate,
    expected_best,
    expected_best_with,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    with_interval,
)

RUNS = np.random.default_rng(0).normal(70, 5, size=(5, 7))
OTHER = np.random.default_rng(1).normal(71, 5, size=(4, 7))


def test_the_interquartile_mean_leaves_a_quarter_out_at_either_end() -> None:
    assert interquartile_mean(np.arange(8.0).reshape(4, 2)) == np.mean([2, 3, 4, 5])
    # nine numbers lose two at either end
    assert interquartile_mean(np.array([[9.0, 1, 100], [2, 3, 4], [5, 6, -50]])) == np.mean([2, 3, 4, 5, 6])


def test_the_interquartile_mean_is_scipys_trimmed_mean() -> None:
    from scipy.stats import trim_mean

    assert interquartile_mean(RUNS) == pytest.approx(trim_mean(RUNS, 0.25, axis=None), abs=1e-12)


def test_probability_of_improvement_is_mann_whitneys_u_over_pairs() -> None:
    from scipy.stats import mannwhitneyu

    tied = np.round(RUNS / 4), np.round(OTHER / 4)
    for first, second in ((RUNS, OTHER), tied):
        by_u = np.mean(mannwhitneyu(first, second, axis=0).statistic) / (len(first) * len(second))
        assert probability_of_improvement(first, second) == pytest.approx(by_u, abs=1e-12)
    assert probability_of_improvement(RUNS, RUNS) == 0.5


def test_a_profile_counts_scores_above_each_threshold() -> None:
    runs = np.array([[0.2, 0.6], [0.4, 0.8]])
    assert performance_profile(runs, [0.0, 0.2, 0.5, 0.8]) == [1.0, 0.75, 0.5, 0.0]


def test_the_interval_is_that_of_all_draws_within_data_sets() -> None:
    """Two seeds on two data sets have sixteen equally likely draws, and the mean of a draw one of nine values."""
    runs = np.array([[0.0, 10.0], [1.0, 30.0]])
    draws = sorted(
        np.mean([*a, *b]) for a in itertools.product([0, 1], repeat=2) for b in itertools.product([10, 30], repeat=2)
    )
    found = with_interval(lambda r: r.mean(axis=(-2, -1)), runs)
    # 1 of 16 draws is the least and 1 of 16 the largest: more than 2.5 % each
    assert found == Estimate(runs.mean(), draws[0], draws[-1])


def test_one_seed_has_no_interval() -> None:
    assert with_interval(interquartile_mean, RUNS[:1]) == Estimate(float(interquartile_mean(RUNS[:1])), None, None)


def test_the_interval_is_the_same_in_every_run() -> None:
    first, second = (with_interval(probability_of_improvement, RUNS, OTHER) for _ in range(2))
    assert first == second and first.low is not None and first.high is not None
    assert first.low < first.value < first.high


def test_numbers_agree_with_rliable() -> None:
    """Its intervals are not compared: rliable 1.2 does not run with the `arch` of today."""
    metrics = pytest.importorskip("rliable.metrics")
    assert interquartile_mean(RUNS) == pytest.approx(metrics.aggregate_iqm(RUNS), abs=1e-12)
    theirs = metrics.probability_of_improvement(RUNS, OTHER)
    assert probability_of_improvement(RUNS, OTHER) == pytest.approx(theirs, abs=1e-12)


def test_the_expected_best_is_the_mean_over_all_choices_of_trials() -> None:
    scores = [3.0, 1.0, 4.0, 1.5, 9.0]
    by_hand = [np.mean([max(chosen) for chosen in itertools.combinations(scores, n)]) for n in range(1, 6)]
    assert expected_best(scores) == pytest.approx(by_hand, abs=1e-12)
    by_formula = [
        sum(x * math.comb(i, n - 1) for i, x in enumerate(sorted(scores))) / math.comb(5, n) for n in range(1, 6)
    ]
    assert expected_best(scores) == pytest.approx(by_formula, abs=1e-12)
    assert expected_best([2.0]) == [2.0]


@pytest.mark.parametrize("first", [0.5, 2.0, 10.0])
def test_a_first_trial_that_is_always_made_stays_while_the_others_are_drawn(first: float) -> None:
    drawn = [3.0, 1.0, 4.0, 1.5, 9.0]
    by_hand = [np.mean([max(first, *chosen) for chosen in itertools.combinations(drawn, n)]) for n in range(1, 6)]
    assert expected_best_with(first, drawn) == pytest.approx([first, *by_hand], abs=1e-12)
    assert expected_best_with(first, []) == [first]
