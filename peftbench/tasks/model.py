"""The model of a cell: backbone with its method, then a linear classifier."""

from __future__ import annotations

from torch import Tensor, nn

from peftbench.backbones.base import Backbone
from peftbench.foundation.seeding import seeded


class Classifier(nn.Module):
    """images [batch, 3, height, width] -> logits [batch, classes]."""

    def __init__(self, backbone: Backbone, num_classes: int, seed: int) -> None:
        super().__init__()
        self.backbone = backbone
        with seeded(seed, "head"):
            self.head = new_head(backbone.feature_dim, num_classes)

    @property
    def added(self) -> list[tuple[str, nn.Parameter]]:
        """All trainable tensors but the head's: what method and objective train."""
        head = {id(parameter) for parameter in self.head.parameters()}
        return [(name, p) for name, p in self.named_parameters() if p.requires_grad and id(p) not in head]

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(images))
        return logits


def new_head(width: int, num_classes: int) -> nn.Linear:
    """The one head all methods share: weight from a truncated normal of std 0.02, bias zero."""
    head = nn.Linear(width, num_classes)
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head
