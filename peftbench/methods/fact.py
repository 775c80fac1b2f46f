"""FacT (Jie and Deng, AAAI 2023, arXiv:2212.03145): one factorised tensor updates all matrices of all blocks.

The matrices of a plain ViT are cut into D x D slices: q, k, v, the output projection, four of fc1 and four of fc2, 12
for each block. Slice j changes by s V S_j U with U [r, D] and V [D, r] shared by the whole network and a small core
S_j [r, r]. The two forms differ in the core. U and S_j start as linear layers do, V = 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape, Site
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import LinearDelta, refer, share
from peftbench.methods.base import METHODS, Method

ROLES = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


class Factors(nn.Module):
    """U [rank, width] and V [width, rank] of all layers of one width."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.reduce = nn.Parameter(torch.empty(rank, width))
        self.expand = nn.Parameter(torch.zeros(width, rank))
        nn.init.kaiming_uniform_(self.reduce, a=math.sqrt(5))


class TuckerFactors(Factors):
    """U, V, the core C [rank, rank, rank], and P [rank, num_slices] that mixes it into one matrix for each slice."""

    def __init__(self, width: int, rank: int, num_slices: int) -> None:
        super().__init__(width, rank)
        self.cube = nn.Parameter(torch.empty(rank, rank, rank))
        self.mixing = nn.Parameter(torch.empty(rank, num_slices))
        nn.init.xavier_uniform_(self.cube)
        nn.init.xavier_uniform_(self.mixing)


