"""The two-stage paradigm (Zhao et al., 2023, arXiv:2303.07910): align the norms to the task, then tune its channels."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.channels import channels_last
from peftbench.foundation.spec import option
from peftbench.methods.base import METHODS
from peftbench.methods.ln_tune import LNTune
from peftbench.methods.observation import Evidence, Findings
from peftbench.methods.sct import BATCH_SIZE, SCT


@METHODS.add("ttc")
@dataclass(frozen=True)
class TTC(SCT):
    """`sct` from tuned norms, its channels chosen by a Taylor score; 2 D (2 L + 1) + L (K^2 + K) parameters.

    Stage 1 tunes scale and shift of all norms under a classifier. Stage 2 starts from these norms with a fresh
    classifier and trains them together with one linear map over K channels in each block, which it chooses by a
    first-order Taylor score with the model of stage 1: the mean over the training images of |sum over tokens of
    x dL/dx|, how far the loss would move if the channel were zero.

    Known at first hand are the two stages and the kind of score, from the abstract; the public repository holds no
    code. Chosen here: module, place and K are SCT's (by the same first author); the score sums over all tokens of an
    image ahead of the absolute value; stage 1 runs `align_share` of the cell's epochs at the cell's learning rate, on
    top of those of stage 2, on the images that searches train on (800 of VTAB's 1,000); the norms train on in stage 2.
    """

    paper: ClassVar[str] = "arXiv:2303.07910"
    faithfulness: ClassVar[str] = "details not published"
    by_class: ClassVar[bool] = False

    align_share: float = option(0.2, gt=0, le=1)

    def observe(self, evidence: Evidence) -> Findings:
        """The channels of each block as in `sct`, and the tensors of all norms in their order."""
        backbone = copy.deepcopy(evidence.backbone)
        watched = self._watched(backbone)
        LNTune().attach(backbone)
        model = evidence.classifier(backbone)
        evidence.fit(model, evidence.loss, max(1, round(self.align_share * evidence.epochs)))
        model.eval()
        seen = self._listen(watched)
        scores = [torch.zeros(site.shape.out_dim, dtype=torch.float64, device=backbone.device) for site in watched]
        for batch in evidence.images(BATCH_SIZE):
            # the loss is a mean over the batch; its sum makes a score independent of the batch's size
            loss = len(batch["image"]) * evidence.loss(model, batch)
            for site, score, x, slope in zip(watched, scores, seen, torch.autograd.grad(loss, seen), strict=True):
                change = channels_last(x * slope, site.channel_dim).flatten(1, -2).sum(dim=1)
                score += change.detach().abs().sum(dim=0)
            seen.clear()
        channels = {str(layer): self._largest(score) for layer, score in enumerate(scores)}
        return channels | {name: tensor.detach().clone() for name, tensor in norm_tensors(backbone).items()}

    def attach_with(self, backbone: Backbone, findings: Findings) -> None:
        LNTune().attach(backbone)
        with torch.no_grad():
            for name, tensor in norm_tensors(backbone).items():
                tensor.copy_(findings[name])
        super().attach_with(backbone, findings)

    def expected_params(self, shape: BackboneShape) -> int:
        return super().expected_params(shape) + LNTune().expected_params(shape)

    def summary(self, findings: Findings) -> dict[str, Any]:
        return super().summary({name: tensor for name, tensor in findings.items() if name.isdigit()})


def norm_tensors(backbone: Backbone) -> dict[str, Tensor]:
    """What `ln_tune` trains, under the number of the norm: `norm.0.weight`, `norm.0.bias`, ..."""
    norms = [site.module for site in backbone.sites("norm")]
    return {f"norm.{n}.{name}": tensor for n, norm in enumerate(norms) for name, tensor in norm.named_parameters()}
