"""The loss of PVeRA (arXiv:2512.07703): codes are held to a standard normal distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions.codes import RandomCode
from peftbench.interventions.heard import heard_in
from peftbench.objectives.base import OBJECTIVES, Objective
from peftbench.tasks.model import TaskModel
from peftbench.train.batches import Batch
from peftbench.train.loss import LossFn, Model


@OBJECTIVES.add("pvera")
@dataclass(frozen=True)
class Divergence(Objective):
    """The task's own loss + 1 / beta * sum over blocks of the mean over their matrices of KL(N(mu, exp(v)) || N(0, 1)).

    The KL of a matrix is the mean over its code's entries, tokens and images (released code). `beta` was chosen for
    each task of VTAB-1k, from 1e6 (CIFAR-100, EuroSAT and six more) to 1e16 (Caltech-101, DTD, DMLab). Adds no
    parameter.
    """

    paper: ClassVar[str] = "arXiv:2512.07703"
    of_method: ClassVar[str] = "pvera"
    of_any: ClassVar[bool] = True

    beta: float = option(1.0e6, gt=0)

    def install(self, model: TaskModel, own: nn.Module) -> None:
        for block in codes_of(model):
            for codes in block:
                codes.listens = True

    def loss_fn(self, model: TaskModel, base: LossFn) -> LossFn:
        blocks = codes_of(model)

        def loss_fn(asked: Model, batch: Batch) -> Tensor:
            loss, divergences = heard_in(lambda: base(asked, batch), blocks)
            return loss + divergences.sum() / self.beta

        return loss_fn


def codes_of(model: TaskModel) -> list[list[RandomCode]]:
    """What samples codes, block by block, of all towers. Raises `NotApplicable` where nothing does."""
    blocks = [site.module for tower in model.backbone.towers.values() for site in tower.sites("block")]
    found = [codes for block in blocks if (codes := [each for each in block.modules() if isinstance(each, RandomCode)])]
    if not found:
        raise NotApplicable("objective pvera reads the codes of method=pvera; it goes with that method")
    return found
