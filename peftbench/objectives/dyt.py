"""The loss of DyT (Zhao et al., NeurIPS 2024, arXiv:2403.11808): a share of patches, and the whole network's word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Readout
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.exact import exact
from peftbench.foundation.spec import option
from peftbench.interventions.dispatch import DispatchedBlock
from peftbench.interventions.kept import keep_last
from peftbench.objectives.base import OBJECTIVES, Objective
from peftbench.tasks.model import TaskModel
from peftbench.train.batches import Batch
from peftbench.train.loss import LossFn, Model


@OBJECTIVES.add("dyt")
@dataclass(frozen=True)
class DynamicTuning(Objective):
    """CE(z) + CE(t) + KL(p_t, p_z) + share_weight (s - share)^2, t the logits where all patches take every MLP.

    z are the logits of the dispatched network, s the share of its patches that take an MLP, over blocks, images and
    patches (equation 6). The gradient of the divergence reaches z alone. Adds no parameter; a step costs two passes.
    With `method=dyt` this is DyT.
    """

    paper: ClassVar[str] = "arXiv:2403.11808"
    of_method: ClassVar[str] = "dyt"

    share: float = option(0.5, ge=0, le=1)
    share_weight: float = option(2.0, ge=0)

    def install(self, model: TaskModel, own: nn.Module) -> None:
        backbone, dispatched = model.backbone, dispatched_blocks(model)
        if not dispatched or type(backbone.readout) is not Readout:
            raise NotApplicable(f"{self.name} counts patches that take an MLP or not; it goes with method=dyt")
        for block in dispatched:
            block.watched = True
        keep_last(backbone, 1)

    def loss_fn(self, model: TaskModel, base: LossFn) -> LossFn:
        backbone, head, number = model.backbone, model.head, len(dispatched_blocks(model))

        def loss_fn(_: Model, batch: Batch) -> Tensor:
            made = backbone(*(torch.cat([batch[name]] * 2) for name in backbone.inputs))
            features, kept = made.split(backbone.feature_dim, dim=1)
            z, t = head(features).chunk(2)
            share = exact(kept)[0, 0] / number
            log_z, log_t = (exact(logits).log_softmax(dim=1) for logits in (z, t))
            taught = F.kl_div(log_z, log_t.detach(), reduction="batchmean", log_target=True)
            losses = base(lambda *_: z, batch) + base(lambda *_: t, batch) + taught
            return losses + self.share_weight * (share - self.share) ** 2

        return loss_fn


def dispatched_blocks(model: TaskModel) -> list[DispatchedBlock]:
    return model.backbone.all_of(DispatchedBlock)
