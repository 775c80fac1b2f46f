"""KARST (Zhu et al., ICASSP 2025, arXiv:2502.06779): sums of Kronecker products, and single numbers that re-scale."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import Intervention, MatrixDelta
from peftbench.interventions.linear import bias_of
from peftbench.interventions.rotation import largest_block
from peftbench.methods.base import METHODS
from peftbench.methods.targets import FUSED_TARGETS, Matrix, Targeted

# what timm calls the factors behind a block's halves
LAYER_SCALES = ("ls1", "ls2", "gamma_1", "gamma_2")


class KroneckerKernels(MatrixDelta):
    """x -> scale * sum_i C_i kron (U_i^T V_i^T) x, with one U_i for each of `num_parts` equal parts of the output.

    `small` C [kernels, out_small, in_small], `up` U [kernels, parts, rank, out_large] and `down` V
    [kernels, in_large, rank]. C and U are kaiming-uniform with a = sqrt(5), matrix by matrix; V is zero.
    """

    def __init__(
        self, in_dim: int, out_dim: int, num_parts: int, num_kernels: int, factor: int, rank: int, scale: float
    ) -> None:
        super().__init__()
        (in_small, in_large), (out_small, out_large) = sides(in_dim, factor), sides(out_dim // num_parts, factor)
        # the bound of that draw is one over the root of a matrix' columns
        self.small = nn.Parameter(_uniform(in_small, num_kernels, out_small, in_small))
        self.up = nn.Parameter(_uniform(out_large, num_kernels, num_parts, rank, out_large))
        self.down = nn.Parameter(torch.zeros(num_kernels, in_large, rank))
        self.scale = scale

    def weight(self) -> Tensor:
        larger = torch.einsum("kpro,kir->kpoi", self.up, self.down)
        product = torch.einsum("kab,kpoi->paobi", self.small, larger)
        return self.scale * product.flatten(3).flatten(0, 2)


def _uniform(fan_in: int, *shape: int) -> Tensor:
    bound = 1 / math.sqrt(fan_in)
    return torch.empty(shape).uniform_(-bound, bound)


def sides(width: int, factor: int) -> tuple[int, int]:
    """`width` as a product of two: the smaller is the largest divisor up to `factor` and up to the root."""
    small = largest_block(width, min(factor, math.isqrt(width)))
    return small, width // small


class Rescaled(Intervention):
    """s base(s' x + b') + b around a linear map, four single numbers; without `ahead`, s base(x) + b. At first x."""

    def __init__(self, base: nn.Module, ahead: bool) -> None:
        super().__init__(base)
        self.scale, self.shift = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))
        self.scale_ahead = nn.Parameter(torch.ones(1)) if ahead else None
        self.shift_ahead = nn.Parameter(torch.zeros(1)) if ahead else None

    def forward(self, x: Tensor) -> Tensor:
        if self.scale_ahead is not None and self.shift_ahead is not None:
            x = x * self.scale_ahead + self.shift_ahead
        y: Tensor = self.base(x)
        return y * self.scale + self.shift

    def folded(self) -> nn.Module | None:
        if not isinstance(self.base, nn.Linear):
            return None
        plain = copy.deepcopy(self.base)
        bias = bias_of(plain)
        if self.scale_ahead is not None and self.shift_ahead is not None:
            bias += self.shift_ahead * plain.weight.sum(dim=1)
            plain.weight *= self.scale_ahead
        plain.weight *= self.scale
        bias.mul_(self.scale).add_(self.shift)
        return plain


@METHODS.add("karst")
@dataclass(frozen=True)
class KARST(Targeted):
    """W' = W + (alpha / rank) sum_i C_i kron (U_i V_i), i = 1..g, g = `num_kernels`, and numbers that re-scale.

    Re-scaling is s x + b behind the heads of attention, behind proj and behind fc2, with s = 1 and b = 0 at the start.
    V is zero: the function is unchanged. C has f = `factor` rows and columns; the q, k and v of a block share C and V
    and have a U each. L (g (4 f^2 + r (8 D + 2 M) / f) + 6) parameters on a plain ViT, r = `rank`. Folds exactly.

    The release's `multiplier`, 1 in its scripts, acts twice: set alpha to its square. Its Swin runs take ranks by
    stage. Where a network has layer norms and no LayerScale, the shifts behind proj and fc2 change nothing.
    """

    paper: ClassVar[str] = "arXiv:2502.06779"
    size_option: ClassVar[str] = "rank"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "The released class stops at names that it never sets and is put right here; it re-scales by single numbers, "
        "which is followed, where the paper writes vectors."
    )

    rank: int = option(8, ge=1)
    num_kernels: int = option(8, ge=1)
    factor: int = option(8, ge=1)
    alpha: float = option(1.0, gt=0)
    targets: list[str] = option(list(FUSED_TARGETS), choices=FUSED_TARGETS)

    def attach(self, backbone: Backbone) -> None:
        super().attach(backbone)
        for role, ahead in (("attn.proj", True), ("mlp.fc2", False)):
            for site in backbone.sites(role):
                site.wrap(partial(Rescaled, ahead=ahead))

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        scale = self.alpha / self.rank
        parts = _parts(matrix.target)
        return KroneckerKernels(matrix.in_dim, matrix.out_dim, parts, self.num_kernels, self.factor, self.rank, scale)

    def expected_params(self, shape: BackboneShape) -> int:
        own = sum(
            self._size(in_dim, out_dim, _parts(name.rpartition(".")[2]))
            for name, in_dim, out_dim in self.named_matrices(shape)
        )
        return own + 4 * len(shape.at("attn.proj")) + 2 * len(shape.at("mlp.fc2"))

    def inert(self, backbone: Backbone) -> dict[str, slice]:
        """The shifts behind proj and fc2, unless channels are told apart ahead of the norms, which take means away."""
        norms = [site.module for site in backbone.all_sites if site.shape.role.startswith("norm")]
        blocks = [site.module for site in backbone.sites("block")]
        told_apart = any(not _absent(getattr(block, name, None)) for block in blocks for name in LAYER_SCALES)
        if told_apart or not all(isinstance(norm, nn.LayerNorm) for norm in norms):
            return {}
        # by place, since families call these linears by different names
        behind = [site.module for role in ("attn.proj", "mlp.fc2") for site in backbone.sites(role)]
        shifts = {id(module.shift) for module in behind if isinstance(module, Rescaled)}
        return {name: slice(None) for name, tensor in backbone.trainable if id(tensor) in shifts}

    def _size(self, in_dim: int, out_dim: int, num_parts: int) -> int:
        (in_small, in_large), (out_small, out_large) = (sides(w, self.factor) for w in (in_dim, out_dim // num_parts))
        return self.num_kernels * (out_small * in_small + self.rank * (num_parts * out_large + in_large))


def _absent(scale: Any) -> bool:
    return scale is None or isinstance(scale, nn.Identity)


def _parts(target: str) -> int:
    return 3 if target == "qkv" else 1
