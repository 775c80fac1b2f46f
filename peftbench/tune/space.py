"""The search space of one cell: an axis for each option that tuning may set."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from peftbench.config.gate import RunConfig, option_of
from peftbench.config.tuning import tunable_options
from peftbench.foundation.errors import ConfigError
from peftbench.foundation.spec import defaults_of
from peftbench.methods.base import Method, MethodContractError

Value = float | int


@dataclass(frozen=True)
class LogAxis:
    """A positive number between two bounds, on a logarithmic scale. `default` is what the cell has without tuning."""

    option: str
    default: float
    low: float
    high: float

    def at(self, unit: float) -> float:
        """The value at a point of [0, 1), to three significant digits so that records can be read."""
        value = math.exp(math.log(self.low) + unit * (math.log(self.high) - math.log(self.low)))
        return float(f"{value:.3g}")


@dataclass(frozen=True)
class SizeAxis:
    """A whole number out of a few, ascending."""

    option: str
    default: int
    values: tuple[int, ...]

    def at(self, unit: float) -> int:
        """The value at a point of [0, 1): every size has the same share."""
        return self.values[int(unit * len(self.values))]


Axis = LogAxis | SizeAxis


def search_space(config: RunConfig) -> list[Axis]:
    """The axes of a cell, in the order learning rate, weight decay, size.

    Raises `ConfigError` when `tune.options` names something else or a bound is no valid value of its option.
    """
    tune, method = config.tune, config.method
    known = tunable_options(method.size_option)
    chosen = known if tune.options is None else tune.options
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ConfigError([f"tune.options cannot be {', '.join(unknown)}; for {method.name}: {', '.join(known)}"])
    axes: dict[str, Axis] = {
        "optim.lr": LogAxis("optim.lr", config.optim.lr, *tune.rates(config.optim.lr)),
        "optim.weight_decay": LogAxis("optim.weight_decay", config.optim.weight_decay, *tune.weight_decay),
    }
    if method.size_option:
        if method.size_option not in defaults_of(type(method)):
            words = f"size_option of {method.name} is '{method.size_option}', which is none of its options"
            raise MethodContractError(words)
        size = f"method.{method.size_option}"
        axes[size] = SizeAxis(size, int(option_of(config, size)), sizes(method, tune.size_factors))
    return [axes[name] for name in known if name in chosen]


def sizes(method: Method, factors: list[float]) -> tuple[int, ...]:
    """The method's size times the factors, as whole numbers that the method accepts, ascending."""
    default = getattr(method, method.size_option)
    accepted = set()
    for factor in factors:
        size = max(1, round(default * factor))
        try:
            dataclasses.replace(method, **{method.size_option: size})
        except ConfigError:
            continue
        accepted.add(size)
    if not accepted:
        raise ConfigError([f"tune.size_factors: {method.name} accepts none of its sizes; take 1 among the factors"])
    return tuple(sorted(accepted))
