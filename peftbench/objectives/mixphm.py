"""The redundancy loss of MixPHM (Jiang and Zheng, CVPR 2023, arXiv:2303.01239)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from peftbench.backbones.base import Stack
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions.heard import heard_in
from peftbench.interventions.redundancy import Redundant
from peftbench.objectives.base import OBJECTIVES, Objective
from peftbench.tasks.model import TaskModel
from peftbench.train.batches import Batch
from peftbench.train.loss import LossFn, Model


@OBJECTIVES.add("mixphm")
@dataclass(frozen=True)
class Redundancy(Objective):
    """The task's own loss + weight * mean over adapters of 3.9e-3 / B sum_(i != j) (u^T x)_ij^2 (released code).

    x is what enters an adapter of `method=mixphm` and u what it adds, [tokens, width] over all B sequences of the batch
    without padding, each row of length 1 (the release's decoder counts padding of answers, and its encoder as many rows
    as are real, from a sequence in which padding stands before the image). Of several transformers the mean of their
    means, as of the release's encoder and decoder. Goes with any task. Adds no parameter.
    """

    paper: ClassVar[str] = "arXiv:2303.01239"
    of_method: ClassVar[str] = "mixphm"
    of_any: ClassVar[bool] = True
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "Without the release's second term, which aligns each adapter with the mean of the last layer."
    )

    # of the released scripts
    weight: float = option(0.2, ge=0)

    def install(self, model: TaskModel, own: nn.Module) -> None:
        for stack, adapters in adapters_of(model):
            for adapter in adapters:
                adapter.listened(stack)

    def loss_fn(self, model: TaskModel, base: LossFn) -> LossFn:
        stacks = [adapters for _, adapters in adapters_of(model)]

        def loss_fn(asked: Model, batch: Batch) -> Tensor:
            loss, redundancies = heard_in(lambda: base(asked, batch), stacks)
            return loss + self.weight * redundancies.mean()

        return loss_fn


def adapters_of(model: TaskModel) -> list[tuple[Stack, list[Redundant]]]:
    """The adapters of each transformer that has some. Raises `NotApplicable` where none has."""
    stacks = [stack for tower in model.backbone.towers.values() for stack in tower.stacks]
    found = [(stack, adapters) for stack in stacks if (adapters := stack.all_of(Redundant))]
    if not found:
        raise NotApplicable("objective mixphm reads what adapters of method=mixphm add; it goes with that method")
    return found
