"""A block of which each patch takes the MLP or goes past it, as a score says."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from peftbench.foundation.exact import exact
from peftbench.interventions.base import Intervention
from peftbench.interventions.block import halves

Dispatched = Tensor | tuple[Tensor, Tensor]


class Dispatcher(nn.Module):
    """Tokens [batch, prefix + patches, width] -> gates [batch, prefix + patches, 1] of 0 and 1; prefix tokens have 1.

    A patch has 1 where sigmoid(s) > 1/2, s = w^T x + b its score; in training s is (s + g - g') / `temperature` with
    two draws from Gumbel(0, 1). The gradient is that of the sigmoid.
    """

    def __init__(self, width: int, num_prefix: int, temperature: float) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1)
        nn.init.trunc_normal_(self.score.weight, std=0.02)
        nn.init.zeros_(self.score.bias)
        self.num_prefix, self.temperature = num_prefix, temperature

    def forward(self, x: Tensor) -> Tensor:
        scores = exact(self.score(x[:, self.num_prefix :]))
        if self.training:
            drawn = [-torch.empty_like(scores).exponential_().log() for _ in range(2)]
            scores = (scores + drawn[0] - drawn[1]) / self.temperature
        soft = scores.sigmoid()
        gates = (soft > 0.5).to(soft.dtype) + (soft - soft.detach())
        return torch.cat([gates.new_ones(x.shape[0], self.num_prefix, 1), gates], dim=1)


class DispatchedBlock(Intervention):
    """x + gate MLP(x) + branch(x) on the stream x behind attention. Tokens [batch, prefix + patches, width].

    Tokens that go past are computed and left out, so the output is that of a block that spares them. Where an objective
    has it `watched`, in training only, all patches of the second half of a batch take the MLP, and the share of patches
    of the first half that do, summed over the blocks, goes on with the tokens; the last block gives it as one more
    token, [batch, length + 1, width].
    """

    def __init__(self, base: nn.Module, dispatcher: Dispatcher, branch: nn.Module, last: bool) -> None:
        super().__init__(base)
        self.dispatcher, self.branch, self.last = dispatcher, branch, last
        self.watched = False

    def forward(self, x: Dispatched, **arguments: Any) -> Dispatched:
        tokens, share = x if isinstance(x, tuple) else (x, torch.zeros((), device=x.device))
        attn, mlp = halves(self.base, arguments).values()
        tokens = tokens + attn.added(tokens)
        gates, watched = self.dispatcher(tokens), self.watched and self.training
        if watched:
            share = share + gates[: len(gates) // 2, self.dispatcher.num_prefix :].mean()
            gates = torch.cat([gates[: len(gates) // 2], torch.ones_like(gates[len(gates) // 2 :])])
        taken = mlp.added(tokens)
        tokens = tokens + gates.to(taken.dtype) * taken + self.branch(tokens)
        if not watched:
            return tokens
        if not self.last:
            return tokens, share
        return torch.cat([tokens, share.to(tokens.dtype).expand(tokens.shape[0], 1, tokens.shape[2])], dim=1)

    def map_of(self, out: Dispatched) -> Tensor:
        return out[0] if isinstance(out, tuple) else out
