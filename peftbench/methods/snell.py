"""SNELL (Shen et al., NeurIPS 2024, arXiv:2411.01800): a sparse update from a kernel of low-rank factors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from peftbench.backbones.base import Backbone, BackboneShape, class_token_of, unfreeze
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import LinearDelta, MatrixDelta, Thinned
from peftbench.methods.base import METHODS
from peftbench.methods.targets import TARGETS, Matrix, Targeted

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

    def weight(self) -> Tensor:
        first, second = torch.cdist(self.inner, self.outer).unbind()
        dense = (SCALE * first - SCALE * second).T
        if not self.sparsity:
            return dense
        size = dense.detach().abs()
        limit = quantile(size.flatten(), self.sparsity)
        if self.threshold == "soft":
            return dense.sign() * F.relu(dense.abs() - limit)
        return dense * torch.where(size > limit, size, 0)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(x)
        y: Tensor = checkpoint(super().forward, x, use_reentrant=False, preserve_rng_state=False)
        return y


def quantile(values: Tensor, share: float) -> Tensor:
    """The quantile of a vector of any length, between neighbours linearly; torch's own takes 16 million values."""
    at, ordered = share * (len(values) - 1), values.sort().values
    return torch.lerp(ordered[math.floor(at)], ordered[math.ceil(at)], at - math.floor(at))


@METHODS.add("snell")
@dataclass(frozen=True)
class SNELL(Targeted):
    """W' = W + T(D), D_oi = 0.1 (||p_i - q_o|| - ||p'_i - q'_o||) from two halves of rank-r factors, T a threshold.

    T keeps the share 1 - `sparsity` of largest entries: rank (in + out) parameters for each matrix, and an update of
    full rank. Not zero at the start. Folds exactly. `threshold: soft` is the paper's; the released code multiplies what
    it keeps by its size, `released`. As released, dropout acts on the inputs of all maps but attention's output, with
    one mask for q, k and v, and each update has a stochastic depth of its own. The share is chosen for each task there
    (0 to 0.995). The class token trains as well there, which the paper does not say: `class_token` does so here.
    """

    paper: ClassVar[str] = "arXiv:2411.01800"
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "rank"

    rank: int = option(8, ge=2)
    sparsity: float = option(0.9, ge=0, lt=1)
    threshold: str = option("soft", choices=("soft", "released"))
    dropout: float = option(0.1, ge=0, lt=1)
    drop_path: float = option(0.1, ge=0, lt=1)
    targets: list[str] = option(list(TARGETS), choices=TARGETS)
    class_token: bool = option(False, later=True)

    def problems(self) -> Sequence[str]:
        odd = [f"method.rank must be even, half for each kernel, got {self.rank}"] if self.rank % 2 else []
        return [*super().problems(), *odd]

    def attach(self, backbone: Backbone) -> None:
        super().attach(backbone)
        if self.class_token:
            token = class_token_of(backbone)
            if not token:
                raise NotApplicable("snell's class_token trains one, and this backbone has none; leave it out")
            unfreeze(*token)

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        kernel = SparseKernel(matrix.in_dim, matrix.out_dim, self.rank, self.sparsity, self.threshold)
        kernel.reads_dropped = matrix.target != "proj"
        return Thinned(kernel, self.drop_path)

    def act(self, base: nn.Module, modules: dict[int, nn.Module], num_slices: int) -> nn.Module:
        reads_dropped = all(module.delta.reads_dropped for module in modules.values())  # type: ignore[union-attr]
        return LinearDelta(base, modules, num_slices, self.dropout if reads_dropped else 0.0)

    def size(self, in_dim: int, out_dim: int) -> int:
        return self.rank * (in_dim + out_dim)

    def expected_params(self, shape: BackboneShape) -> int:
        return super().expected_params(shape) + self.class_token * shape.width
