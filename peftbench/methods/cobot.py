"""Cross Block Orchestration (Peng et al., CVPR 2024, arXiv:2311.17112): LoRA or adapters of all blocks, in touch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import Beside, LinearDelta, refer, share
from peftbench.methods.base import METHODS, Method

INSIDE = ("linear", "quaternion")
_OWNER = "cobot"
# the tensors that orchestrate, which the released code trains at a rate of their own
_ORCHESTRATE = (f"shared.{_OWNER}.", ".inside.")


class Coefficients(nn.Module):
    """c_i = (C P)[:, i] of slot i, with C [rank, slots] of ones and P [slots, slots] the identity at the start."""

    def __init__(self, rank: int, slots: int) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.ones(rank, slots))
        self.mixing = nn.Parameter(torch.eye(slots))

    def of(self, slot: int) -> Tensor:
        """Factors [rank] of one slot."""
        return self.levels @ self.mixing[:, slot]


class QuaternionLinear(nn.Module):
    """x -> x H without bias, H [rank, rank] the Hamilton product by four matrices [rank / 4, rank / 4].

    The real one starts at zero, the imaginary ones uniform in 0..1, as in the released code.
    """

    def __init__(self, rank: int) -> None:
        super().__init__()
        parts = torch.rand(4, rank // 4, rank // 4)
        parts[0] = 0
        self.parts = nn.Parameter(parts)

    @property
    def weight(self) -> Tensor:
        """As the weight of a linear map: H^T [rank, rank]."""
        r, i, j, k = self.parts
        rows = ((r, i, j, k), (-i, r, k, -j), (-j, -k, r, i), (-k, j, -i, r))
        return torch.cat([torch.cat(row, dim=1) for row in rows]).T

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class Orchestrated(nn.Module):
    """h -> Q (c_i * h + gamma * h) in the bottleneck of one slot; gamma is of ones at the start."""

    coefficients: Coefficients

    def __init__(self, coefficients: Coefficients, slot: int, inside: str) -> None:
        super().__init__()
        rank = len(coefficients.levels)
        refer(self, "coefficients", coefficients)
        self.slot = slot
        self.gamma = nn.Parameter(torch.ones(rank))
        self.inside = nn.Linear(rank, rank, bias=False) if inside == "linear" else QuaternionLinear(rank)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.inside(h * self.coefficients.of(self.slot) + self.gamma * h)
        return out

    def weight(self) -> Tensor:
        """The matrix [rank, rank] of the map."""
        inside: Tensor = self.inside.weight
        return inside * (self.coefficients.of(self.slot) + self.gamma)


class OrchestratedLowRank(nn.Module):
    """x -> B Q (c_i * A x + gamma * A x), A [rank, in] and B [out, rank] drawn xavier-normal."""

    def __init__(self, in_dim: int, out_dim: int, orchestrated: Orchestrated) -> None:
        super().__init__()
        rank = len(orchestrated.gamma)
        self.down = nn.Linear(in_dim, rank, bias=False)
        self.up = nn.Linear(rank, out_dim, bias=False)
        for layer in (self.down, self.up):
            nn.init.xavier_normal_(layer.weight)
        self.orchestrated = orchestrated

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.up(self.orchestrated(self.down(x)))
        return out

    def weight(self) -> Tensor:
        """The matrix [out, in] that this adds to the frozen one."""
        return self.up.weight @ self.orchestrated.weight() @ self.down.weight


class OrchestratedAdapter(nn.Module):
    """x -> up(dropout(relu(Q (c_i * h + gamma * h)))) with h = down(norm(x)); up starts at zero."""

    def __init__(self, width: int, orchestrated: Orchestrated, dropout: float) -> None:
        super().__init__()
        rank = len(orchestrated.gamma)
        self.norm = nn.LayerNorm(width)
        self.down, self.up = nn.Linear(width, rank), nn.Linear(rank, width)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for tensor in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(tensor)
        self.orchestrated = orchestrated
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.up(self.dropout(F.relu(self.orchestrated(self.down(self.norm(x))))))
        return out


class _Orchestration(Method):
    """Base of both forms."""

    paper: ClassVar[str] = "arXiv:2311.17112"
    size_option: ClassVar[str] = "rank"

    rank: int
    inside: str
    rate: float

    def problems(self) -> Sequence[str]:
        if self.inside == "quaternion" and self.rank % 4:
            return [f"method.rank must be a multiple of 4 for method.inside=quaternion, got {self.rank}"]
        return ()

    def lr_scale(self, tensor: str) -> float:
        return self.rate if any(name in f".{tensor}" for name in _ORCHESTRATE) else 1.0

    def common(self, backbone: Backbone, slots: int) -> Coefficients:
        return share(backbone, _OWNER, Coefficients(self.rank, slots))

    def orchestration(self, slots: int) -> int:
        """Parameters beyond those of plain LoRA or plain adapters."""
        inside = self.rank**2 if self.inside == "linear" else self.rank**2 // 4
        return self.rank * slots + slots**2 + slots * (inside + self.rank)


@METHODS.add("cobot_lora")
@dataclass(frozen=True)
class CobotLoRA(_Orchestration):
    """LoRA on q and v of every block, W' = W + B Q diag(c + gamma) A, whose blocks are tied together.

    c_i = (C P)[:, i] for slot i (q and v of each block), with C and P shared by all: C = 1, P = I and gamma = 1 at the
    start, so that a branch starts at twice its plain strength. Q is linear, as where the release trains this form
    (`medical/train.py`), or a quaternion product, as in the paper and where the release only runs it. `rate`: how many
    times the learning rate C, P and Q take.

    With T = 2 L slots T (2 D r) + r T + T^2 + T (r^2 + r) parameters: 1,152 more than plain LoRA at r = 4 on SAM-B.
    """

    family: ClassVar[str] = "reparametrisation"
    identity_at_init: ClassVar[bool] = False
    mergeable: ClassVar[bool] = True

    rank: int = option(4, ge=1)
    inside: str = option("linear", choices=INSIDE)
    rate: float = option(100.0, gt=0)

    def attach(self, backbone: Backbone) -> None:
        sites = backbone.sites("attn.qkv")
        if not all(isinstance(site.module, nn.Linear) for site in sites):
            raise NotApplicable(f"{self.name} works on a linear qkv, which {backbone.shape.family} lacks")
        common = self.common(backbone, 2 * len(sites))
        for number, site in enumerate(sites):
            pairs: dict[int, nn.Module] = {
                part: OrchestratedLowRank(
                    site.shape.in_dim,
                    site.shape.out_dim // 3,
                    Orchestrated(common, 2 * number + place, self.inside),
                )
                for place, part in enumerate((0, 2))
            }
            site.wrap(partial(LinearDelta, deltas=pairs, num_slices=3))

    def expected_params(self, shape: BackboneShape) -> int:
        sites = shape.at("attn.qkv")
        pairs = sum(2 * self.rank * (site.in_dim + site.out_dim // 3) for site in sites)
        return pairs + self.orchestration(2 * len(sites))


@METHODS.add("cobot_adapter")
@dataclass(frozen=True)
class CobotAdapter(_Orchestration):
    """An adapter beside the MLP of every block, mlp(x) + up(dropout(relu(Q (c_i * h + gamma * h)))), h = down(norm(x)).

    x is what the MLP reads. C, P and gamma as in `cobot_lora`, one slot a block. With T = L slots T (2 D r + 3 D + r) +
    r T + T^2 + T (r^2 / 4 + r) parameters: 1,296 more than the plain adapter with its norm at r = 16 on SAM-B.
    """

    family: ClassVar[str] = "adapter"

    rank: int = option(16, ge=1)
    inside: str = option("quaternion", choices=INSIDE)
    dropout: float = option(0.1, ge=0, lt=1)
    rate: float = option(100.0, gt=0)

    def attach(self, backbone: Backbone) -> None:
        sites = backbone.sites("mlp")
        common = self.common(backbone, len(sites))
        for number, site in enumerate(sites):
            orchestrated = Orchestrated(common, number, self.inside)
            adapter = OrchestratedAdapter(site.shape.out_dim, orchestrated, self.dropout)
            site.wrap(partial(Beside, module=adapter, channel_dim=site.channel_dim))

    def expected_params(self, shape: BackboneShape) -> int:
        sites = shape.at("mlp")
        adapters = sum(2 * site.out_dim * self.rank + 3 * site.out_dim + self.rank for site in sites)
        return adapters + self.orchestration(len(sites))
