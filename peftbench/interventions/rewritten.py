"""Frozen linear maps that act through other weights, made anew from the frozen ones at every pass."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.exact import exact
from peftbench.interventions.base import Intervention


class Rewritten(Intervention):
    """A frozen linear map some of whose output slices have their weight and bias rewritten: y = W' x + b'.

    `changes` maps a slice number to a module with `forward(weight [width, in_dim], bias [width] or None)` that gives
    the new pair; the output is cut into `num_slices` equal parts, as in `LinearDelta`. The new weight is formed in the
    precision of the frozen one, whatever autocast says, and costs one pass over the matrix and not over the tokens.

    `dropout` acts on the input of what is added, never on the frozen path: y = W x + (W' - W) dropout(x) + b'.
    """

    def __init__(
        self, base: nn.Module, changes: Mapping[int, nn.Module], num_slices: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__(base)
        if not isinstance(base, nn.Linear):
            raise NotApplicable(f"only a linear map can be rewritten, not a {type(base).__name__}")
        self.num_slices = num_slices
        self.changes = nn.ModuleDict({str(number): change for number, change in changes.items()})
        self.dropout = nn.Dropout(dropout)

    def tensors(self) -> tuple[Tensor, Tensor | None]:
        """Weight [out_dim, in_dim] and bias [out_dim] as they act now."""
        weight: Tensor = self.base.weight  # type: ignore[assignment]
        bias: Tensor | None = self.base.bias  # type: ignore[assignment]
        # frozen weights may be held in half the bits
        weights = list(exact(weight).chunk(self.num_slices))
        biases: list[Tensor | None] = [None] * self.num_slices if bias is None else [*bias.chunk(self.num_slices)]
        with torch.autocast(weight.device.type, enabled=False):
            for number, change in self.changes.items():
                index = int(number)
                weights[index], biases[index] = change(weights[index], biases[index])
        if all(part is None for part in biases):
            return torch.cat(weights), None
        return torch.cat(weights), torch.cat(
            [w.new_zeros(len(w)) if b is None else b for w, b in zip(weights, biases, strict=True)]
        )

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.tensors()
        if not self.training or not self.dropout.p:
            return F.linear(x, weight, bias)
        frozen: Tensor = self.base.weight  # type: ignore[assignment]
        return F.linear(x, frozen, bias) + F.linear(self.dropout(x), weight - frozen)

    def folded(self) -> nn.Module:
        plain = copy.deepcopy(self.base)
        weight, bias = self.tensors()
        plain.weight.copy_(weight)  # type: ignore[operator]
        if bias is not None:
            plain.bias = nn.Parameter(bias.clone(), requires_grad=False)
        return plain
