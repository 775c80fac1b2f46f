"""Scale and shift the output of any operation, channel by channel."""

from __future__ import annotations

import copy
from typing import TypeGuard

import torch
from timm.layers import LayerNorm
from torch import Tensor, nn

from peftbench.interventions.base import Intervention
from peftbench.interventions.lean import normed_scaled_and_shifted, scaled_and_shifted


class ScaleShift(Intervention):
    """y = scale * base(x) + shift, vectors of the output's channels (SSF, arXiv:2210.08823, equation 5).

    Both are drawn around the identity: scale ~ N(1, std), shift ~ N(0, std). `channel_dim` is -1 for tokens and 1
    for feature maps [batch, channels, height, width].
    """

    def __init__(self, base: nn.Module, width: int, channel_dim: int = -1, std: float = 0.02) -> None:
        super().__init__(base)
        self.scale = nn.Parameter(torch.normal(1.0, std, (width,)))
        self.shift = nn.Parameter(torch.normal(0.0, std, (width,)))
        self.channel_dim = channel_dim

    def forward(self, x: Tensor) -> Tensor:
        lean = self.training and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if lean and _frozen_norm(self.base) and x.requires_grad and x.dtype == torch.float32:
            return normed_scaled_and_shifted(x, self.base, self.scale, self.shift)
        y: Tensor = self.base(x)
        shape = [1] * y.ndim
        shape[self.channel_dim] = -1
        if lean:
            return scaled_and_shifted(y, self.scale, self.shift, shape)
        return y * self.scale.view(shape) + self.shift.view(shape)

    def folded(self) -> nn.Module | None:
        if not isinstance(self.base, (nn.Linear, nn.Conv2d, nn.Conv3d, nn.LayerNorm)) or self.base.weight is None:
            return None
        plain = copy.deepcopy(self.base)
        rows = self.scale if plain.weight.ndim == 1 else self.scale.view(-1, *[1] * (plain.weight.ndim - 1))
        plain.weight.copy_(rows * plain.weight)
        bias = self.shift.clone() if plain.bias is None else self.scale * plain.bias + self.shift
        plain.bias = nn.Parameter(bias, requires_grad=False)
        return plain


def _frozen_norm(module: nn.Module) -> TypeGuard[nn.LayerNorm]:
    """Whether it is layer norm over the last axes, frozen; in fp32 it is the same with and without autocast."""
    plain = type(module) in (nn.LayerNorm, LayerNorm) and not module._forward_hooks
    return plain and not any(tensor.requires_grad for tensor in module.parameters())
