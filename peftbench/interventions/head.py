"""Linear heads that a method changes, and what is left of them once it is folded."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChangedHead(nn.Linear):
    """A linear head that multiplies by what it makes of its weight: features [batch, width] -> logits.

    It takes the tensors of `head`, all but a bias where `bias` is false.
    """

    def __init__(self, head: nn.Linear, bias: bool = True) -> None:
        super().__init__(head.in_features, head.out_features, bias=bias and head.bias is not None, device="meta")
        self.weight = head.weight
        if self.bias is not None:
            self.bias = head.bias

    def acting(self) -> Tensor:
        """The matrix [classes, width] that is multiplied by."""
        raise NotImplementedError

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, self.acting(), self.bias)


@torch.no_grad()
def plain_head(head: nn.Linear) -> nn.Linear:
    """A linear layer with a bias that gives what `head` gives in evaluation mode."""
    plain = nn.Linear(head.in_features, head.out_features, device=head.weight.device, dtype=head.weight.dtype)
    plain.weight.copy_(head.acting() if isinstance(head, ChangedHead) else head.weight)
    plain.bias.zero_()
    if head.bias is not None:
        plain.bias.copy_(head.bias)
    return plain
