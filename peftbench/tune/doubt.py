"""How much a choice on few validation images can be trusted."""

from __future__ import annotations

import math

from peftbench.foundation.shares import least_apart
from peftbench.foundation.terminal import number_of

# below this many, a choice is worth a word
FEW_IMAGES = 500


def smallest_difference(num_val: int, accuracy: float = 0.8) -> str:
    """In words, by how much two methods must differ on `num_val` images to be told apart (95 %).

    By the interval with which `advise` judges its runner-up, so that neither promises what the other denies.
    """
    images = least_apart(num_val, accuracy)
    if images is None:
        return f"{number_of(num_val, 'validation image')} cannot tell two settings apart: they are chosen by chance"
    # rounded up, so that what is named is enough
    tenths = math.ceil(1000 * images / num_val)
    shown = math.ceil(100 * images / num_val) if tenths >= 30 else tenths / 10
    return (
        f"{num_val} validation images tell two settings apart when they differ by about {shown} points or more, "
        f"at an accuracy near {accuracy:.0%}; closer ones are chosen between by chance"
    )
