"""The loss of SA2VP (Pei et al., AAAI 2024, arXiv:2312.10376): prompts beside the image are classed too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from peftbench.backbones.base import Readout
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.exact import exact
from peftbench.foundation.spec import option
from peftbench.interventions.streams import LastOfTwo
from peftbench.objectives.base import OBJECTIVES, Objective
from peftbench.tasks.model import TaskModel
from peftbench.train.batches import Batch
from peftbench.train.loss import LossFn, Model


@OBJECTIVES.add("prompt_stream")
@dataclass(frozen=True)
class PromptStream(Objective):
    """(1 - weight) CE(z, y) + weight CE(p, y): z the logits of the image, p of the prompts beside it, by one head.

    Both are pooled as the network pools. Predictions are z. Adds no parameter. With `method=sa2vp` this is SA2VP.
    """

    paper: ClassVar[str] = "arXiv:2312.10376"
    of_method: ClassVar[str] = "sa2vp"

    weight: float = option(0.2, ge=0, le=1)

    def install(self, model: TaskModel, own: nn.Module) -> None:
        paired = model.backbone.all_of(LastOfTwo)
        if not paired or type(model.backbone.readout) is not Readout:
            raise NotApplicable(f"{self.name} classes prompts that run beside the image; it goes with method=sa2vp")
        paired[-1].both = True

    def loss_fn(self, model: TaskModel, base: LossFn) -> LossFn:
        def loss_fn(model: Model, batch: Batch) -> Tensor:
            of_image, of_prompts = exact(model(batch["image"])).chunk(2)
            z, p = base(lambda _: of_image, batch), base(lambda _: of_prompts, batch)
            return (1 - self.weight) * z + self.weight * p

        return loss_fn
