"""The loss of PAE (Wang et al., ICLR 2026, arXiv:2601.20232): one linear map leads from prompts to the next block's."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.exact import exact
from peftbench.foundation.spec import option
from peftbench.interventions.tokens import InsertTokens
from peftbench.objectives.base import OBJECTIVES, Objective
from peftbench.tasks.model import TaskModel
from peftbench.train.batches import Batch
from peftbench.train.loss import LossFn, Model

# the first block's prompts take no part, and one pair is the least
FEWEST_BLOCKS = 3
# of the penalty's tanh, as released
SATURATION = 10.0


class Dynamics(nn.Module):
    """z = U p of prompts p [number, width], and the map K that leads from z to that of the next block.

    V(z) = z Q z^T, Q = L^T L over its largest singular value. K and L start at the identity.
    """

    def __init__(self, width: int, lifted: int) -> None:
        super().__init__()
        self.lift = nn.Linear(width, lifted, bias=False)
        self.step, self.root = (nn.Parameter(torch.eye(lifted)) for _ in range(2))

    def forward(self, prompts: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What the map misses, and how far V rises along it, both summed over the blocks."""
        lifted = [self.lift(exact(tokens)) for tokens in prompts]
        form = self.root.T @ self.root
        form = form / (torch.linalg.matrix_norm(form, ord=2) + 1e-8)
        missed, risen = [], []
        for z, following in pairwise(lifted):
            led = z @ self.step
            missed.append((led - following).square().mean())
            before, behind = (_within_one(point) for point in (z, led))
            rise = ((behind @ form) * behind).sum(dim=-1) - ((before @ form) * before).sum(dim=-1)
            risen.append(SATURATION * torch.tanh(F.softplus(rise).mean() / SATURATION))
        return torch.stack(missed).sum(), torch.stack(risen).sum()


def _within_one(z: Tensor) -> Tensor:
    """Rows longer than 1 scaled down to it."""
    return z / (torch.linalg.vector_norm(z, dim=-1, keepdim=True) + 1e-8).clamp(min=1)


@OBJECTIVES.add("pae")
@dataclass(frozen=True)
class KoopmanLyapunov(Objective):
    """CE + step_weight sum mean|z K - z'|^2 + rise_weight sum softplus(V(z K) - V(z)), z' behind z.

    z = U p and z' = U p' are the prompts of a block and of the next one in `lifted` dimensions, from the second block
    on. K, L and U train and are shared by all blocks, V(z) = z Q z^T with Q = L^T L over its largest singular value
    (equations 7 to 10; softplus and a tanh at 10 as released). 2 `lifted`^2 + `lifted` D parameters, which only
    training needs. The weights are those of the released example; the release clips the gradient of these maps apart
    and does not decay them.
    """

    paper: ClassVar[str] = "arXiv:2601.20232"
    of_method: ClassVar[str] = "pae"
    # torch looks whether the singular values were found
    host_waits: ClassVar[bool] = True
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = "The maps between prompts decay like all matrices and are clipped with them, if at all."

    step_weight: float = option(0.5, ge=0)
    rise_weight: float = option(0.2, ge=0)
    lifted: int = option(256, ge=1)

    def prepare(self, backbone: Backbone, num_classes: int) -> nn.Module:
        return Dynamics(backbone.shape.width, self.lifted).to(backbone.device)

    def install(self, model: TaskModel, own: nn.Module) -> None:
        if len(prompts_of(model)) < FEWEST_BLOCKS:
            raise NotApplicable(f"{self.name} ties prompts of {FEWEST_BLOCKS} blocks or more; it goes with method=pae")
        model.add_module("dynamics", own)

    def expected_params(self, shape: BackboneShape, num_classes: int) -> int:
        return 2 * self.lifted**2 + self.lifted * shape.width

    def loss_fn(self, model: TaskModel, base: LossFn) -> LossFn:
        dynamics, blocks = model.get_submodule("dynamics"), prompts_of(model)[1:]

        def loss_fn(model: Model, batch: Batch) -> Tensor:
            # the largest singular value is not to be had in half precision
            with torch.autocast(batch["label"].device.type, enabled=False):
                missed, risen = dynamics([block.present()[0] for block in blocks])
            loss: Tensor = base(model, batch) + self.step_weight * missed + self.rise_weight * risen
            return loss

        return loss_fn


def prompts_of(model: TaskModel) -> list[InsertTokens]:
    return model.backbone.all_of(InsertTokens)
