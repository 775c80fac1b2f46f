"""(IA)^3 (Liu et al., NeurIPS 2022, arXiv:2205.05638): keys, values and hidden activations, each channel scaled."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.channels import channels_at, channels_last
from peftbench.interventions import Intervention
from peftbench.methods.base import METHODS, Method


class KeyValueScale(Intervention):
    """A fused qkv whose keys and values are multiplied by `keys` and `values` [width], both one at the start."""

    def __init__(self, base: nn.Module, width: int) -> None:
        super().__init__(base)
        self.keys, self.values = (nn.Parameter(torch.ones(width)) for _ in range(2))

    def _scale(self) -> Tensor:
        return torch.cat([torch.ones_like(self.keys), self.keys, self.values])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y * self._scale().to(y.dtype)

    def folded(self) -> nn.Module | None:
        if not isinstance(self.base, nn.Linear):
            return None
        plain = copy.deepcopy(self.base)
        plain.weight *= self._scale().unsqueeze(1)
        if plain.bias is not None:
            plain.bias.mul_(self._scale())
        return plain


class InputScale(Intervention):
    """base(scale * x), one factor for each input channel, 1 at the start. `channel_dim` is 1 for feature maps."""

    def __init__(self, base: nn.Module, width: int, channel_dim: int = -1) -> None:
        super().__init__(base)
        self.scale = nn.Parameter(torch.ones(width))
        self.channel_dim = channel_dim

    def forward(self, x: Tensor) -> Tensor:
        scaled = channels_at(channels_last(x, self.channel_dim) * self.scale.to(x.dtype), self.channel_dim)
        y: Tensor = self.base(scaled)
        return y

    def folded(self) -> nn.Module | None:
        if not isinstance(self.base, (nn.Linear, nn.Conv2d)):
            return None
        plain = copy.deepcopy(self.base)
        plain.weight *= self.scale.view(-1, *[1] * (plain.weight.ndim - 2))
        return plain


@METHODS.add("ia3")
@dataclass(frozen=True)
class IA3(Method):
    """softmax(q (l_k * k)^T) (l_v * v) and W_2 (l_ff * act(W_1 x)), three vectors a block.

    L (2 D + M) parameters on a plain ViT, all one at the start. Keys and values are scaled with their biases, ahead of
    a norm on the keys. Where the MLP has a gate, l_ff acts behind it and behind the norm there. Folds exactly.
    """

    family: ClassVar[str] = "reparametrisation"
    paper: ClassVar[str] = "arXiv:2205.05638"
    mergeable: ClassVar[bool] = True

    def attach(self, backbone: Backbone) -> None:
        for site in backbone.sites("attn.qkv"):
            site.wrap(partial(KeyValueScale, width=site.shape.out_dim // 3))
        for site in backbone.sites("mlp.fc2"):
            site.wrap(partial(InputScale, width=site.shape.in_dim, channel_dim=site.channel_dim))

    def expected_params(self, shape: BackboneShape) -> int:
        keys_and_values = sum(2 * (site.out_dim // 3) for site in shape.at("attn.qkv"))
        return keys_and_values + sum(site.in_dim for site in shape.at("mlp.fc2"))
