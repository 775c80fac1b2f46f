"""How much a choice on few validation images can be trusted."""

from __future__ import annotations

import math

from peftbench.foundation.terminal import number_of

# below this many, a choice is worth a word
FEW_IMAGES = 500


def smallest_difference(num_val: int, accuracy: float = 0.8) -> str:
    """In words, by how much two methods must differ on `num_val` images to be told apart (95 %)."""
    # at 0 or 1 the normal approximation would let any difference count
    accuracy = min(max(accuracy, 1 / (num_val + 2)), 1 - 1 / (num_val + 2))
    points = 100 * 1.96 * math.sqrt(2 * accuracy * (1 - accuracy) / num_val)
    if points >= 100:
        return f"{number_of(num_val, 'validation image')} cannot tell two settings apart: they are chosen by chance"
    return (
        f"{num_val} validation images tell two settings apart when they differ by about {points:.0f} points or more, "
        f"at an accuracy near {accuracy:.0%}; closer ones are chosen between by chance"
    )
