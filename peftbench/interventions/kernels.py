"""Updates that are the sparse part of a kernel matrix (SNELL, SNELLA), and how many entries each of them keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from peftbench.interventions.linear import MatrixDelta

# of the distances, in the released code
SCALE = 0.1


class SparseKernel(MatrixDelta):
    """x -> T x with T_oi what a threshold leaves of 0.1 (||p_i - q_o|| - ||p'_i - q'_o||).

    `inner` [2, in_dim, rank / 2] holds p and p', `outer` [2, out_dim, rank / 2] q and q', both kaiming-uniform with
    a = sqrt(5) as tensors of three axes. The threshold is the quantile `sparsity` of the absolute entries, a constant
    to the gradient: `soft` moves what is above it towards zero by it, `released` multiplies each entry by its own
    absolute value, a constant as well. Sparsity 0 leaves all entries as they are. The matrix is made again in the
    backward pass.
    """

    def __init__(self, in_dim: int, out_dim: int, rank: int, sparsity: float, threshold: str) -> None:
        super().__init__()
        self.inner, self.outer = (nn.Parameter(torch.empty(2, width, rank // 2)) for width in (in_dim, out_dim))
        for factor in (self.inner, self.outer):
            nn.init.kaiming_uniform_(factor, a=math.sqrt(5))
        self.sparsity, self.threshold = sparsity, threshold
        self.reads_dropped = True

    def dense(self) -> Tensor:
        """The matrix [out_dim, in_dim] ahead of the threshold."""
        first, second = torch.cdist(self.inner, self.outer).unbind()
        return (SCALE * first - SCALE * second).T

    def weight(self) -> Tensor:
        dense = self.dense()
        return self.thinned(dense, quantile(dense.detach().abs().flatten(), self.sparsity)) if self.sparsity else dense

    def thinned(self, dense: Tensor, limit: Tensor) -> Tensor:
        """What a threshold at `limit` leaves of a matrix."""
        if self.threshold == "soft":
            return dense.sign() * F.relu(dense.abs() - limit)
        size = dense.detach().abs()
        return dense * torch.where(size > limit, size, 0)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(x)
        y: Tensor = checkpoint(super().forward, x, use_reentrant=False, preserve_rng_state=False)
        return y


def quantile(values: Tensor, share: float) -> Tensor:
    """The quantile of a vector of any length, between neighbours linearly; torch's own takes 16 million values.

    What is not below it is selected in place of sorting all: the same number, sooner the larger the share.
    """
    at = share * (len(values) - 1)
    below, above = math.floor(at), math.ceil(at)
    kept = values.topk(len(values) - below).values
    return torch.lerp(kept[-1], kept[below - above - 1], at - below)


class CompetingKernel(SparseKernel):
    """The same of D' = D + alpha softmax(D / gamma) + beta, D the distances, softmax over the outputs of an input.

    alpha and gamma start at 1, beta at 0, one number each. The share of entries that are left out lies in the buffer
    `left_out`, which `share_out` sets. A kernel that is watched keeps running means, over the backward passes, of the
    sensitivity |p dL/dp| of the entries of its factors and of how far it is from its mean (SNELLA, arXiv:2510.24037,
    after AdaLoRA, arXiv:2303.10512). They belong to training alone and to no adapter.
    """

    left_out: Tensor

    def __init__(self, in_dim: int, out_dim: int, rank: int, sparsity: float, threshold: str) -> None:
        super().__init__(in_dim, out_dim, rank, sparsity, threshold)
        self.alpha, self.gamma = (nn.Parameter(torch.ones(1)) for _ in range(2))
        self.beta = nn.Parameter(torch.zeros(1))
        self.register_buffer("left_out", torch.tensor(sparsity, dtype=torch.float64))
        self.watch: object = None

    @property
    def entries(self) -> int:
        return self.inner.shape[1] * self.outer.shape[1]

    def dense(self) -> Tensor:
        distances = super().dense()
        return distances + self.alpha * (distances / self.gamma).softmax(dim=0) + self.beta

    def weight(self) -> Tensor:
        dense = self.dense()
        ordered = dense.detach().abs().flatten().sort().values
        # on the device, so that a step can be done again with another share
        at = self.left_out * (self.entries - 1)
        below, above = (ordered.take(place.long()) for place in (at.floor(), at.ceil()))
        return self.thinned(dense, torch.lerp(below, above, (at - at.floor()).to(ordered.dtype)))

    def watched(self, keep_mean: float, keep_spread: float) -> None:
        """Begin to keep running means, which hold that share of what they were at every backward pass.

        A pass whose gradients are not all finite, as fp16 has where its scale was too large, leaves them as they were.
        """
        self.watch = watch = object()
        for name in ("inner", "outer"):
            factor: nn.Parameter = getattr(self, name)
            for kind in ("mean", "spread"):
                self.register_buffer(f"{name}_{kind}", torch.zeros_like(factor), persistent=False)

            @torch.no_grad()
            def note(factor: Tensor, name: str = name) -> None:
                if self.watch is watch and factor.grad is not None:
                    sensitivity = (factor * factor.grad).abs()
                    mean, spread = self.get_buffer(f"{name}_mean"), self.get_buffer(f"{name}_spread")
                    finite = sensitivity.isfinite().all()
                    mean.copy_(torch.where(finite, mean.lerp(sensitivity, 1 - keep_mean), mean))
                    moved = spread.lerp((sensitivity - mean).abs(), 1 - keep_spread)
                    spread.copy_(torch.where(finite, moved, spread))

            factor.register_post_accumulate_grad_hook(note)

    def score(self) -> Tensor:
        """Mean of sensitivity times spread over the entries of both factors."""
        parts = [self.get_buffer(f"{name}_mean") * self.get_buffer(f"{name}_spread") for name in ("inner", "outer")]
        return parts[0].mean() + parts[1].mean()


def share_out(kernels: Sequence[CompetingKernel], left_out: float) -> None:
    """Let the kernels keep the share 1 - `left_out` of all their entries, each as many as its score has of all scores.

    What one cannot take goes to the others by their scores.
    """
    scores = torch.stack([kernel.score().double() for kernel in kernels]).cpu()
    most = torch.tensor([kernel.entries for kernel in kernels], dtype=torch.float64)
    for kernel, kept in zip(kernels, allotted(scores, most, float(int((1 - left_out) * most.sum()))), strict=True):
        kernel.left_out.fill_(float(1 - kept / kernel.entries))


def allotted(scores: Tensor, most: Tensor, budget: float) -> Tensor:
    """How many of `budget` entries each matrix keeps: in the proportion of `scores`, at most `most`; all [matrices]."""
    volumes, takes = torch.zeros_like(most), most > 0
    while budget - float(volumes.sum()) >= 1 and bool(takes.any()):
        wanted = scores * takes
        wanted = wanted / wanted.sum() if float(wanted.sum()) > 0 else takes / takes.sum()
        volumes = torch.minimum(volumes + (budget - volumes.sum()) * wanted, most)
        takes = volumes < most
    return volumes.floor()
