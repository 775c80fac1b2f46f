"""How SNELLA (Shen et al., 2025, arXiv:2510.24037) shares out the entries of its updates over a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions.kernels import CompetingKernel, share_out
from peftbench.objectives.base import OBJECTIVES, Objective
from peftbench.tasks.model import TaskModel
from peftbench.train.loss import LossFn


@OBJECTIVES.add("snella")
@dataclass(frozen=True)
class BiLevelCompetition(Objective):
    """The task's own loss; behind epoch e of E the share of entries left out is s + (s0 - s) (1 - e / E)^3.

    s0 is the method's `sparsity`, s the one of the end. The entries that are kept are shared out among all matrices in
    the proportion of mean(I U) of both factors, I a running mean of the sensitivity |p dL/dp| of their entries, U of
    |sensitivity - I|. The released settings take s for each task (0.2 to 0.93). Adds no parameter.
    """

    paper: ClassVar[str] = "arXiv:2510.24037"
    of_method: ClassVar[str] = "snella"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "The sensitivity is taken ahead of an optimiser step, where the release multiplies its gradient by what the "
        "step left."
    )

    sparsity: float = option(0.8, ge=0, lt=1)
    keep_mean: float = option(0.85, gt=0, lt=1)
    keep_spread: float = option(0.85, gt=0, lt=1)

    def install(self, model: TaskModel, own: nn.Module) -> None:
        if not kernels_of(model):
            raise NotApplicable(f"{self.name} shares entries out among kernels; it goes with method=snella")

    def loss_fn(self, model: TaskModel, base: LossFn) -> LossFn:
        for kernel in kernels_of(model):
            kernel.watched(self.keep_mean, self.keep_spread)
        return base

    def after_epoch(self, model: TaskModel, done: float) -> None:
        kernels = kernels_of(model)
        # what was measured behind the last epoch stays
        if done < 1:
            share_out(kernels, self.sparsity + (kernels[0].sparsity - self.sparsity) * (1 - done) ** 3)


def kernels_of(model: TaskModel) -> list[CompetingKernel]:
    return model.backbone.all_of(CompetingKernel)
