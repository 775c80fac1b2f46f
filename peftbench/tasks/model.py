"""The model of a cell: backbone with its method, then the head of its task."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.foundation.errors import ConfigError
from peftbench.foundation.seeding import seeded


class TaskModel(nn.Module):
    """inputs -> outputs of the task. `inputs` names them, in the order in which the backbone takes them.

    `num_trained`: training compares with so many classes, the first ones; None for all.
    """

    num_trained: int | None = None

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.backbone.inputs

    @property
    def added(self) -> list[tuple[str, nn.Parameter]]:
        """All trainable tensors but the head's: what method and objective train."""
        head = {id(parameter) for parameter in self.head.parameters()}
        return [(name, p) for name, p in self.named_parameters() if p.requires_grad and id(p) not in head]

    @property
    def kept(self) -> dict[str, Tensor]:
        """Frozen tensors of the head by name, which whoever has the backbone alone lacks."""
        return {}

    def forward(self, *inputs: Tensor) -> Any:
        return self.head(self.backbone(*inputs))


class Classifier(TaskModel):
    """images [batch, 3, height, width] -> logits [batch, classes]."""

    head: nn.Linear

    def __init__(self, backbone: Backbone, num_classes: int, seed: int) -> None:
        with seeded(seed, "head"):
            head = new_head(backbone.feature_dim, num_classes)
        super().__init__(backbone, head)


class DroppingHead(nn.Linear):
    """A head that drops a share of its input's numbers in training. Its tensors are those of the linear layer."""

    def __init__(self, head: nn.Linear, share: float) -> None:
        super().__init__(head.in_features, head.out_features, device="meta")
        self.weight, self.bias, self.share = head.weight, head.bias, share

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(F.dropout(features, self.share, self.training))


def drop_ahead_of_head(model: TaskModel, share: float, task: str) -> None:
    """Let the head of a model drop `share` of its features in training.

    Raises `ConfigError` for tasks whose head is no linear layer on pooled features, and where a method changed it.
    """
    if not isinstance(model, Classifier):
        raise ConfigError(
            [f"train.head_dropout is of task=classification, and this is task={task}; set train.head_dropout=0"]
        )
    if type(model.head) is not nn.Linear:
        raise ConfigError(
            ["train.head_dropout is of a plain head, which the options of the method change; set train.head_dropout=0"]
        )
    model.head = DroppingHead(model.head, share)


def new_head(width: int, num_classes: int) -> nn.Linear:
    """The one head all methods share: weight from a truncated normal of std 0.02, bias zero."""
    head = nn.Linear(width, num_classes)
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head
