"""Tokens at fixed places of a sequence: at its end, or in place of those that stand there.

What they are comes from a module without inputs, which may make them of what other layers learn: [number, width], or
of each sample its own [batch, number, width].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone
from peftbench.interventions.base import Intervention
from peftbench.interventions.shared import refer

_STD = 0.02


class Drawn(nn.Module):
    """Tokens [number, width] that are learned, from N(0, 0.02)."""

    def __init__(self, number: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(number, width).normal_(std=_STD))

    def forward(self) -> Tensor:
        return self.tokens


class Projected(nn.Module):
    """A linear map of tokens that are learned elsewhere: `owner`'s attribute `name`, [number, from] -> [number, to]."""

    owner: nn.Module

    def __init__(self, owner: nn.Module, name: str, linear: nn.Linear) -> None:
        super().__init__()
        refer(self, "owner", owner)
        self.name, self.linear = name, linear

    def forward(self) -> Tensor:
        projected: Tensor = self.linear(getattr(self.owner, self.name))
        return projected


class AppendTokens(Intervention):
    """Tokens at the end of the sequence [batch, length, width] that enters `base`; with `replace` its last ones."""

    def __init__(self, base: nn.Module, tokens: nn.Module, replace: bool = False) -> None:
        super().__init__(base)
        self.tokens, self.replace = tokens, replace

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        tokens: Tensor = self.tokens().to(x.dtype)
        kept = x[:, : -tokens.shape[-2]] if self.replace else x
        out: Tensor = self.base(torch.cat([kept, tokens.expand(x.shape[0], -1, -1)], dim=1), **arguments)
        return out


class ReplaceTokens(Intervention):
    """Tokens in place of those from `start` on, in the sequence [batch, length, width] that enters `base`."""

    def __init__(self, base: nn.Module, tokens: nn.Module, start: int) -> None:
        super().__init__(base)
        self.tokens, self.start = tokens, start

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        tokens: Tensor = self.tokens().to(x.dtype)
        placed = [x[:, : self.start], tokens.expand(x.shape[0], -1, -1), x[:, self.start + tokens.shape[-2] :]]
        out: Tensor = self.base(torch.cat(placed, dim=1), **arguments)
        return out


def append_ahead(image: Backbone, tokens: nn.Module) -> None:
    """Tokens behind all others from the first block on, ahead of a norm that stands before it (CLIP's `ln_pre`)."""
    ahead = [site for site in image.all_sites if site.shape.role == "norm.pre"]
    site = ahead[0] if ahead else image.sites("block")[0]
    site.wrap(lambda base: AppendTokens(base, tokens))
