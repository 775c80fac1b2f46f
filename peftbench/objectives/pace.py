"""PACE (Ni et al., NeurIPS 2024, arXiv:2409.17137): two passes under noise on what the method adds must agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone
from peftbench.foundation.exact import exact
from peftbench.foundation.spec import option
from peftbench.interventions.noise import add_noise, changes_linear, share_draws
from peftbench.objectives.base import OBJECTIVES, Objective
from peftbench.tasks.model import TaskModel
from peftbench.train.batches import Batch
from peftbench.train.loss import LossFn, Model


@OBJECTIVES.add("pace")
@dataclass(frozen=True)
class PACE(Objective):
    """CE(z) + weight mean ||z - z'||^2, z and z' the logits of two passes under noise of their own.

    What the method adds to a linear map is multiplied by N(1, sigma_l^2) for each image and channel; sigma_l falls
    linearly from `sigma` over the blocks to the head, whose output takes part as a whole. On a plain ViT the first
    block has none. Both passes share the draws of stochastic depth. The paper takes `sigma` and `weight` for each task
    (1.2 and 1 in its example) and trains `lora_vpt`; changes of another kind than of linear maps stay without noise.
    Adds no parameter; a step costs two passes, and the frozen maps under a changed one are computed once more.
    """

    paper: ClassVar[str] = "arXiv:2409.17137"
    version: ClassVar[int] = 3

    weight: float = option(1.0, gt=0)
    sigma: float = option(1.2, ge=0)

    def install(self, model: TaskModel, own: nn.Module) -> None:
        backbone = model.backbone
        sigmas = self.sigmas(backbone)
        for site in backbone.all_sites:
            if site.layer >= 0 and changes_linear(site.module):
                add_noise(site.module, sigmas[site.layer])
        add_noise(model.head, sigmas[-1])
        share_draws(model)

    def sigmas(self, backbone: Backbone) -> list[float]:
        """The deviation of the noise in each block, and last that of the head."""
        blocks = len(backbone.sites("block"))
        first = 1 if backbone.shape.family == "vit" else 0
        noisy = blocks + 1 - first
        return [0.0] * first + [self.sigma * (noisy - number) / noisy for number in range(noisy)]

    def loss_fn(self, model: TaskModel, base: LossFn) -> LossFn:
        def loss_fn(model: Model, batch: Batch) -> Tensor:
            images = batch["image"]
            first, second = exact(model(torch.cat([images, images]))).chunk(2)
            return base(lambda _: first, batch) + self.weight * (first - second).square().sum(dim=-1).mean()

        return loss_fn
