"""The hot interventions as single autograd functions that keep less and copy less, to the same bits.

Autograd keeps what each operation read. Where that can be made again with one pass over what is kept anyway, these
functions make it again instead: dropped inputs from the input and a mask of one byte, and they write where they may.
Every arithmetic operation, forward and backward, is the one autograd would run, on the same numbers, in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# A [rank, in_dim], B [out_dim, rank], the factor s, and the slice of the output that s B A x is added to
Update: TypeAlias = tuple[Tensor, Tensor, float, int]


def updated(y: Tensor, x: Tensor, updates: Sequence[Update], num_slices: int, dropout: float) -> Tensor:
    """y with s B A dropout(x) added to slices of its last axis, each with a mask of its own; y itself is written to.

    y: [..., num_slices * out_dim], fresh from a product that does not read it again. x: [..., in_dim].
    """
    plan = [(scale, number) for _, _, scale, number in updates]
    pairs = [matrix for down, up, _, _ in updates for matrix in (down, up)]
    result: Tensor = _Updated.apply(y, x, plan, num_slices, dropout, y.dtype, *pairs)
    return result


class _Updated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        x: Tensor,
        plan: list[tuple[float, int]],
        num_slices: int,
        dropout: float,
        dtype: torch.dtype,
        *pairs: Tensor,
    ) -> Tensor:
        width = y.shape[-1] // num_slices
        # one dropped input is no more than x; nor are those that the product reads in a smaller precision than x has
        as_read = x.dtype != dtype or len(plan) == 1
        of_x = ctx.needs_input_grad[1]
        kept: list[Tensor | None] = [] if as_read else [x]
        # the same memory under another name: of an input that is a view, and is written to, autograd would copy the
        # gradient several times
        y = y.detach()
        for place, (scale, number) in enumerate(plan):
            down, up = pairs[2 * place].to(dtype), pairs[2 * place + 1].to(dtype)
            mask, dropped = _dropped(x, dropout)
            dropped = dropped.to(dtype)
            hidden = dropped.reshape(-1, dropped.shape[-1]).mm(down.t())
            y.narrow(-1, number * width, width).add_((scale * hidden.mm(up.t())).view(*x.shape[:-1], width))
            kept += [dropped if as_read else None, mask if of_x or not as_read else None]
            kept += [hidden, down if of_x else None, up]
        ctx.save_for_backward(*kept)
        ctx.plan, ctx.width, ctx.dropout, ctx.as_read = plan, width, dropout, as_read
        ctx.x_dtype, ctx.dtypes = x.dtype, [tensor.dtype for tensor in pairs]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        kept = list(ctx.saved_tensors)
        x = None if ctx.as_read else kept.pop(0)
        grad_x = None
        grads: list[Tensor | None] = [None] * (2 * len(ctx.plan))
        # the last update first, as autograd would
        for place in reversed(range(len(ctx.plan))):
            scale, number = ctx.plan[place]
            dropped, mask, hidden, down, up = kept[5 * place : 5 * place + 5]
            if x is not None:
                dropped = _masked(x, mask, ctx.dropout)
            rows = (grad.narrow(-1, number * ctx.width, ctx.width) * scale).reshape(-1, ctx.width)
            grads[2 * place + 1] = rows.t().mm(hidden).to(ctx.dtypes[2 * place + 1])
            of_hidden = rows.mm(up)
            grads[2 * place] = of_hidden.t().mm(dropped.reshape(-1, dropped.shape[-1])).to(ctx.dtypes[2 * place])
            if ctx.needs_input_grad[1]:
                part = _masked(of_hidden.mm(down).view(dropped.shape).to(ctx.x_dtype), mask, ctx.dropout)
                grad_x = part if grad_x is None else grad_x.add_(part)
        return grad, grad_x, None, None, None, None, *grads


def _dropped(x: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """What dropout keeps of x, as one byte an entry (empty for a rate of 0), and its output, as torch computes it."""
    if rate == 0:
        return x.new_empty(0, dtype=torch.bool), x
    if x.is_cuda:
        output, mask = torch.native_dropout(x, rate, True)
        return mask, output
    noise = torch.empty_like(x).bernoulli_(1 - rate)
    return noise.bool(), x * noise.div_(1 - rate)


def _masked(x: Tensor, mask: Tensor, rate: float) -> Tensor:
    """Dropout with a known mask; of a gradient, its backward pass."""
    if rate == 0:
        return x
    if x.is_cuda:
        masked: Tensor = torch.ops.aten.native_dropout_backward(x, mask, 1 / (1 - rate))
        return masked
    return x * mask.to(x.dtype).div_(1 - rate)


def normed_scaled_and_shifted(x: Tensor, norm: nn.LayerNorm, scale: Tensor, shift: Tensor) -> Tensor:
    """norm(x) * scale + shift for a frozen norm, whose output is made again from x in the backward pass."""
    of_norm = (norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    result: Tensor = _NormedScaledShifted.apply(x, *of_norm, scale, shift)
    return result


class _NormedScaledShifted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        shape: tuple[int, ...],
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        scale: Tensor,
        shift: Tensor,
    ) -> Tensor:
        y, mean, root = torch.native_layer_norm(x, shape, weight, bias, eps)
        ctx.save_for_backward(x, mean, root, weight, bias, scale if ctx.needs_input_grad[0] else None)
        ctx.shape, ctx.eps = shape, eps
        return (y * scale).add_(shift)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, mean, root, weight, bias, scale = ctx.saved_tensors
        y = torch.native_layer_norm(x, ctx.shape, weight, bias, ctx.eps)[0]
        axes = list(range(x.ndim - 1))
        of_scale, of_shift = (grad * y).sum(axes), grad.sum(axes)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = torch.ops.aten.native_layer_norm_backward(
                grad * scale, x, ctx.shape, mean, root, weight, bias, [True, False, False]
            )[0]
        return of_x, None, None, None, None, of_scale, of_shift


def scaled_and_shifted(y: Tensor, scale: Tensor, shift: Tensor, shape: Sequence[int]) -> Tensor:
    """y * scale + shift with vectors viewed as `shape`; the sum is written over the product."""
    result: Tensor = _ScaledShifted.apply(y, scale, shift, tuple(shape))
    return result


class _ScaledShifted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, scale: Tensor, shift: Tensor, shape: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(y, scale if ctx.needs_input_grad[0] else None)
        ctx.shape = shape
        return (y * scale.view(shape)).add_(shift.view(shape))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        y, scale = ctx.saved_tensors
        axes = [axis for axis, size in enumerate(ctx.shape) if size == 1]
        of_y = (grad * scale.view(ctx.shape)).to(y.dtype) if ctx.needs_input_grad[0] else None
        return of_y, (grad * y).sum(axes), grad.sum(axes), None
