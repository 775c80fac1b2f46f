"""In which type a CPU computes the gradients of attention under autocast.

torch's CPU kernel for the gradients of attention takes longer for q, k and v of bfloat16 than for those of float32, the
more so the shorter the sequence (`benchmarks/attention.py`). In float32 it also rounds once, at the end, and so is
closer to the exact numbers.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from peftbench.foundation.cores import cpuinfo
from peftbench.foundation.replaced import Replaced

TORCH, FLOAT32 = "torch", "float32"
CHOICES = ("auto", TORCH, FLOAT32)
# longer sequences take less time in their own type
MOST_TOKENS = 400
_REDUCED = (torch.bfloat16, torch.float16)


def chosen(choice: str, device: torch.device, precision: str, compiled: bool) -> str:
    """`torch` or `float32`. auto is `float32` but on processors with AMX, whose products of bfloat16 were not measured.

    On a GPU, in fp32 and under compiled blocks the choice is without effect, and `torch`.
    """
    plain = device.type == "cpu" and precision != "fp32" and not compiled
    wanted = choice == FLOAT32 or (choice == "auto" and "amx_tile" not in (cpuinfo("flags") or "").split())
    return FLOAT32 if plain and wanted else TORCH


def in_use() -> str:
    """`torch` or `float32`: how gradients of attention are computed now."""
    return FLOAT32 if _IN_FLOAT32.on else TORCH


def gradients_in(kind: str) -> AbstractContextManager[None]:
    """Inside, gradients of attention in bfloat16 and float16 are computed so on a CPU; behind, as before.

    kind: `float32`, for sequences of at most `MOST_TOKENS`, or `torch` for the type of q, k and v. It holds for the
    whole process and for what is computed forward inside; `torch.func.grad` refuses such attention. Results of the
    forward pass, other types, and attention that torch does not give to its own kernel for CPUs (with a mask that
    trains, say) keep their bits.
    """
    return _IN_FLOAT32.where(kind == FLOAT32)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """torch's own forward pass: attention [batch, heads, tokens, width] and its log-sum-exp [batch, heads, tokens]."""
    found: tuple[Tensor, Tensor] = _Attention.apply(query, key, value, attn_mask, dropout_p, is_causal, scale)
    return found


_IN_FLOAT32 = Replaced(_scaled_dot_product_flash_attention_for_cpu=("AutogradCPU", _attention))


class _Attention(torch.autograd.Function):
    """torch's kernels for both passes; the second one in float32 where q, k and v are of fewer bits."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        dropout_p: float,
        is_causal: bool,
        scale: float | None,
    ) -> tuple[Tensor, Tensor]:
        forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        # straight to the kernel: this function stands where autograd would
        with torch._C._AutoDispatchBelowAutograd():
            out, sums = forward(query, key, value, dropout_p, is_causal, attn_mask=mask, scale=scale)
        ctx.save_for_backward(query, key, value, mask, out, sums)
        ctx.options = dropout_p, is_causal, scale
        ctx.mark_non_differentiable(sums)
        return out, sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, out, sums = ctx.saved_tensors
        dropout_p, is_causal, scale = ctx.options
        backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        inputs: tuple[Tensor, ...] = grad, query, key, value, out
        if max(query.shape[-2], key.shape[-2]) <= MOST_TOKENS:
            inputs = tuple(map(_wide, inputs))
            mask = None if mask is None else _wide(mask)
        grads = backward(*inputs, sums, dropout_p, is_causal, attn_mask=mask, scale=scale)
        return *(found.to(query.dtype) for found in grads), None, None, None, None


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in _REDUCED else tensor
