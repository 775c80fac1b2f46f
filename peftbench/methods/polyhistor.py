"""Polyhistor (Liu et al., NeurIPS 2022, arXiv:2210.03265): a decomposed network makes the adapters of all tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import Tap, refer, share, tap_block
from peftbench.interventions.paths import EachTask, for_each
from peftbench.methods.base import METHODS, Method


class TemplateNetwork(nn.Module):
    """(task, place) -> template kernels V [bottleneck, width] and U [width, bottleneck] of an adapter.

    vec V = A_V B_V (e_t || e_l) with A_V [bottleneck * width, rank] and B_V [rank, 2 embedding], and so for U. The
    embeddings are drawn from N(0, 1), A_V from N(0, 1 / width), the B from N(0, 1 / (2 embedding rank)), A_U is zero.
    """

    def __init__(self, tasks: int, places: int, width: int, bottleneck: int, rank: int, embedding: int) -> None:
        super().__init__()
        self.of_task = nn.Parameter(torch.randn(tasks, embedding))
        self.of_place = nn.Parameter(torch.randn(places, embedding))
        self.down = nn.Parameter(torch.randn(bottleneck * width, rank) / math.sqrt(width))
        self.up = nn.Parameter(torch.zeros(bottleneck * width, rank))
        std = 1 / math.sqrt(2 * embedding * rank)
        self.mix_down, self.mix_up = (nn.Parameter(std * torch.randn(rank, 2 * embedding)) for _ in range(2))
        self.width = width

    def forward(self, task: int, place: int) -> tuple[Tensor, Tensor]:
        z = torch.cat([self.of_task[task], self.of_place[place]])
        down = F.linear(F.linear(z, self.mix_down), self.down)
        up = F.linear(F.linear(z, self.mix_up), self.up)
        return down.view(-1, self.width), up.view(self.width, -1)


class MadeAdapter(nn.Module):
    """x [tasks * batch, ..., s width] -> U gelu(V x) for each task: V = K (x) template, U = K' (x) template.

    K and K' [s, s] scale the templates to the width of this layer (Kronecker products); they start as the identity.
    """

    network: TemplateNetwork

    def __init__(self, network: TemplateNetwork, place: int, tasks: int, scale: int) -> None:
        super().__init__()
        refer(self, "network", network)
        self.place, self.tasks = place, tasks
        self.scale_down, self.scale_up = (nn.Parameter(torch.eye(scale)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return for_each(self._one, x, self.tasks)

    def _one(self, task: int, x: Tensor) -> Tensor:
        down, up = self.network(task, self.place)
        hidden = F.gelu(F.linear(x, torch.kron(self.scale_down, down)))
        return F.linear(hidden, torch.kron(self.scale_up, up))


@METHODS.add("polyhistor")
@dataclass(frozen=True)
class Polyhistor(Method):
    """y <- y + U_tl gelu(V_tl y) behind attention and MLP of every block; U and V of task t, place l by one network.

    The network is of low rank and makes templates of the first stage's width, which a Kronecker product with a small
    matrix of its own brings to the width of each layer (the paper's decomposed hyper-networks and layer-wise scaling
    kernels). Every task runs through the network on its own, since its adapters act in every block.

    There is no public code and the equations are at second hand: where the adapters stand, that they have no biases,
    sizes and initialisation are chosen here. 2 (r b D + 2 r e) + (T + 2 L) e + 4 L parameters on a plain ViT, for T
    tasks, r = `rank`, b = `bottleneck` and e = `embedding`.
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "arXiv:2210.03265"
    by_task: ClassVar[bool] = True
    size_option: ClassVar[str] = "bottleneck"
    faithfulness: ClassVar[str] = "details not published"

    bottleneck: int = option(8, ge=1)
    rank: int = option(8, ge=1)
    embedding: int = option(16, ge=1)

    def attach(self, backbone: Backbone) -> None:
        shape = backbone.shape
        places = shape.at("attn", "mlp")
        width, tasks = _narrowest(shape), shape.tasks
        network = TemplateNetwork(tasks, len(places), width, self.bottleneck, self.rank, self.embedding)
        share(backbone, "hyper", network)
        for site in backbone.sites("block"):
            taps = [
                Tap(place.role, MadeAdapter(network, number, tasks, place.out_dim // width), "behind")
                for number, place in enumerate(places)
                if place.layer == site.layer
            ]
            site.wrap(partial(tap_block, taps=taps))
        backbone.net = EachTask(backbone.net, tasks)

    def expected_params(self, shape: BackboneShape) -> int:
        places, width = shape.at("attn", "mlp"), _narrowest(shape)
        network = 2 * self.rank * (self.bottleneck * width + 2 * self.embedding)
        embeddings = (shape.tasks + len(places)) * self.embedding
        return network + embeddings + sum(2 * (place.out_dim // width) ** 2 for place in places)


def _narrowest(shape: BackboneShape) -> int:
    """The width of the templates. Raises `NotApplicable` where other layers are no multiples of it."""
    widths = {place.out_dim for place in shape.at("attn", "mlp")}
    width = min(widths)
    if any(other % width for other in widths):
        raise NotApplicable(
            f"polyhistor scales templates to whole multiples of a width, and the widths are {sorted(widths)}"
        )
    return width
