"""Which settings are tried: grid, random search, or optuna's TPE. Deterministic in the seed and in earlier scores.

A sampler is a generator: it yields settings (option -> value) and is sent how good each one's validation score is (the
larger the better), or None when the training diverged. Nothing else is kept, so that a tuning that was interrupted
takes the same path again.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from peftbench.config.tuning import TuneSpec
from peftbench.foundation.errors import MissingInput
from peftbench.tune.space import Axis, LogAxis, SizeAxis, Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Setting = dict[str, Value]
Sampler = Generator[Setting, float | None, None]
# which levels a grid refines first: the learning rate decides most, the weight decay least
REFINED_FIRST = ("optim.lr", "method", "optim.weight_decay")


def settings(tune: TuneSpec, axes: Sequence[Axis], worst: float = 0.0) -> Sampler:
    """At most `num_trials` settings. The first is the cell as it stands, so tuning never does worse on validation.

    `worst`: no score is lower, so that it stands for trainings that diverged.
    """
    default = {axis.option: axis.default for axis in axes}
    score = yield default
    num = tune.num_trials - 1
    if tune.strategy == "grid":
        yield from grid(axes, num)
    elif tune.strategy == "random":
        yield from random_search(axes, num, tune.seed)
    else:
        yield from optuna_search(axes, num, tune.seed, default, worst if score is None else score, worst)


def grid(axes: Sequence[Axis], num: int) -> Sampler:
    """The full grid of the largest even size within `num` settings: levels grow in turn, learning rate first.

    Levels are the middles of equal parts of an axis; an axis with one level stays at its default. What does not fit
    into a full grid is not spent.
    """
    levels = grid_levels(axes, num)
    points = [
        [axis.at((level + 0.5) / count) for level in range(count)] if count > 1 else [axis.default]
        for axis, count in zip(axes, levels, strict=True)
    ]
    for index in np.ndindex(*levels):
        yield {axis.option: points[i][level] for i, (axis, level) in enumerate(zip(axes, index, strict=True))}


def grid_levels(axes: Sequence[Axis], num: int) -> list[int]:
    """Levels of each axis, with a product of at most `num`."""

    def rank(i: int) -> tuple[int, int]:
        name = axes[i].option
        return levels[i], REFINED_FIRST.index(name if name in REFINED_FIRST else "method")

    levels = [1] * len(axes)
    while True:
        for i in sorted(range(len(axes)), key=rank):
            axis = axes[i]
            finest = isinstance(axis, SizeAxis) and levels[i] == len(axis.values)
            if not finest and int(np.prod(levels)) // levels[i] * (levels[i] + 1) <= num:
                levels[i] += 1
                break
        else:
            return levels


def random_search(axes: Sequence[Axis], num: int, seed: int) -> Sampler:
    """Independent draws. Each trial and each kind of option has a stream of its own.

    So methods share the points of the learning rates, and a larger budget begins with the trials of a smaller one.
    """
    for trial in range(num):
        units = np.random.default_rng([seed, trial]).random(len(REFINED_FIRST))
        yield {axis.option: axis.at(units[_kind(axis)]) for axis in axes}


def _kind(axis: Axis) -> int:
    return REFINED_FIRST.index(axis.option if isinstance(axis, LogAxis) else "method")


def optuna_search(
    axes: Sequence[Axis], num: int, seed: int, default: Setting, default_score: float, worst: float = 0.0
) -> Sampler:
    """Tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011) of optuna, which knows the default's score."""
    try:
        import optuna
    except ImportError:
        raise MissingInput("tune=optuna needs optuna: pip install 'peftbench[optuna]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spaces = {axis.option: _distribution(axis) for axis in axes}
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(2, num // 3))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    known = _in_space(axes, default)
    if known is not None:
        study.add_trial(optuna.trial.create_trial(params=known, distributions=spaces, value=default_score))
    for _ in range(num):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)
            trial = study.ask(spaces)
        score = yield {axis.option: _value(axis, trial.params[axis.option]) for axis in axes}
        # which leads away from where training diverges
        study.tell(trial, worst if score is None else score)


def _distribution(axis: Axis) -> BaseDistribution:
    from optuna.distributions import FloatDistribution, IntDistribution

    if isinstance(axis, LogAxis):
        return FloatDistribution(axis.low, axis.high, log=True)
    return IntDistribution(0, len(axis.values) - 1)


def _value(axis: Axis, drawn: Any) -> Value:
    return float(f"{drawn:.3g}") if isinstance(axis, LogAxis) else axis.values[drawn]


def _in_space(axes: Sequence[Axis], setting: Setting) -> dict[str, Value] | None:
    """A setting as optuna's parameters; None when it lies outside the ranges, where optuna could not place it."""
    params: dict[str, Value] = {}
    for axis in axes:
        value = setting[axis.option]
        if isinstance(axis, LogAxis) and axis.low <= value <= axis.high:
            params[axis.option] = value
        elif isinstance(axis, SizeAxis) and value in axis.values:
            params[axis.option] = axis.values.index(int(value))
        else:
            return None
    return params
