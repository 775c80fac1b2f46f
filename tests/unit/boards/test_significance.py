"""Statistics against tables, textbooks, and a library that computes them independently."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
from scipy import stats

from peftbench.boards import significance as sig

# Error-free view of 5 methods on 12 data sets; one tie within a data set.
SCORES = np.random.default_rng(7).normal(0.7, 0.05, (5, 12)) + np.array([[0.1], [0.04], [0.03], [0.0], [-0.1]])
SCORES[3, 4] = SCORES[2, 4]


def test_intervals_follow_the_t_table() -> None:
    # two-sided 95 % quantiles of t with 1, 2, 4 and 9 degrees of freedom, as printed in every table
    for n, quantile in ((2, 12.706), (3, 4.303), (5, 2.776), (10, 2.262)):
        assert sig.interval95(0.5, n) == pytest.approx(quantile * 0.5 / math.sqrt(n), rel=2e-4)
    assert sig.interval95(0.5, 1) is None


def test_average_ranks_share_ties() -> None:
    scores = np.array([[0.9, 0.5, 0.1 + 0.2], [0.8, 0.5, 0.3], [0.7, 0.6, 0.1]])
    assert sig.average_ranks(scores).tolist() == pytest.approx(
        [(1 + 2.5 + 1.5) / 3, (2 + 2.5 + 1.5) / 3, (3 + 1 + 3) / 3]
    )


@pytest.mark.parametrize(("methods", "q"), [(3, 2.343), (5, 2.728), (10, 3.164)])
def test_critical_differences_use_the_printed_quantiles(methods: int, q: float) -> None:
    # q_0.05 from table 5 of Demsar 2006
    expected = q * math.sqrt(methods * (methods + 1) / (6 * 14))
    assert sig.critical_difference(methods, 14) == pytest.approx(expected, rel=5e-4)


def test_what_is_too_small_has_no_answer() -> None:
    assert sig.critical_difference(5, 1) is None
    assert sig.critical_difference(2, 30) is None
    assert sig.friedman(SCORES[:, :2]) is None
    assert sig.friedman(SCORES[:2]) is None
    assert sig.friedman(np.ones((4, 6))) is None


def test_friedman_by_its_formula() -> None:
    ranks = np.array([[3, 1, 2], [3, 2, 1], [2, 1, 3], [3, 1, 2]]).T
    # chi2 = 12 / (N k (k + 1)) * sum of squared rank sums - 3 N (k + 1), with rank sums 11, 5 and 8
    result = sig.friedman(-ranks.astype(float))
    assert result is not None
    assert result.statistic == pytest.approx(12 / (4 * 3 * 4) * (121 + 25 + 64) - 3 * 4 * 4)
    # two degrees of freedom: the tail of chi2 is exp(-x / 2)
    assert result.p == pytest.approx(math.exp(-result.statistic / 2))


def test_nemenyi_agrees_with_the_posthoc_library() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posthocs = pytest.importorskip("scikit_posthocs")
        p = posthocs.posthoc_nemenyi_friedman(SCORES.T).to_numpy()
    ranks, difference = sig.average_ranks(SCORES), sig.critical_difference(5, 12)
    assert difference is not None
    for first, second in itertools.combinations(range(5), 2):
        assert (abs(ranks[first] - ranks[second]) > difference) == (p[first, second] < 0.05)


def test_pairs_agree_with_the_posthoc_library() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posthocs = pytest.importorskip("scikit_posthocs")
        expected = posthocs.posthoc_wilcoxon(list(SCORES), p_adjust="holm").to_numpy()
    assert sig.wilcoxon_holm(SCORES) == pytest.approx(expected)


def test_equal_methods_are_not_told_apart() -> None:
    p = sig.wilcoxon_holm(np.stack([SCORES[0], SCORES[0], SCORES[4]]))
    assert p[0, 1] == 1
    assert p[0, 2] < 0.05


def test_a_wilcoxon_test_needs_data_sets() -> None:
    # smallest two-sided p with n pairs is 2 / 2^n: 0.0625 at 5, 0.03125 at 6; ten pairs of five methods need 0.005
    assert not sig.wilcoxon_can_decide(2, 5)
    assert sig.wilcoxon_can_decide(2, 6)
    assert not sig.wilcoxon_can_decide(5, 8)
    assert sig.wilcoxon_can_decide(5, 9)
    assert not sig.wilcoxon_can_decide(1, 50)


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.02, 0.03, 0.4 times 4, 3, 2, 1, never falling
    assert sig.holm([0.03, 0.01, 0.4, 0.02]).tolist() == pytest.approx([0.06, 0.04, 0.4, 0.06])
    assert sig.holm([0.9, 0.8]).tolist() == [1.0, 1.0]
    assert len(sig.holm([])) == 0


def test_the_t_test_over_seeds_pools_the_variance() -> None:
    seeds = [[0.80, 0.82, 0.81], [0.79, 0.80, 0.78], [0.60, 0.61, 0.65]]
    samples = [(float(np.mean(s)), float(np.std(s, ddof=1)), 3) for s in seeds]
    p = sig.pooled_t(samples)
    # with two methods the pooled test is Student's, and its square is the F test of the analysis of variance
    assert sig.pooled_t(samples[:2]) == pytest.approx([stats.f_oneway(*seeds[:2]).pvalue])
    variance = np.mean([np.var(s, ddof=1) for s in seeds])
    t = (0.81 - 0.79) / math.sqrt(variance * 2 / 3)
    assert p[0] == pytest.approx(2 * stats.t.sf(t, 6))
    assert sig.pooled_t([(0.5, 0.0, 3), (0.5, 0.0, 3), (0.4, 0.0, 3)]) == [1.0, None]