class FactorDelta(nn.Module):
    """x [..., num_in width] -> s V core U x [..., num_out width], chunk by chunk, dropout on the core's output."""

    factors: Factors

    def __init__(self, factors: Factors, num_in: int, num_out: int, scale: float, dropout: float) -> None:
        super().__init__()
        refer(self, "factors", factors)
        self.num_in, self.num_out, self.scale = num_in, num_out, scale
        self.dropout = nn.Dropout(dropout)

    def core(self) -> Tensor:
        """The cores of this layer's slices side by side: [num_out rank, num_in rank]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        reduced = F.linear(x.unflatten(-1, (self.num_in, -1)), self.factors.reduce).flatten(-2)
        mixed = self.dropout(F.linear(reduced, self.core())).unflatten(-1, (self.num_out, -1))
        return self.scale * F.linear(mixed, self.factors.expand).flatten(-2)

    def weight(self) -> Tensor:
        """The matrix [num_out width, num_in width] that this adds to the frozen one."""
        core = self.core().unflatten(1, (self.num_in, -1)).unflatten(0, (self.num_out, -1))
        full = torch.einsum("dr,oris,se->odie", self.factors.expand, core, self.factors.reduce)
        return self.scale * full.flatten(2).flatten(0, 1)


class TrainDelta(FactorDelta):
    """A core of its own for each layer."""

    def __init__(self, factors: Factors, num_in: int, num_out: int, scale: float, dropout: float) -> None:
        super().__init__(factors, num_in, num_out, scale, dropout)
        rank = len(factors.reduce)
        self.cores = nn.Parameter(torch.empty(num_out * rank, num_in * rank))
        nn.init.kaiming_uniform_(self.cores, a=math.sqrt(5))

    def core(self) -> Tensor:
        return self.cores


class TuckerDelta(FactorDelta):
    """Cores S_j = sum_c C[:, :, c] P[c, j] from the shared cube, for slices j = first, first + 1, ..."""

    factors: TuckerFactors

    def __init__(
        self,
        factors: Factors,
        num_in: int,
        num_out: int,
        scale: float,
        dropout: float,
        first: int,
        last: bool,
        interleaved: bool,
    ) -> None:
        super().__init__(factors, num_in, num_out, scale, dropout)
        self.columns, self.last, self.interleaved = slice(first, first + num_in * num_out), last, interleaved

    def core(self) -> Tensor:
        cores = torch.einsum("abc,cj->abj", self.factors.cube, self.factors.mixing[:, self.columns])
        if self.interleaved:
            side_by_side = cores.flatten(1)
            return side_by_side if self.last else side_by_side.T
        if self.last:
            return cores.transpose(1, 2).flatten(1)
        return cores.permute(2, 1, 0).flatten(0, 1)


@dataclass(frozen=True)
class _FacT(Method):
    """What both forms share. Stages of other widths (Swin) have factors of their own."""

    family: ClassVar[str] = "reparametrisation"
    paper: ClassVar[str] = "arXiv:2212.03145"
    mergeable: ClassVar[bool] = True
    size_option: ClassVar[str] = "rank"

    rank: int = option(16, ge=1)
    # chosen for each task from 0.01, 0.1, 1, 10, 100
    scale: float = option(1.0, gt=0)
    dropout: float = option(0.1, ge=0, lt=1)

    def attach(self, backbone: Backbone) -> None:
        backbone.sites("attn.qkv")
        slices = num_slices(backbone.shape)
        factors = {
            width: share(backbone, f"width_{width}", self._factors(width, number)) for width, number in slices.items()
        }
        used = dict.fromkeys(slices, 0)
        widths = width_of_layers(backbone.shape)
        for site in backbone.all_sites:
            if site.shape.role in ROLES:
                width = widths[site.layer]
                delta = self._delta(site, factors[width], used[width])
                used[width] += delta.num_in * delta.num_out
                site.wrap(partial(LinearDelta, deltas={0: delta}))

    def _factors(self, width: int, number: int) -> Factors:
        return Factors(width, self.rank)

    def _delta(self, site: Site, factors: Factors, first: int) -> FactorDelta:
        raise NotImplementedError


@METHODS.add("fact_tt")
@dataclass(frozen=True)
class FacTTT(_FacT):
    """Tensor-train form: a free core for each slice (equation 5); 2 D r + 12 L r^2 parameters."""

    def _delta(self, site: Site, factors: Factors, first: int) -> FactorDelta:
        num_in, num_out = chunks(site.shape.in_dim, site.shape.out_dim, factors.expand.shape[0])
        return TrainDelta(factors, num_in, num_out, self.scale, self.dropout)

    def expected_params(self, shape: BackboneShape) -> int:
        return sum(2 * width * self.rank + number * self.rank**2 for width, number in num_slices(shape).items())


@METHODS.add("fact_tk")
@dataclass(frozen=True)
class FacTTK(_FacT):
    """Tucker form: cores mixed from one cube, S_j = sum_c C[:, :, c] P[c, j]; 2 D r + 12 L r + r^3 parameters.

    C and P are xavier-uniform, as in the code; fc2's cores are transposed, as there. `mlp_cores`: as in the code, whose
    weights fit, the four cores of an MLP matrix are laid out interleaved, so that slice i takes the entries i r to
    (i + 1) r of [r, 4 r] read row by row; `sliced` gives slice j column j of P, as the equation says.
    """

    version: ClassVar[int] = 2

    rank: int = option(32, ge=1)
    mlp_cores: str = option("interleaved", choices=("interleaved", "sliced"))

    def _factors(self, width: int, number: int) -> Factors:
        return TuckerFactors(width, self.rank, number)

    def _delta(self, site: Site, factors: Factors, first: int) -> FactorDelta:
        num_in, num_out = chunks(site.shape.in_dim, site.shape.out_dim, factors.expand.shape[0])
        last = site.shape.role == "mlp.fc2"
        interleaved = self.mlp_cores == "interleaved" and site.shape.role.startswith("mlp.")
        return TuckerDelta(factors, num_in, num_out, self.scale, self.dropout, first, last, interleaved)

    def expected_params(self, shape: BackboneShape) -> int:
        r = self.rank
        return sum(2 * width * r + number * r + r**3 for width, number in num_slices(shape).items())


def width_of_layers(shape: BackboneShape) -> dict[int, int]:
    """Block number -> width of its tokens."""
    return {site.layer: site.in_dim for site in shape.at("attn.qkv")}


def num_slices(shape: BackboneShape) -> dict[int, int]:
    """Token width -> number of width x width slices among all matrices of the blocks of that width."""
    widths = width_of_layers(shape)
    found: dict[int, int] = {}
    for site in shape.at(*ROLES):
        width = widths[site.layer]
        num_in, num_out = chunks(site.in_dim, site.out_dim, width)
        found[width] = found.get(width, 0) + num_in * num_out
    return found


def chunks(in_dim: int, out_dim: int, width: int) -> tuple[int, int]:
    """How many slices lie side by side in a matrix; raises `NotApplicable` if it cannot be cut into whole ones."""
    if in_dim % width or out_dim % width:
        raise NotApplicable(f"a {out_dim} x {in_dim} matrix cannot be cut into slices of {width} x {width}")
    return in_dim // width, out_dim // width
