"""LoRA (Hu et al., ICLR 2022, arXiv:2106.09685): a low-rank update of chosen linear maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import LinearDelta, LowRank
from peftbench.methods.base import METHODS, Method

# slice of the fused qkv that a target names
SLICES = {"q": 0, "k": 1, "v": 2}
ROLES = {"proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
TARGETS = (*SLICES, *ROLES)


@METHODS.add("lora")
@dataclass(frozen=True)
class LoRA(Method):
    """W' = W + (alpha / rank) B A with A [rank, in], B [out, rank] (section 4.1). Folds exactly into W."""

    family: ClassVar[str] = "reparametrisation"
    paper: ClassVar[str] = "arXiv:2106.09685"
    mergeable: ClassVar[bool] = True
    size_option: ClassVar[str] = "rank"

    rank: int = option(8, ge=1)
    alpha: float = option(8.0, gt=0)
    dropout: float = option(0.1, ge=0, lt=1)
    # the paper adapts q and v (section 5.1)
    targets: list[str] = option(["q", "v"], choices=TARGETS)

    def problems(self) -> Sequence[str]:
        if not self.targets or len(set(self.targets)) < len(self.targets):
            return [f"method.targets must name each target once and at least one, got {self.targets}"]
        return ()

    @property
    def slices(self) -> list[int]:
        return sorted(SLICES[target] for target in self.targets if target in SLICES)

    @property
    def roles(self) -> list[str]:
        return [ROLES[target] for target in self.targets if target in ROLES]

    def _pair(self, in_dim: int, out_dim: int) -> LowRank:
        return LowRank(in_dim, out_dim, self.rank, self.alpha / self.rank, self.dropout)

    def attach(self, backbone: Backbone) -> None:
        for site in backbone.sites("attn.qkv") if self.slices else []:
            width = site.shape.out_dim // 3
            deltas = {number: self._pair(site.shape.in_dim, width) for number in self.slices}
            site.wrap(partial(LinearDelta, deltas=deltas, num_slices=3))
        for role in self.roles:
            for site in backbone.sites(role):
                pair = self._pair(site.shape.in_dim, site.shape.out_dim)
                site.wrap(partial(LinearDelta, deltas={0: pair}))

    def expected_params(self, shape: BackboneShape) -> int:
        fused = sum(self.rank * (s.in_dim + s.out_dim // 3) * len(self.slices) for s in shape.at("attn.qkv"))
        return fused + sum(self.rank * (s.in_dim + s.out_dim) for s in shape.at(*self.roles))


@METHODS.add("lora_qkv_shared")
@dataclass(frozen=True)
class LoRASharedQKV(Method):
    """W' = W + s B A on the fused qkv: one A [rank, D] for all three, B [3 D, rank]; rank (D + 3 D) L parameters.

    The form of NOAH (Zhang et al., arXiv:2206.04673) and of later benchmarks built on it, without the factor
    alpha / rank. At equal rank it trains as many parameters as separate pairs on q and v, but it is another function.
    """

    family: ClassVar[str] = "reparametrisation"
    paper: ClassVar[str] = "arXiv:2206.04673"
    mergeable: ClassVar[bool] = True
    size_option: ClassVar[str] = "rank"

    rank: int = option(8, ge=1)
    scale: float = option(1.0, gt=0)
    dropout: float = option(0.1, ge=0, lt=1)

    def attach(self, backbone: Backbone) -> None:
        for site in backbone.sites("attn.qkv"):
            pair = LowRank(site.shape.in_dim, site.shape.out_dim, self.rank, self.scale, self.dropout)
            site.wrap(partial(LinearDelta, deltas={0: pair}))

    def expected_params(self, shape: BackboneShape) -> int:
        return sum(self.rank * (site.in_dim + site.out_dim) for site in shape.at("attn.qkv"))
