"""Gradients of `unbind` in one pass: torch's bits, in the order of memory, and torch's own kernel behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from peftbench.foundation.unbinding import in_one_pass

SEEN: dict[str, Callable[[Tensor], Tensor]] = {
    "as it lies": lambda x: x,
    "as attention sees it": lambda x: x.permute(2, 0, 3, 1, 4),
    "reversed": lambda x: x.permute(4, 3, 2, 1, 0),
    "part of it": lambda x: x[:, 1:, :, ::2],
    "expanded": lambda x: x[:1].expand(2, -1, -1, -1, -1),
}


def gradient(view: Callable[[Tensor], Tensor], dim: int, used: slice = slice(None)) -> Tensor:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 3, 4, 6, generator=chance, requires_grad=True)
    parts = view(x * 1.0).unbind(dim)
    loss = torch.stack([part.square().sum() * (place + 1) for place, part in enumerate(parts)][used]).sum()
    (found,) = torch.autograd.grad(loss, x)
    return found


@pytest.mark.parametrize("dim", [0, 1, -1, -5])
@pytest.mark.parametrize("view", SEEN)
def test_gradients_are_torchs_to_the_bit(view: str, dim: int) -> None:
    expected = gradient(SEEN[view], dim)
    with in_one_pass():
        assert torch.equal(gradient(SEEN[view], dim), expected)
        with in_one_pass(False):
            assert torch.equal(gradient(SEEN[view], dim), expected)


def test_parts_that_nothing_reads_have_no_gradient() -> None:
    view = SEEN["as attention sees it"]
    expected = gradient(view, 0, slice(1))
    with in_one_pass():
        assert torch.equal(gradient(view, 0, slice(1)), expected)
    assert expected.any() and not expected[:, :, 1:].any()


class Copies(TorchDispatchMode):
    """Counts operations that put together or copy as much as a tensor of `size` numbers."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.found = size, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if isinstance(out, Tensor) and out.numel() == self.size and name in ("stack", "cat", "clone", "copy_"):
            self.found += 1
        return out


@pytest.mark.parametrize(("one_pass", "passes"), [(False, 2), (True, 1)])
def test_queries_keys_and_values_are_put_together_once(one_pass: bool, passes: int) -> None:
    product = torch.randn(2, 5, 3 * 4 * 6, requires_grad=True)
    with in_one_pass(one_pass):
        parts = (product * 1.0).reshape(2, 5, 3, 4, 6).permute(2, 0, 3, 1, 4).unbind(0)
        grads = [torch.randn_like(part) for part in parts]
        with Copies(product.numel()) as copies:
            torch.autograd.backward(parts, grads)
    assert copies.found == passes
    expected = torch.stack(grads).permute(1, 3, 0, 2, 4).reshape(2, 5, -1)
    assert product.grad is not None and torch.equal(product.grad, expected)


def test_second_derivatives_and_what_torch_refuses_stay() -> None:
    def second() -> Tensor:
        x = torch.arange(1.0, 7.0).view(2, 3).requires_grad_()
        first, other = x.unbind(0)
        (grad,) = torch.autograd.grad((first**3 * other).sum(), x, create_graph=True)
        (found,) = torch.autograd.grad(grad.square().sum(), x)
        return found

    expected = second()
    with in_one_pass():
        assert torch.equal(second(), expected)
        assert torch.zeros(0, 3, requires_grad=True).unbind(0) == ()
        for shape, dim in (((), 0), ((2,), 1)):
            with pytest.raises(IndexError):
                torch.zeros(shape, requires_grad=True).unbind(dim)


def test_compiled_code_puts_them_together_once_too() -> None:
    graphs: list[list[str]] = []

    def keep(graph: Any, inputs: Any) -> Any:
        graphs.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        return make_boxed_func(graph.forward)

    def backend(graph: Any, inputs: Any) -> Any:
        from torch._dynamo.backends.common import aot_autograd

        return aot_autograd(fw_compiler=keep, bw_compiler=keep)(graph, inputs)

    def split(product: Tensor) -> Tensor:
        query, key, value = product.reshape(2, 5, 3, 4, 6).permute(2, 0, 3, 1, 4).unbind(0)
        return query * key + value

    product = torch.randn(2, 5, 3 * 4 * 6, requires_grad=True)
    (expected,) = torch.autograd.grad(split(product).sum(), product)
    torch._dynamo.reset()
    with in_one_pass():
        (found,) = torch.autograd.grad(torch.compile(split, backend=backend)(product).sum(), product)
    assert torch.equal(found, expected)
    assert "aten.stack.default" in graphs[-1] and not any("clone" in name for name in graphs[-1])
