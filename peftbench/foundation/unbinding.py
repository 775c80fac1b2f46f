"""Gradients of a tensor that was taken apart, put together in one pass.

Attention takes one product apart into queries, keys and values: [batch, tokens, 3, heads, width] seen as
[3, batch, heads, tokens, width]. torch puts their gradients together in the order in which the tensor is seen, and
copies them a second time into the one in which it lies. Here they go there at once, to the same bits.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from peftbench.foundation.replaced import Replaced


def in_one_pass(on: bool = True) -> AbstractContextManager[None]:
    """Inside, gradients of `unbind` are put together so, or as torch does if not `on`; behind, as before.

    It holds for the whole process and all its threads, on every device, and for what is computed forward inside.
    """
    return _UNBINDING.where(on)


def _unbind(x: Tensor, dim: int = 0) -> list[Tensor]:
    moves, number = torch.is_grad_enabled() and x.requires_grad, len(x.shape)
    if moves and -number <= dim < number and x.shape[dim]:
        return list(_Unbound.apply(x, dim % number))
    return _below(x, dim)


def _below(x: Tensor, dim: int) -> list[Tensor]:
    # straight to the kernel: this function stands where autograd would
    with torch._C._AutoDispatchBelowAutograd():
        return list(torch.ops.aten.unbind.int(x, dim))


class _Unbound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> tuple[Tensor, ...]:
        # axes from the slowest in memory to the fastest
        order = sorted(range(x.ndim), key=lambda axis: (-x.stride()[axis], axis))
        ctx.place = order.index(dim)
        ctx.others = [axis - (axis > dim) for axis in order if axis != dim]
        ctx.back = [order.index(axis) for axis in range(x.ndim)]
        return tuple(_below(x, dim))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        as_it_lies = [grad.permute(ctx.others) for grad in grads]
        return torch.stack(as_it_lies, ctx.place).permute(ctx.back), None


_UNBINDING = Replaced(**{"unbind.int": ("Autograd", _unbind)})
