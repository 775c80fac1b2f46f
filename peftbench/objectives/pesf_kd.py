"""PESF-KD (Rao et al., TMM 2023, arXiv:2205.15308): a teacher whose adapter learns to suit the student."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.exact import exact
from peftbench.foundation.spec import option
from peftbench.objectives.base import OBJECTIVES, Objective
from peftbench.tasks.model import TaskModel, new_head
from peftbench.train.batches import Batch
from peftbench.train.loss import LossFn, Model


class Teacher(nn.Module):
    """images -> t = W f - A(f) [batch, classes], f [batch, width] the features of the frozen backbone.

    A goes width -> classes -> hidden, relu, -> classes, all with biases. W is initialised like every head, A as torch
    does. The backbone stays in evaluation mode and keeps no graph.
    """

    def __init__(self, backbone: Backbone, num_classes: int, hidden: int) -> None:
        super().__init__()
        self.backbone = backbone.eval()
        self.classifier = new_head(backbone.feature_dim, num_classes)
        self.adapter = nn.Sequential(
            nn.Linear(backbone.feature_dim, num_classes),
            nn.Linear(num_classes, hidden),
            nn.ReLU(),
            nn.Linear(hidden, num_classes),
        )

    def train(self, mode: bool = True) -> Teacher:
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.backbone(images)
        logits: Tensor = self.classifier(features) - self.adapter(features)
        return logits


@OBJECTIVES.add("pesf_kd")
@dataclass(frozen=True)
class PESFKD(Objective):
    """CE(s, y) + CE(t, y) + weight T^2 KL(softmax(t / T), softmax(s / T)), s the cell's logits, t the teacher's.

    The divergence moves both sides: the student towards the teacher, the teacher's adapter A towards labels as smooth
    as the student's. T, the adapter and its width 32 are those of the released image code, weight that of its example.
    That code runs a variant with swapped logits, in which the adapter never reaches the student, and keeps the plain
    divergence used here as a comment. There the adapter has a learning rate of its own, here it has the method's.
    With D features and C classes 2 (D + 1) C + (2 C + 1) h + C parameters, which only training needs.
    """

    paper: ClassVar[str] = "arXiv:2205.15308"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "The teacher is the cell's own backbone, frozen as it was loaded, instead of a larger network trained on the "
        "task, so its linear classifier trains together with its adapter."
    )

    weight: float = option(1.0, ge=0)
    temperature: float = option(6.0, gt=0)
    hidden: int = option(32, ge=1)

    def prepare(self, backbone: Backbone, num_classes: int) -> nn.Module:
        return Teacher(copy.deepcopy(backbone), num_classes, self.hidden)

    def install(self, model: TaskModel, own: nn.Module) -> None:
        model.add_module("teacher", own)

    def expected_params(self, shape: BackboneShape, num_classes: int) -> int:
        return 2 * (shape.width + 1) * num_classes + (2 * num_classes + 1) * self.hidden + num_classes

    def loss_fn(self, model: TaskModel, base: LossFn) -> LossFn:
        teacher = model.get_submodule("teacher")

        def loss_fn(model: Model, batch: Batch) -> Tensor:
            s, t = exact(model(batch["image"])), exact(teacher(batch["image"]))
            log_s, log_t = (F.log_softmax(logits / self.temperature, dim=1) for logits in (s, t))
            gap = F.kl_div(log_s, log_t, reduction="batchmean", log_target=True)
            both = base(lambda _: s, batch) + base(lambda _: t, batch)
            return both + self.weight * self.temperature**2 * gap

        return loss_fn
