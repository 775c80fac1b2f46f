"""Which library multiplies matrices of float32 on a CPU.

torch gives these products to MKL where it was built with it. On processors of other makers than Intel, MKL leaves their
AVX-512 unused; oneDNN, which every such torch carries for its other kernels, uses it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from peftbench.foundation.cores import cpuinfo
from peftbench.foundation.errors import ConfigError
from peftbench.foundation.replaced import Replaced

TORCH, ONEDNN = "torch", "onednn"
CHOICES = ("auto", TORCH, ONEDNN)


def available() -> bool:
    """Whether this torch carries oneDNN."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def chosen(choice: str, device: torch.device) -> str:
    """`torch` or `onednn`. auto is `onednn` on a CPU of AMD with AVX-512, where torch would ask MKL.

    Raises `ConfigError` for `onednn` where there is none. On a GPU the choice is without effect, and `torch`.
    """
    if choice == ONEDNN and not available():
        raise ConfigError([f"runtime.matmul={ONEDNN}: this torch was built without oneDNN; use auto or {TORCH}"])
    if device.type != "cpu":
        return TORCH
    return (ONEDNN if _gains() else TORCH) if choice == "auto" else choice


def in_use() -> str:
    """`torch` or `onednn`: what multiplies now."""
    return ONEDNN if _ONEDNN.on else TORCH


def multiplied_by(library: str) -> AbstractContextManager[None]:
    """Inside, `library` (`torch` or `onednn`) multiplies; behind, what did before.

    It holds for the whole process and all its threads, gradients included: the CPU kernels of `aten::mm` and
    `aten::addmm`, which linear maps end in, are replaced. Batched products, those within attention and those of
    compiled blocks, which ask for other kernels, stay as they are; so do other types than float32.
    """
    return _ONEDNN.where(library == ONEDNN)


def _mm(a: Tensor, b: Tensor) -> Tensor:
    """a b of [n, k] and [k, m]."""
    if _taken(a, b):
        return torch.ops.mkldnn._linear_pointwise(a, _laid_out(b).t(), None, "none", [], "")
    return torch.ops.aten.mm.out(a, b, out=a.new_empty(0))


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta bias + alpha a b of [n, k] and [k, m]."""
    if _taken(a, b) and bias.shape == b.shape[1:] and bias.dtype is torch.float32 and beta == alpha == 1:
        return torch.ops.mkldnn._linear_pointwise(a, _laid_out(b).t(), bias.contiguous(), "none", [], "")
    return torch.ops.aten.addmm.out(bias, a, b, beta=beta, alpha=alpha, out=a.new_empty(0))


_ONEDNN = Replaced(mm=("CPU", _mm), addmm=("CPU", _addmm))


def _taken(a: Tensor, b: Tensor) -> bool:
    """Whether oneDNN multiplies these; what it does not, and what torch refuses, goes to torch's own kernel."""
    both = a.dtype is torch.float32 and b.dtype is torch.float32
    return both and a.numel() > 0 and b.numel() > 0 and a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0]


def _laid_out(b: Tensor) -> Tensor:
    """`b` [k, m] itself where it lies row by row or column by column without gaps, else a copy.

    oneDNN refuses steps in both directions. Gaps, as a part of a wider matrix has, it takes without a kernel of its own
    for them, a hundred times and more slower (ONEDNN_VERBOSE=1 says `ref`).
    """
    return b if b.is_contiguous() or b.t().is_contiguous() else b.contiguous()


def _gains() -> bool:
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return wide and torch.backends.mkl.is_available() and available() and cpuinfo("vendor_id") == "AuthenticAMD"
