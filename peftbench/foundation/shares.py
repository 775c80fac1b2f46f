"""Shares of right answers among a number of images: how sure one is, and how far apart two have to be.

Two methods that are measured on the same images are compared by their counts alone, as if each had images of its own:
which of them both had right is in no record. Methods mostly fail on the same images, so that intervals from pairs would
be narrower; these call a difference clear rather too seldom.
"""

from __future__ import annotations

import math

Z95 = 1.959964


def wilson(correct: int, n: int) -> tuple[float, float]:
    """95 % interval of a share, by Wilson's score (JASA 1927): holds for few images and shares near 1."""
    share, z = correct / n, Z95
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def margins(first: int, second: int, n: int) -> tuple[float, float]:
    """95 % interval of the difference of two shares of n images, by Newcombe's hybrid score (Stat. Med. 1998).

    Unlike the usual normal one it does not shrink to nothing where a share is 0 or 1.
    """
    (low_a, high_a), (low_b, high_b) = wilson(first, n), wilson(second, n)
    share_a, share_b = first / n, second / n
    below = math.hypot(share_a - low_a, high_b - share_b)
    above = math.hypot(high_a - share_a, share_b - low_b)
    return share_a - share_b - below, share_a - share_b + above


def least_apart(n: int, share: float) -> int | None:
    """By how many of n images another share must differ from `share` for `margins` to leave out 0; None if none does.

    Upwards and downwards are not the same: it is the larger of the two, which holds for both.
    """
    upper = math.ceil(round(max(share, 1 - share) * n, 6))
    return next((images for images in range(1, upper + 1) if margins(upper, upper - images, n)[0] > 0), None)
