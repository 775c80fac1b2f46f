"""How much of what an adapter adds it was given already (MixPHM, arXiv:2303.01239)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.backbones.base import Stack
from peftbench.foundation.exact import exact
from peftbench.interventions.heard import Heard
from peftbench.interventions.shared import refer

# of the released code, which calls it 1 / 256
WEIGHT = 3.9e-3


class Redundant(Heard):
    """Base of adapters that in training can say how redundant each pass was."""

    stack: Stack | None

    def __init__(self) -> None:
        super().__init__()
        self.stack = None

    def listened(self, stack: Stack) -> None:
        """From here on say what training passes give; `stack` knows how long its sequences are."""
        refer(self, "stack", stack)
        self.listens = True

    def say_of(self, added: Tensor, x: Tensor) -> None:
        """Of what a pass adds and what it was given."""
        if self.speaks and self.stack is not None:
            self.say(redundancy(added, x, self.stack.lengths))


def redundancy(added: Tensor, x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """3.9e-3 / B times the sum of the squared entries of u^T x off the diagonal (released code, `R2Loss`).

    u and x: the rows of `added` and `x`, both [B, ..., width], each of length 1; of sequence b those of the first
    `lengths`[b] tokens, int64 [B].
    """
    u, v = (F.normalize(exact(rows.flatten(1, -2)), dim=-1) for rows in (added, x))
    if lengths is not None:
        u = u * (torch.arange(u.shape[1], device=u.device) < lengths[:, None]).unsqueeze(-1)
    products = u.flatten(0, 1).T @ v.flatten(0, 1)
    off = products.square().sum() - products.diagonal().square().sum()
    return WEIGHT * off / len(x)
