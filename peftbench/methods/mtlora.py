"""MTLoRA (Agiza et al., CVPR 2024, arXiv:2403.20320): one LoRA for all tasks, and one for each ahead of its maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape, Site, SiteShape, matches, unfreeze
from peftbench.foundation.spec import option
from peftbench.interventions import LinearDelta, LowRank
from peftbench.interventions.paths import FORKED, Fork, Forked, forked, forks
from peftbench.methods.base import METHODS, Method

# what trains beside the method's own tensors
RETRAINED = ("embed", "norm", "merge")


class TaskLoRA(Forked):
    """y = W x + s B A x goes on; of task t y_t = W x + s_t B_t A_t x_t, where x_t is x at the first linear map.

    Dropout acts on x, with one mask for all that read it.
    """

    def __init__(
        self, base: nn.Module, opens: bool, tasks: int, shared: LowRank, own: list[LowRank], dropout: float
    ) -> None:
        super().__init__(base, tasks, opens)
        self.shared, self.own = shared, nn.ModuleList(own)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x, *own = self.paths(x)
        y: Tensor = self.base(x)
        x = self.dropout(x)
        given = [x] * self.tasks if self.opens else own
        changes = [self.shared(x), *(delta(t) for delta, t in zip(self.own, given, strict=True))]
        return torch.cat([y + change.to(y.dtype) for change in changes])


@METHODS.add("mtlora")
@dataclass(frozen=True)
class MTLoRA(Method):
    """W' = W + s B A in qkv, proj, fc1 and fc2 of all blocks; the last block ahead of a map has B_t A_t for each task.

    There proj, fc1 and fc2 give, beside the shared output y = W x + s B A x, y_t = W x + s_t B_t A_t x_t for task t, on
    residual paths of their own that leave as the task's map and enter no later block (section 3.2; `shared_mode`
    "matrix" of the released code, whose s is no alpha / rank). Patch embedding, norms, tables of relative positions and
    merging steps train as well. On Swin every stage gives a map, on a plain transformer every tapped block; the last
    one lies behind the backbone's final norm, which the released Swin does not have.

    With Swin-T, four tasks and the paper's decoders 4,954,682 (rank 16), 6,085,178 (32) and 8,346,170 (64) parameters
    train, the decoders' 1,946,624 among them, and the 1,536 of that norm: the published numbers without it.
    """

    family: ClassVar[str] = "reparametrisation"
    paper: ClassVar[str] = "arXiv:2403.20320"
    by_task: ClassVar[bool] = True
    size_option: ClassVar[str] = "rank"

    rank: int = option(64, ge=1)
    task_rank: int = option(4, ge=1)
    scale: float = option(4.0, gt=0)
    task_scale: float = option(4.0, gt=0)
    dropout: float = option(0.05, ge=0, lt=1)

    def attach(self, backbone: Backbone) -> None:
        retrain(backbone)
        for site, opens in forked(backbone):
            site.wrap(partial(self._forked, site=site, opens=opens, tasks=backbone.shape.tasks))
        for site, facts in forks(backbone):
            site.wrap(partial(Fork, **facts))
        alone = set(self._shared_alone(backbone.shape))
        for site in backbone.all_sites:
            if site.shape in alone:
                pair = LowRank(site.shape.in_dim, site.shape.out_dim, self.rank, self.scale, self.dropout)
                site.wrap(partial(LinearDelta, deltas={0: pair}))

    def _forked(self, base: nn.Module, site: Site, opens: bool, tasks: int) -> TaskLoRA:
        sizes = site.shape.in_dim, site.shape.out_dim
        shared = LowRank(*sizes, self.rank, self.scale)
        own = [LowRank(*sizes, self.task_rank, self.task_scale) for _ in range(tasks)]
        return TaskLoRA(base, opens, tasks, shared, own, self.dropout)

    def _shared_alone(self, shape: BackboneShape) -> Iterator[SiteShape]:
        yield from shape.at("attn.qkv")
        yield from (site for site in shape.at(*FORKED) if site.layer not in shape.tapped)

    def expected_params(self, shape: BackboneShape) -> int:
        shared = sum(self.rank * (s.in_dim + s.out_dim) for s in shape.at("attn.qkv", *FORKED))
        tapped = [s for s in shape.at(*FORKED) if s.layer in shape.tapped]
        own = sum(shape.tasks * self.task_rank * (s.in_dim + s.out_dim) for s in tapped)
        return shared + own + num_retrained(shape)

    def inert(self, backbone: Backbone) -> dict[str, slice]:
        """The shared pair of the last linear map: what it gives goes nowhere."""
        last = backbone.sites("mlp.fc2")[-1].module
        mine = {id(tensor) for tensor in last.shared.parameters()}  # type: ignore[union-attr]
        return {name: slice(None) for name, tensor in backbone.trainable if id(tensor) in mine}


def retrain(backbone: Backbone, roles: Sequence[str] = RETRAINED) -> None:
    """Let patch embedding, norms, merging steps (`roles`) and Swin's tables of relative positions train."""
    for site in backbone.all_sites:
        if any(matches(site.shape.role, role) for role in roles):
            unfreeze(site.module)
        table = getattr(site.module, "relative_position_bias_table", None)
        if site.shape.role == "attn" and table is not None and backbone.shape.family == "swin":
            unfreeze(table)


def num_retrained(shape: BackboneShape, roles: Sequence[str] = RETRAINED) -> int:
    """How many parameters those are."""
    found = sum(site.num_parameters for site in shape.at(*roles))
    if shape.family == "swin":
        inside = shape.at("attn.qkv", "attn.proj")
        found += sum(site.num_parameters for site in shape.at("attn")) - sum(site.num_parameters for site in inside)
    return found
