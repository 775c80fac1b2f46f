"""The number a task is judged by: its name, which direction is better, and its unit."""

from __future__ import annotations

import sys
from dataclasses import dataclass

HIGHER, LOWER = "higher", "lower"
FRACTION = "fraction"


@dataclass(frozen=True)
class Metric:
    """`unit` is `fraction` for a share in 0..1, which people read in percent, else the unit's name (`degrees`, ``)."""

    name: str
    better: str = HIGHER
    unit: str = FRACTION

    @property
    def scale(self) -> int:
        """What a value is multiplied by where people read it: 100 for a fraction (percent), else 1."""
        return 100 if self.unit == FRACTION else 1

    @property
    def finer(self) -> int:
        """How many decimals more than a percentage it is written with: two for a plain number, mostly below 1."""
        return 0 if self.unit else 2

    def improves(self, value: float, on: float | None) -> bool:
        """Whether `value` is strictly better than `on`, which is None where there is nothing yet."""
        return on is None or (value > on if self.better == HIGHER else value < on)

    def goodness(self, value: float) -> float:
        """`value`, or its negative where lower is better: the larger the better."""
        return value if self.better == HIGHER else -value

    @property
    def worst(self) -> float:
        """No `goodness` is lower: scores of which more is better are not negative."""
        return 0.0 if self.better == HIGHER else -sys.float_info.max

    def shown(self, value: float, decimals: int = 2) -> str:
        """`83.21%` for a fraction, else `11.24 degrees`, or `0.1428` where there is no unit."""
        if self.unit == FRACTION:
            return f"{value:.{decimals}%}"
        return f"{value:.{decimals + self.finer}f} {self.unit}".rstrip()


ACCURACY = Metric("accuracy")
