"""What so many validation images can tell apart."""

from __future__ import annotations

import pytest

from peftbench.foundation.shares import margins
from peftbench.tune.doubt import smallest_difference


def test_the_margin_is_near_the_normal_one_where_that_holds() -> None:
    # 1.96 * sqrt(2 * 0.8 * 0.2 / 2000) = 0.0248, 1.96 * sqrt(2 * 0.5 * 0.5 / 50) = 0.196
    assert "2000 validation images" in smallest_difference(2000) and "about 2.6 points" in smallest_difference(2000)
    assert "about 20 points" in smallest_difference(50, 0.5)


def test_few_images_and_perfect_scores_promise_nothing() -> None:
    assert smallest_difference(1) == "1 validation image cannot tell two settings apart: they are chosen by chance"
    # the normal approximation says 24, and 10 against 7 of 10 are not told apart
    assert "about 40 points" in smallest_difference(10, 1.0) and "about 40 points" in smallest_difference(10, 0.0)


@pytest.mark.parametrize(("n", "best"), [(10, 10), (50, 48), (200, 160), (200, 199), (3000, 2900)])
def test_what_is_promised_is_what_a_runner_up_is_judged_by(n: int, best: int) -> None:
    clear = next(images for images in range(1, best + 1) if margins(best, best - images, n)[0] > 0)
    promised = float(smallest_difference(n, best / n).partition("about ")[2].partition(" ")[0])
    assert 100 * clear / n <= promised < 100 * clear / n + 1
