"""What blocks hand to a loss behind the last token of a sequence, in training only: past the norm and the pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, Readout


class SparesKept(nn.Module):
    """A norm that in training leaves the last `number` tokens of a sequence as they are."""

    def __init__(self, base: nn.Module, number: int) -> None:
        super().__init__()
        self.base, self.number = base, number

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.ndim < 3:
            normed: Tensor = self.base(x)
            return normed
        return torch.cat([self.base(x[:, : -self.number]), x[:, -self.number :]], dim=1)


class KeptReadout(Readout):
    """Pools as the network does; in training the last `number` tokens follow, [batch, width + number * width]."""

    def __init__(self, net: nn.Module, number: int) -> None:
        super().__init__(net)
        self.number = number

    def forward(self, tokens: Tensor) -> Tensor:
        if not self.training:
            return super().forward(tokens)
        pooled = super().forward(tokens[:, : -self.number])
        return torch.cat([pooled, tokens[:, -self.number :].flatten(1)], dim=1)


def keep_last(backbone: Backbone, number: int) -> None:
    """Let the last `number` tokens of a sequence, in training, pass the final norm and follow the pooled features."""
    for site in backbone.sites("norm.final"):
        site.wrap(lambda norm: SparesKept(norm, number))
    backbone.readout = KeptReadout(backbone.net, number)
