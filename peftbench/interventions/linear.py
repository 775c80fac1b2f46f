"""Linear deltas: y = W x + b + delta(x), on all outputs of a linear map or on some of its slices."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.errors import NotApplicable
from peftbench.interventions.base import Intervention


class LowRank(nn.Module):
    """x -> scale * B A dropout(x) with A [rank, in_dim] and B [out_dim, rank]; B = 0 at the start.

    A is drawn from kaiming-uniform with a = sqrt(5), as loralib and the PEFT library do (LoRA, arXiv:2106.09685,
    section 4.1, writes a Gaussian).
    """

    def __init__(self, in_dim: int, out_dim: int, rank: int, scale: float = 1.0, dropout: float = 0.0) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, in_dim))
        self.up = nn.Parameter(torch.zeros(out_dim, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.linear(F.linear(self.dropout(x), self.down), self.up)

    def weight(self) -> Tensor:
        """The matrix [out_dim, in_dim] that this adds to the frozen one."""
        return self.scale * self.up @ self.down


class LinearDelta(Intervention):
    """A frozen linear map whose output slices receive deltas.

    `deltas` maps a slice number to a module with `forward(x)` [..., width] and `weight()` [width, in_dim]; the
    output is cut into `num_slices` equal parts (3 for a fused qkv: q is 0, k is 1, v is 2).
    """

    def __init__(self, base: nn.Module, deltas: Mapping[int, nn.Module], num_slices: int = 1) -> None:
        super().__init__(base)
        if not isinstance(base, (nn.Linear, Intervention)):
            raise NotApplicable(f"a linear delta needs a linear map, not a {type(base).__name__}")
        self.num_slices = num_slices
        self.deltas = nn.ModuleDict({str(number): delta for number, delta in deltas.items()})

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        if self.num_slices == 1:
            return y + self.deltas["0"](x).to(y.dtype)
        parts = list(y.chunk(self.num_slices, dim=-1))
        for number, delta in self.deltas.items():
            parts[int(number)] = parts[int(number)] + delta(x).to(y.dtype)
        return torch.cat(parts, dim=-1)

    def folded(self) -> nn.Module | None:
        if not isinstance(self.base, nn.Linear):
            return None
        plain = copy.deepcopy(self.base)
        width = plain.out_features // self.num_slices
        for number, delta in self.deltas.items():
            start = int(number) * width
            plain.weight[start : start + width] += delta.weight()  # type: ignore[operator]
        return plain
