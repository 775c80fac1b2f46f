"""The loss of DA-VPT (Ren et al., CVPR 2025, arXiv:2505.23694): Proxy-Anchor, the proxies being prompts."""

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
from peftbench.interventions.guided import Guidance, GuidedTokens
from peftbench.interventions.kept import keep_last
from peftbench.objectives.base import OBJECTIVES, Objective
from peftbench.tasks.model import TaskModel
from peftbench.train.batches import Batch
from peftbench.train.loss import LossFn, Model


@OBJECTIVES.add("da_vpt")
@dataclass(frozen=True)
class DistributionAware(Objective):
    """CE + mean over guided blocks of patch_weight A(mean patch, P) + class_weight A(class token's query, P).

    A is the Proxy-Anchor loss (arXiv:2003.13911) of a batch with the block's prompts P as proxies, those of a class
    being positive: mean over p of log(1 + sum over its images of exp(-alpha (s - delta))) + log(1 + sum over all others
    of exp(alpha (s + delta))), s = `scale` cos. The mean runs over all prompts, with images in the batch or without, as
    released. Behind every epoch from `renew_from` on, counted from 0 (0: never), classes are grouped anew by the mean
    features of the epoch. Weights and scale are set for each task; the defaults are those of most. Adds no parameter.
    With `method=da_vpt` this is DA-VPT.
    """

    paper: ClassVar[str] = "arXiv:2505.23694"
    of_method: ClassVar[str] = "da_vpt"

    patch_weight: float = option(0.01, ge=0)
    class_weight: float = option(0.01, ge=0)
    scale: float = option(5.0, gt=0)
    alpha: float = option(32.0, gt=0)
    delta: float = option(0.1, ge=0)
    renew_from: int = option(1, ge=0)

    def install(self, model: TaskModel, own: nn.Module) -> None:
        backbone, guided = model.backbone, guided_blocks(model)
        if not guided or type(backbone.readout) is not Readout:
            raise NotApplicable(f"{self.name} draws classes to prompts that stand for them; it goes with method=da_vpt")
        for block in guided:
            block.watched = True
        guidance_of(model).renew_from = self.renew_from
        keep_last(backbone, 2 * len(guided))

    def loss_fn(self, model: TaskModel, base: LossFn) -> LossFn:
        backbone, head, guided = model.backbone, model.head, guided_blocks(model)
        guidance = guidance_of(model)

        def loss_fn(_: Model, batch: Batch) -> Tensor:
            made, labels = backbone(*(batch[name] for name in backbone.inputs)), batch["label"]
            features, *kept = made.split(backbone.feature_dim, dim=1)
            logits = head(features)
            guidance.add(features.detach(), labels)
            groups = guidance.groups[labels]
            pulled = logits.new_zeros((), dtype=torch.float32)
            for block, patches, query in zip(guided, kept[0::2], kept[1::2], strict=True):
                prompts = block.present()[0]
                pulled = pulled + self.patch_weight * self.anchored(patches, prompts, groups)
                pulled = pulled + self.class_weight * self.anchored(query, prompts, groups)
            return base(lambda *_: logits, batch) + pulled / len(guided)

        return loss_fn

    def anchored(self, x: Tensor, proxies: Tensor, groups: Tensor) -> Tensor:
        """The Proxy-Anchor loss of x [batch, width], `groups` [batch] the proxies [number, width] they belong to."""
        s = self.scale * F.normalize(exact(x), dim=1) @ F.normalize(exact(proxies), dim=1).T
        own = groups[:, None] == torch.arange(len(proxies), device=groups.device)
        near = (-self.alpha * (s - self.delta)).masked_fill(~own, float("-inf"))
        far = (self.alpha * (s + self.delta)).masked_fill(own, float("-inf"))
        return sum(F.pad(part, (0, 0, 0, 1)).logsumexp(dim=0).mean() for part in (near, far))  # type: ignore[return-value]

    def after_epoch(self, model: TaskModel, done: float) -> None:
        guidance_of(model).renew()


def guidance_of(model: TaskModel) -> Guidance:
    guidance = model.backbone.get_submodule("shared.guidance")
    assert isinstance(guidance, Guidance)
    return guidance


def guided_blocks(model: TaskModel) -> list[GuidedTokens]:
    return model.backbone.all_of(GuidedTokens)
