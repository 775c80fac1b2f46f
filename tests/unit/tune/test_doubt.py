"""What so many validation images can tell apart."""

from __future__ import annotations

import math

from peftbench.tune.doubt import smallest_difference


def test_the_margin_is_that_of_two_shares() -> None:
    # 1.96 * sqrt(2 * 0.8 * 0.2 / 200) = 0.0784
    assert "200 validation images" in smallest_difference(200) and "about 8 points" in smallest_difference(200)
    assert f"about {100 * 1.96 * math.sqrt(2 * 0.25 / 50):.0f} points" in smallest_difference(50, 0.5)


def test_few_images_and_perfect_scores_promise_nothing() -> None:
    assert smallest_difference(1) == "1 validation image cannot tell two settings apart: they are chosen by chance"
    assert "about 24 points" in smallest_difference(10, 1.0) and "about 24 points" in smallest_difference(10, 0.0)
