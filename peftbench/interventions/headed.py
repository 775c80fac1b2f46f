"""A plain block taken apart at its attention's queries, keys and values, which a method reads or changes on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from peftbench.interventions.attention import Heads, attend_self, heads_of, split_heads
from peftbench.interventions.block import halves


@dataclass(frozen=True)
class Headed:
    """One call of a plain block with its keyword `arguments`; its attention must pass `require_plain`."""

    block: Any
    arguments: dict[str, Any]

    def seen(self, x: Tensor) -> Tensor:
        """What attention is given of tokens x [batch, length, width]."""
        return halves(self.block, self.arguments)["attn"].norm(x)

    def heads(self, seen: Tensor) -> Heads:
        return heads_of(self.block.attn, seen, self.arguments.get("rope"))

    def values(self, x: Tensor) -> Tensor:
        """The values alone of x, which is not normed, [batch, heads, length, head_dim]; qkv must be a linear map."""
        qkv = self.block.attn.qkv
        start = qkv.out_features // 3 * 2
        bias = None if qkv.bias is None else qkv.bias[start:]
        (v,) = split_heads(F.linear(x, qkv.weight[start:], bias), self.block.attn.num_heads, 1)
        return v

    def through(self, x: Tensor, seen: Tensor, heads: Heads) -> Tensor:
        """The block's output of x, where attention goes on with `heads`."""
        attn, mlp = halves(self.block, self.arguments).values()
        x = x + attn.drop(attn.scale(attend_self(self.block.attn, seen, heads, **self.arguments)))
        return x + mlp.added(x)
