"""VMT-Adapter (Xin et al., AAAI 2024, arXiv:2312.08733): one adapter for all tasks, scaled and shifted for each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import Tap, tap_block
from peftbench.interventions.block import halves
from peftbench.interventions.paths import PathsBlock, forks
from peftbench.methods.base import METHODS, Method


class SharedAdapter(nn.Module):
    """x -> s (U h + c) with h = relu(V x + a), V [bottleneck, width]; `lite`: U = V^T, else U is its own.

    V is kaiming-uniform with a = sqrt(5); U and the biases are zero.
    """

    def __init__(self, width: int, bottleneck: int, scale: float, lite: bool) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = None if lite else nn.Parameter(torch.zeros(width, bottleneck))
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale = scale
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.down.bias)

    def hidden(self, x: Tensor) -> Tensor:
        return F.relu(self.down(x))

    def back(self, hidden: Tensor) -> Tensor:
        return self.scale * F.linear(hidden, self.down.weight.T if self.up is None else self.up, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.back(self.hidden(x))


class Extracting(PathsBlock):
    """A block with the shared adapter on the path that goes on; that of task t has s_t h + b_t in the place of h.

    s_t is 1 and b_t 0 at the start, [tasks, bottleneck] each.
    """

    def __init__(self, base: nn.Module, adapter: SharedAdapter, tasks: int, behind: bool) -> None:
        super().__init__(base, tasks, behind)
        self.adapter = adapter
        size = adapter.down.out_features
        self.factor, self.shift = nn.Parameter(torch.ones(tasks, size)), nn.Parameter(torch.zeros(tasks, size))

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        x = self.entering(x)
        for half in halves(self.base, arguments).values():
            before, after = half.enter(x), half.leave
            x = x + half.leave(half.added(x))
        hidden = self.adapter.hidden(before)
        paths = [hidden, *(s * hidden + b for s, b in zip(self.factor, self.shift, strict=True))]
        return torch.cat([x + after(self.adapter.back(path)) for path in paths])


@METHODS.add("vmt_adapter")
@dataclass(frozen=True)
class VMTAdapter(Method):
    """x <- x + mlp_half(x) + s U relu(V x) for all tasks; the map of task t has s_t relu(V x) + b_t in relu's place.

    The backbone and the shared adapters run once, however many tasks there are; each task's scale and shift of the
    bottleneck act where maps are read. `lite`: U = V^T, so that the network changes at the start.

    There is no public code. From the paper's abstract and figures: parallel to the MLP, a shared path, small modules
    of each task ("knowledge extraction"), work that does not grow with the tasks. Chosen here: where scale and shift
    act, the activation, s, the initialisation. (2 h D + h + D) L + 2 T h for each map on a plain ViT, T tasks.
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "arXiv:2312.08733"
    by_task: ClassVar[bool] = True
    size_option: ClassVar[str] = "bottleneck"
    faithfulness: ClassVar[str] = "details not published"

    bottleneck: int = option(64, ge=1)
    scale: float = option(0.1, gt=0)
    lite: bool = option(False)

    def attach(self, backbone: Backbone) -> None:
        blocks = backbone.sites("block")
        adapters = [SharedAdapter(s.shape.out_dim, self.bottleneck, self.scale, self.lite) for s in blocks]
        for site, adapter in zip(blocks, adapters, strict=True):
            if site.layer not in backbone.shape.tapped:
                site.wrap(partial(tap_block, taps=[Tap("mlp", adapter, reads="raw")]))
        for site, facts in forks(backbone):
            site.wrap(partial(Extracting, adapter=adapters[site.layer], **facts))

    def expected_params(self, shape: BackboneShape) -> int:
        h, matrices = self.bottleneck, 1 if self.lite else 2
        return sum(
            matrices * h * site.out_dim + h + site.out_dim + 2 * shape.tasks * h * (site.layer in shape.tapped)
            for site in shape.at("block")
        )
