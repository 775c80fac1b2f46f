"""PACE (Ni et al., NeurIPS 2024, arXiv:2409.17137): two passes under noise on what the method adds must agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone
from peftbench.foundation.exact import exact
from peftbench.foundation.spec import option
from peftbench.interventions.noise import add_noise, changes_linear, set_copies, share_draws
from peftbench.objectives.base import OBJECTIVES, Objective
from peftbench.tasks.model import TaskModel
from peftbench.train.batches import Batch
from peftbench.train.loss import LossFn, Model

FORMS = ("full", "lazy", "fast")
# of the released function
INTERVAL = 2


class LastLogits(nn.Module):
    """The logits [num_images, classes] that each training image had when it was last seen; zeros before that.

    They belong to training alone and to no adapter.
    """

    logits: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("logits", torch.zeros(0, num_classes), persistent=False)

    def begin(self, num_images: int) -> None:
        self.logits = self.logits.new_zeros(num_images, self.logits.shape[1])

    @torch.no_grad()
    def replace(self, index: Tensor, logits: Tensor) -> Tensor:
        """What was kept of the images `index` [batch], in whose place `logits` [batch, classes] are kept from now."""
        last = self.logits[index]
        self.logits.index_copy_(0, index, logits.to(self.logits.dtype))
        return last


@OBJECTIVES.add("pace")
@dataclass(frozen=True)
class PACE(Objective):
    """CE(z) + weight mean ||z - z'||^2, z and z' the logits of two passes under noise of their own.

    What the method adds to a linear map is multiplied by N(1, sigma_l^2) for each image and channel; sigma_l falls
    linearly from `sigma` over the blocks to the head, whose output takes part as a whole. On a plain ViT the first
    block has none. Both passes share the draws of stochastic depth. The paper takes `sigma` and `weight` for each task
    (1.2 and 1 in its example) and trains `lora_vpt`; changes of another kind than of linear maps stay without noise.
    Adds no parameter; a step costs two passes, and the frozen maps under a changed one are computed once more.

    `form` has the cheaper ones of the release, a step of which costs one pass. `lazy` (PACE_lazy^half): every
    `interval`-th step of the optimiser, the first among them, is this loss with its weight on the first half of each
    batch alone, all others are CE(z) on whole batches under the same noise. `fast` (PACE_fast): z' is what z was when
    the image was last seen, zeros in the first epoch, as released. The release asks for a larger `weight` with `lazy`,
    for a smaller one and a larger `sigma` with `fast`, and gives no numbers. A comparing step of `lazy` leaves
    the other half of its images out, which count in images/s; of an odd batch size it alone runs compiled blocks.
    """

    paper: ClassVar[str] = "arXiv:2409.17137"
    version: ClassVar[int] = 4

    weight: float = option(1.0, gt=0)
    sigma: float = option(1.2, ge=0)
    form: str = option("full", choices=FORMS, later=True)
    interval: int = option(INTERVAL, ge=1, later=True)

    def problems(self) -> Sequence[str]:
        if self.form == "lazy" or self.interval == INTERVAL:
            return ()
        return [f"objective.interval is of objective.form=lazy, which is {self.form}; set it or leave interval out"]

    @property
    def steps_alike(self) -> bool:
        return self.form != "lazy"

    @property
    def by_image(self) -> bool:
        return self.form == "fast"

    def prepare(self, backbone: Backbone, num_classes: int) -> nn.Module:
        return LastLogits(num_classes) if self.form == "fast" else nn.Module()

    def install(self, model: TaskModel, own: nn.Module) -> None:
        backbone = model.backbone
        sigmas = self.sigmas(backbone)
        for site in backbone.all_sites:
            if site.layer >= 0 and changes_linear(site.module):
                add_noise(site.module, sigmas[site.layer])
        add_noise(model.head, sigmas[-1])
        share_draws(model)
        if isinstance(own, LastLogits):
            set_copies(model, 1)
            model.add_module("last_logits", own)

    def sigmas(self, backbone: Backbone) -> list[float]:
        """The deviation of the noise in each block, and last that of the head."""
        blocks = len(backbone.sites("block"))
        first = 1 if backbone.shape.family == "vit" else 0
        noisy = blocks + 1 - first
        return [0.0] * first + [self.sigma * (noisy - number) / noisy for number in range(noisy)]

    def before_training(self, model: TaskModel, num_images: int) -> None:
        if self.form == "fast":
            last_logits(model).begin(num_images)

    def loss_fn(self, model: TaskModel, base: LossFn) -> LossFn:
        forms = {"full": self._full, "lazy": self._lazy, "fast": self._fast}
        return forms[self.form](model, base)

    def _full(self, _: TaskModel, base: LossFn) -> LossFn:
        def loss_fn(model: Model, batch: Batch) -> Tensor:
            images = batch["image"]
            first, second = exact(model(torch.cat([images, images]))).chunk(2)
            return base(lambda _: first, batch) + self.weight * apart(first, second)

        return loss_fn

    def _lazy(self, model: TaskModel, base: LossFn) -> LossFn:
        full = self._full(model, base)

        def loss_fn(asked: Model, batch: Batch) -> Tensor:
            # a batch to count by is of no step: it costs the same in all
            compares = "step" not in batch or int(batch["step"][0]) % self.interval == 0
            set_copies(model, 2 if compares else 1)
            return full(asked, first_half(batch)) if compares else base(asked, batch)

        return loss_fn

    def _fast(self, model: TaskModel, base: LossFn) -> LossFn:
        last = last_logits(model)

        def loss_fn(asked: Model, batch: Batch) -> Tensor:
            z = exact(asked(batch["image"]))
            return base(lambda _: z, batch) + self.weight * apart(z, last.replace(batch["index"], z))

        return loss_fn


def apart(first: Tensor, second: Tensor) -> Tensor:
    """Mean over images of the squared distance between logits [batch, classes]."""
    return (first - second).square().sum(dim=-1).mean()


def first_half(batch: Batch) -> Batch:
    """Of an odd number of images the smaller part, but one image where there is no more."""
    half = max(1, len(batch["image"]) // 2)
    return {name: values[:half] for name, values in batch.items()}


def last_logits(model: TaskModel) -> LastLogits:
    found = model.get_submodule("last_logits")
    assert isinstance(found, LastLogits)
    return found
