"""The bottleneck of the adapter family."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "none": lambda x: x,
}


class Bottleneck(nn.Module):
    """x -> scale * up(dropout(act(down(x)))), width -> bottleneck -> width, with biases.

    Initialised as in AdaptFormer's code (and LoRA): down kaiming-uniform with a = sqrt(5), up and both biases zero,
    so that the added path is silent at the start yet receives gradient.
    """

    def __init__(self, width: int, bottleneck: int, activation: str = "gelu", dropout: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        self.activation = activation
        self.dropout = nn.Dropout(dropout)
        self.scale = scale
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(ACTIVATIONS[self.activation](self.down(x)))
        return self.scale * self.up(hidden)
