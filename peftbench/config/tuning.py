"""Options of tuning: the section `tune` of a configuration."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import ClassVar

from peftbench.foundation.spec import Spec, option

# of a cell's own rate: as wide for every method as the trials behind hparams=ours
_LOWEST, _HIGHEST = 0.1, 30.0
STRATEGIES = ("none", "grid", "random", "optuna")


@dataclass(frozen=True)
class TuneSpec(Spec):
    """How hyperparameters are chosen before the reported run; `strategy=none` takes them as they are.

    Every method gets `num_trials` trials over learning rate, weight decay and its one size option (rank, width, number
    of tokens), if it has one. Rates and decays lie in their range on a logarithmic scale, sizes are the default times
    `size_factors`. Where `lr` is null, rates are searched from a tenth to thirty times the cell's own. A trial trains
    on 800 images with the seed `tune.seed` and is measured on 200 others. `options` is what tuning may set; null means
    all three, without those that the command line names.
    """

    section: ClassVar[str] = "tune"

    strategy: str = option("none", choices=STRATEGIES)
    num_trials: int = option(16, ge=2)
    lr: list[float] | None = option(None, gt=0)
    weight_decay: list[float] = option([1e-4, 1e-1], gt=0)
    size_factors: list[float] = option([0.25, 0.5, 1.0, 2.0, 4.0], gt=0)
    seed: int = option(0, ge=0)
    options: list[str] | None = option(None)

    def problems(self) -> list[str]:
        problems = [
            f"tune.{name} must be two numbers, the lower one first, got {bounds}"
            for name, bounds in (("lr", self.lr), ("weight_decay", self.weight_decay))
            if bounds is not None and (len(bounds) != 2 or bounds[0] >= bounds[1])
        ]
        if not self.size_factors:
            problems.append("tune.size_factors must hold at least one number")
        if self.options == []:
            problems.append("tune.options is empty: every option of tuning is named on the command line; name fewer")
        return problems

    def rates(self, own: float) -> tuple[float, float]:
        """Between which learning rates is searched for a cell whose own is `own`.

        One range for all would hold the papers' rates of some methods (FourierFT 0.3) and not of others.
        """
        low, high = (own * _LOWEST, own * _HIGHEST) if self.lr is None else self.lr
        return low, high

    @property
    def active(self) -> bool:
        return self.strategy != "none"

    @property
    def label(self) -> str:
        """How tables name rows that were tuned this way: budget, sampler, and what departs from the usual search."""
        usual = TuneSpec()
        names = ("lr", "weight_decay", "size_factors", "seed")
        changed = [f"{name}={getattr(self, name)}" for name in names if getattr(self, name) != getattr(usual, name)]
        return f"tuned ({', '.join([f'budget {self.num_trials}', self.strategy, *changed])})"


def tunable_options(size_option: str) -> list[str]:
    """What tuning may set for a method whose size option has this name ("" for a method without one)."""
    return ["optim.lr", "optim.weight_decay", *([f"method.{size_option}"] if size_option else [])]


def for_method(tune: TuneSpec, size_option: str, named: Collection[str]) -> TuneSpec:
    """The section with `options` written out: those of the method that the command line did not name."""
    if not tune.active or tune.options is not None:
        return tune
    return replace(tune, options=[name for name in tunable_options(size_option) if name not in named])
