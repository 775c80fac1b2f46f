"""NOAH (Zhang et al., 2022, arXiv:2206.04673): a super-net and an evolutionary search find the sub-net that trains."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.errors import ConfigError
from peftbench.foundation.spec import option
from peftbench.interventions import Bottleneck, InsertTokens, LowRank, StripTokens
from peftbench.interventions.sequential import ACTIVATIONS
from peftbench.methods.base import METHODS, Method
from peftbench.methods.evolution import Space, Subnet, evolve
from peftbench.methods.noah_subnet import Sizes, count, insert, left_at_the_end, require_tokens
from peftbench.methods.observation import Batch, Evidence, Findings


class ElasticTokens(InsertTokens):
    """Prompts of which the first `size` are inserted."""

    size = 0

    def present(self) -> Tensor:
        return self.tokens[:, : self.size]


class ElasticLowRank(LowRank):
    """A pair of which the first `size` ranks act."""

    size = 0

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(self.dropout(x), self.down[: self.size]), self.up[:, : self.size])


class ElasticBottleneck(Bottleneck):
    """An adapter of which the first `size` hidden units act; at 0 nothing is left, not even the bias."""

    size = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.size == 0:
            return torch.zeros_like(x)
        hidden = F.linear(x, self.down.weight[: self.size], self.down.bias[: self.size])
        hidden = self.dropout(ACTIVATIONS[self.activation](hidden))
        return F.linear(hidden, self.up.weight[:, : self.size], self.up.bias)


ELASTIC = (ElasticTokens, ElasticLowRank, ElasticBottleneck)


@METHODS.add("noah_supernet")
@dataclass(frozen=True)
class NOAHSupernet(Method):
    """`noah_subnet` with the sizes of each block found on the task: super-net, evolutionary search, retraining.

    The super-net has prompts, LoRA and adapters of the largest size in every block; smaller ones are their first
    entries. Each step of its training on train800 draws a sub-net: for each kind of module a depth of 1/4, 2/4, 3/4 or
    all of the blocks, from the first on, and one of `sizes` in each of them. The search (see `evolution`) compares
    `population` sub-nets in each of `generations` by accuracy on val200, within `budget`, a share of the backbone's
    parameters: 0.0065 is the released limit of 0.64M of ViT-B, which counts a prompt that block 0 replaces and the
    places of all 100 prompts as well (0.08M). The best one trains from the pretrained weights, its modules drawn anew,
    as in the released scripts. Those give the super-net 100 entries of each module, of which the sub-nets of VTAB-1k
    reach 10; the others are left out here, and all modules start as though they were there.
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "arXiv:2206.04673"
    identity_at_init: ClassVar[bool] = False
    observes: ClassVar[bool] = True
    version: ClassVar[int] = 4

    sizes: list[int] = option([1, 5, 10], ge=1)
    supernet_epochs: int = option(500, ge=1)
    supernet_lr: float = option(5e-4, gt=0)
    population: int = option(50, ge=2)
    generations: int = option(15, ge=1)
    budget: float = option(0.0065, gt=0, lt=1)
    dropout: float = option(0.1, ge=0, lt=1)

    def problems(self) -> Sequence[str]:
        return () if self.sizes else ["method.sizes must name at least one size"]

    def observe(self, evidence: Evidence) -> Findings:
        """`sizes` [3, blocks]: prompts, LoRA rank and adapter width of each block."""
        require_tokens(self.name, evidence.backbone)
        shape = evidence.backbone.shape
        limit, depth = self.budget * shape.num_parameters, shape.depth
        space = Space(self.sizes, sorted({max(1, depth * quarter // 4) for quarter in (1, 2, 3, 4)}), depth)
        smallest: Subnet = ((min(self.sizes),) * space.depths[0] + (0,) * (depth - space.depths[0]),) * 3
        if count(shape, by_block(smallest)) > limit:
            needed = count(shape, by_block(smallest)) / shape.num_parameters
            raise ConfigError([f"method.budget={self.budget} leaves no sub-net; the smallest needs {needed:.4f}"])

        backbone = copy.deepcopy(evidence.backbone)
        insert(backbone, [(max(self.sizes),) * 3] * depth, self.dropout, *ELASTIC)
        model = evidence.classifier(backbone)
        chance = random.Random(int(torch.randint(2**62, ())))

        def loss_of_a_subnet(supernet: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
            shrink(backbone, space.draw(chance))
            return evidence.loss(supernet, batch)

        def accuracy(subnet: Subnet) -> float:
            shrink(backbone, subnet)
            return evidence.accuracy(model)

        evidence.fit(model, loss_of_a_subnet, self.supernet_epochs, self.supernet_lr)
        found = evolve(
            space,
            accuracy,
            lambda subnet: count(shape, by_block(subnet)) <= limit,
            self.population,
            self.generations,
            chance,
        )
        return {"sizes": torch.tensor(found or smallest)}

    def attach_with(self, backbone: Backbone, findings: Findings) -> None:
        require_tokens(self.name, backbone)
        insert(backbone, by_block(findings["sizes"].tolist()), self.dropout)

    def expected_params(self, shape: BackboneShape) -> None:
        """It depends on the sub-net; at most the budget times the backbone's parameters."""

    def expected_with(self, shape: BackboneShape, findings: Findings) -> int:
        return count(shape, by_block(findings["sizes"].tolist()))

    def summary(self, findings: Findings) -> dict[str, Any]:
        return dict(zip(("prompts", "lora_ranks", "adapter_widths"), findings["sizes"].tolist(), strict=True))


def by_block(subnet: Sequence[Sequence[int]]) -> list[Sizes]:
    """Three lists over the blocks -> one triple for each block."""
    return [(prompts, rank, width) for prompts, rank, width in zip(*subnet, strict=True)]


def shrink(backbone: Backbone, subnet: Subnet) -> None:
    """Let a super-net act as one of its sub-nets."""
    for kind, sizes in zip(ELASTIC, subnet, strict=True):
        modules: list[Any] = backbone.all_of(kind)
        for module, size, before in zip(modules, sizes, [0, *sizes[:-1]], strict=True):
            module.size = size
            if kind is ElasticTokens:
                module.num_replaced = before
    for module in backbone.modules():
        if isinstance(module, StripTokens):
            module.num_tokens = left_at_the_end(subnet[0])
