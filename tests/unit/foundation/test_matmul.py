"""Products through oneDNN: the right numbers in every layout, gradients too, and torch's own kernels back behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from peftbench.foundation import matmul
from peftbench.foundation.errors import ConfigError
from peftbench.foundation.matmul import multiplied_by

CPU = torch.device("cpu")
needs_onednn = pytest.mark.skipif(not matmul.available(), reason="this torch carries no oneDNN")


def operands(dtype: torch.dtype = torch.float32) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs [n, k], [k, m] in all layouts that views give."""
    stream = torch.Generator().manual_seed(0)
    a, b = (torch.randn(*shape, generator=stream, dtype=torch.float64).to(dtype) for shape in ((33, 70), (70, 20)))
    wide, tall = torch.cat([a, a], 1), torch.cat([b, b])
    return [
        (a, b),
        (a.t().contiguous().t(), b),
        (a, b.t().contiguous().t()),
        (wide[:, ::2], b),
        (wide[:, 70:], tall[70:]),
        (a, tall[::2]),
        (a[:1].expand(9, 70), b[:, :1].expand(70, 5)),
        (a[:, :1], b[:1]),
        (a, torch.cat([b, b], 1)[:, 1::2]),
        (a, torch.cat([b, b[:, :1]], 1)[:, ::2]),
        (a, b.flatten().unfold(0, 20, 7)[:70]),
        (a[:, :5], b.flatten()[:5].expand(1, 5).t().expand(5, 9)),
    ]


@needs_onednn
@pytest.mark.parametrize("case", range(len(operands())))
def test_products_are_right_in_every_layout(case):
    a, b = operands()[case]
    bias = torch.linspace(-1, 1, 2 * b.shape[1])[::2]
    exact = a.double() @ b.double()
    with multiplied_by("onednn"):
        product, with_bias = a @ b, torch.addmm(bias, a, b)
        scaled = torch.addmm(bias, a, b, beta=0.5, alpha=3.0)
        added = torch.addmm(exact.float(), a, b)
    assert product.shape == exact.shape
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(product.double(), exact, **close)
    torch.testing.assert_close(with_bias.double(), exact + bias, **close)
    torch.testing.assert_close(scaled.double(), 3 * exact + 0.5 * bias, **close)
    torch.testing.assert_close(added.double(), 2 * exact, **close)


@needs_onednn
def test_gradients_of_a_linear_map_are_right_and_repeat():
    def gradients(library: str, dtype: torch.dtype) -> list[torch.Tensor]:
        torch.manual_seed(0)
        layer, inputs = nn.Linear(48, 40), torch.randn(3, 17, 48)
        layer, inputs = layer.to(dtype), inputs.to(dtype).requires_grad_()
        with multiplied_by(library):
            layer(inputs).square().sum().backward()
        return [inputs.grad, layer.weight.grad, layer.bias.grad]

    exact = gradients("torch", torch.float64)
    for found, again, right in zip(*(gradients("onednn", torch.float32) for _ in range(2)), exact, strict=True):
        assert torch.equal(found, again)
        torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=1e-4)


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64, torch.int64])
def test_other_numbers_have_the_bits_of_torch(dtype):
    for a, b in operands(dtype):
        own = a @ b
        with multiplied_by("onednn"):
            assert torch.equal(a @ b, own)


@needs_onednn
@pytest.mark.parametrize("columns", [False, True], ids=["rows", "columns"])
def test_a_part_of_a_wider_matrix_takes_the_kernel_that_the_part_alone_takes(columns):
    """oneDNN has no kernel of its own for rows with gaps between them, as the features of class tokens have."""
    torch.manual_seed(0)
    a = torch.randn(100, 64)
    wide = torch.randn(128, 65, 64)[:, 0].t() if columns else torch.randn(64, 65, 128)[:, 0]
    alone = wide.t().contiguous().t() if columns else wide.contiguous()
    with multiplied_by("onednn"):
        assert torch.equal(a @ wide, a @ alone)


@needs_onednn
def test_gradients_of_inputs_that_are_slices():
    layer, inputs = nn.Linear(49, 3), torch.randn(16, 97)[:, ::2]
    with multiplied_by("onednn"):
        layer(inputs).sum().backward()
    torch.testing.assert_close(layer.weight.grad, inputs.sum(0).expand(3, 49), rtol=1e-5, atol=1e-5)


@needs_onednn
def test_empty_and_unfitting_matrices_are_answered_as_torch_answers():
    with multiplied_by("onednn"):
        assert (torch.ones(0, 4) @ torch.ones(4, 3)).shape == (0, 3)
        assert torch.equal(torch.ones(2, 0) @ torch.ones(0, 3), torch.zeros(2, 3))
        assert torch.equal(torch.addmm(torch.ones(3), torch.ones(2, 0), torch.ones(0, 3)), torch.ones(2, 3))
        with pytest.raises(RuntimeError):
            torch.ones(2, 4) @ torch.ones(3, 2)
        with pytest.raises(RuntimeError):
            torch.ones(2, 4) @ torch.ones(4, 2).double()
        with pytest.raises(RuntimeError, match="matrix"):
            torch.mm(torch.ones(2, 3), torch.ones(3))


@needs_onednn
def test_the_kernels_are_torch_s_own_again(monkeypatch):
    asked = []
    monkeypatch.setattr(matmul, "_taken", lambda a, b: bool(asked.append(a.shape)))
    with multiplied_by("onednn"):
        torch.ones(2, 3) @ torch.ones(3, 2)
    assert asked == [(2, 3)]
    torch.ones(2, 3) @ torch.ones(3, 2)
    assert asked == [(2, 3)]


def test_auto_is_onednn_on_a_wide_processor_of_amd_alone(monkeypatch):
    monkeypatch.setattr(matmul, "available", lambda: True)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    chosen = {}
    for maker in ("AuthenticAMD", "GenuineIntel", None):
        for width in ("AVX2", "AVX512"):
            monkeypatch.setattr(matmul, "cpuinfo", lambda _, maker=maker: maker)
            monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda width=width: width)
            chosen[maker, width] = matmul.chosen("auto", CPU)
    assert [where for where, library in chosen.items() if library == "onednn"] == [("AuthenticAMD", "AVX512")]
    assert matmul.chosen("auto", torch.device("cuda")) == "torch"
    assert matmul.chosen("onednn", torch.device("cuda")) == "torch"
    assert matmul.chosen("torch", CPU) == "torch"


def test_onednn_where_there_is_none_is_said(monkeypatch):
    monkeypatch.setattr(matmul, "available", lambda: False)
    with pytest.raises(ConfigError, match=r"runtime\.matmul=onednn: .* use auto or torch"):
        matmul.chosen("onednn", CPU)
    assert matmul.chosen("auto", CPU) == "torch"
