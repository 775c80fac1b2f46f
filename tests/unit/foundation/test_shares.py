"""Intervals of shares, beside statsmodels', and the difference from which on they leave out 0."""

from __future__ import annotations

import pytest
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from peftbench.foundation.shares import least_apart, margins, wilson


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (87, 155), (155, 155), (1, 2)])
def test_the_interval_is_wilsons(correct: int, n: int) -> None:
    assert wilson(correct, n) == pytest.approx(proportion_confint(correct, n, method="wilson"), abs=1e-6)


@pytest.mark.parametrize(("first", "second", "n"), [(10, 10, 10), (1, 0, 1), (90, 80, 100), (0, 7, 9)])
def test_the_interval_of_a_difference_is_newcombes(first: int, second: int, n: int) -> None:
    known = confint_proportions_2indep(first, n, second, n, method="newcomb", compare="diff")
    assert margins(first, second, n) == pytest.approx(known, abs=1e-6)


@pytest.mark.parametrize(
    ("n", "share", "pair"),
    [
        (200, 0.8, (160, 143)),
        (200, 0.2, (160, 143)),
        (50, 0.5, (25, 15)),
        (10, 1.0, (10, 6)),
        (10, 0.0, (10, 6)),
        (200, 1.0, (200, 195)),
    ],
)
def test_the_least_difference_is_the_first_whose_interval_leaves_out_0(
    n: int, share: float, pair: tuple[int, int]
) -> None:
    def lower_bound(first: int, second: int) -> float:
        return float(confint_proportions_2indep(first, n, second, n, method="newcomb", compare="diff")[0])

    first, second = pair
    assert least_apart(n, share) == first - second
    assert lower_bound(first, second) > 0 >= lower_bound(first, second + 1)
    # it is enough the other way as well, where there is room
    assert first == n or lower_bound(first + (first - second), first) > 0


def test_one_image_tells_nothing_apart() -> None:
    assert least_apart(1, 0.8) is None and least_apart(2, 0.8) == 2
