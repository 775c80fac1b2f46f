"""Gradients of attention in float32: closer to the exact ones than torch's choice, and put back behind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.foundation import attention
from peftbench.foundation.attention import gradients_in

CPU = torch.device("cpu")
MASKS = ["none", "causal", "boolean", "added"]
REDUCED = [torch.bfloat16, torch.float16]


def passes(kind: str, dtype: torch.dtype, values: torch.dtype, mask: str = "none", width: int = 32) -> list[Tensor]:
    """Attention of numbers that `values` holds, and the gradients of q, k and v, computed in `dtype`."""
    stream = torch.Generator().manual_seed(0)
    shape = 2, 3, 17, width
    inputs = [torch.randn(shape, generator=stream).to(values).to(dtype).requires_grad_() for _ in range(3)]
    weights = torch.randn(shape, generator=stream).to(values).to(dtype)
    added = torch.randn(17, 17, generator=stream).to(values).to(dtype)
    masks = {"boolean": (added > 0) | torch.eye(17, dtype=torch.bool), "added": added}
    with gradients_in(kind):
        out = F.scaled_dot_product_attention(*inputs, attn_mask=masks.get(mask), is_causal=mask == "causal")
        (out * weights).sum().backward()
    return [out.detach(), *(tensor.grad for tensor in inputs if tensor.grad is not None)]


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dtype", REDUCED)
def test_gradients_are_closer_and_the_forward_pass_keeps_its_bits(dtype, mask):
    exact = passes("torch", torch.float64, dtype, mask)
    before, after, again = (passes(kind, dtype, dtype, mask) for kind in ("torch", "float32", "float32"))
    assert len(before) == len(after) == 4
    assert torch.equal(before[0], after[0])
    for name, right, old, new, repeated in zip("qkv", exact[1:], before[1:], after[1:], again[1:], strict=True):
        assert new.dtype is dtype and torch.equal(new, repeated)
        assert error(new, right) < error(old, right), name
        # rounding each number once to this type is off by a third of its step
        assert error(new, right) < torch.finfo(dtype).eps, name


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wider_types_have_the_bits_of_torch(dtype, mask):
    for old, new in zip(passes("torch", dtype, dtype, mask), passes("float32", dtype, dtype, mask), strict=True):
        assert torch.equal(old, new)


def test_it_is_torch_s_kernel_that_is_asked_in_float32(monkeypatch):
    asked = []
    real = attention._wide
    monkeypatch.setattr(attention, "_wide", lambda tensor: (asked.append(tensor.dtype), real(tensor))[1])
    passes("torch", torch.bfloat16, torch.bfloat16)
    assert asked == []
    passes("float32", torch.bfloat16, torch.bfloat16)
    assert asked == [torch.bfloat16] * 5


def test_no_graph_is_made_where_nothing_trains_and_what_trains_alone_has_a_gradient():
    query, key, value = (torch.randn(1, 2, 5, 8, dtype=torch.bfloat16) for _ in range(3))
    with gradients_in("float32"):
        assert not F.scaled_dot_product_attention(query, key, value).requires_grad
        with torch.inference_mode():
            F.scaled_dot_product_attention(query, key, value)
        F.scaled_dot_product_attention(query, key.requires_grad_(), value).sum().backward()
    assert key.grad is not None and query.grad is None and value.grad is None


def test_a_mask_that_trains_has_its_gradient():
    """Attention with such a mask is not that kernel's: torch writes it out."""
    query = torch.randn(1, 2, 5, 8, dtype=torch.bfloat16, requires_grad=True)
    bias = torch.zeros(5, 5, dtype=torch.bfloat16, requires_grad=True)
    with gradients_in("float32"):
        F.scaled_dot_product_attention(query, query, query, attn_mask=bias).square().sum().backward()
    assert bias.grad is not None and bias.grad.abs().sum() > 0


def test_long_sequences_keep_their_type(monkeypatch):
    asked = []
    real = attention._wide
    monkeypatch.setattr(attention, "_wide", lambda tensor: (asked.append(tensor.shape[-2]), real(tensor))[1])
    query, short = (torch.randn(1, 1, n, 8, dtype=torch.bfloat16, requires_grad=True) for n in (401, 5))
    with gradients_in("float32"):
        for q, k in ((query, short), (short, query), (query, query)):
            F.scaled_dot_product_attention(q, k, k).sum().backward()
        assert asked == []
        F.scaled_dot_product_attention(query[:, :, 1:], short, short).sum().backward()
    assert 400 in asked and query.grad is not None


@pytest.mark.parametrize(
    ("flags", "kind"), [("fpu avx512f", "float32"), ("fpu amx_bf16 amx_tile", "torch"), (None, "float32")]
)
def test_auto_asks_whether_the_processor_has_amx(flags, kind, monkeypatch):
    monkeypatch.setattr(attention, "cpuinfo", lambda _: flags)
    assert attention.chosen("auto", CPU, "bf16", False) == kind
    assert attention.chosen("float32", CPU, "bf16", False) == "float32"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_auto_is_float32_on_a_cpu_in_few_bits_and_uncompiled(precision, monkeypatch):
    monkeypatch.setattr(attention, "cpuinfo", lambda _: "fpu")
    assert attention.chosen("auto", CPU, precision, False) == "float32"
    assert attention.chosen("float32", CPU, precision, False) == "float32"
    assert attention.chosen("torch", CPU, precision, False) == "torch"
    assert attention.chosen("auto", CPU, precision, True) == "torch"
    assert attention.chosen("float32", torch.device("cuda"), precision, False) == "torch"
    assert attention.chosen("float32", CPU, "fp32", False) == "torch"
