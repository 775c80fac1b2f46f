"""TOAST (Shi et al., arXiv:2305.15542): the network looks twice, the second time led by what it saw the first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import Headed, Intervention, made_again, refer, require_plain
from peftbench.methods.base import METHODS, Method
from peftbench.methods.vpt import token_sequence

_STD = 0.02
# of the LoRA of the lighter form, whose alpha is 1
RANK = 4
Led = tuple[Tensor, tuple[Tensor, ...]]


class Square(nn.Module):
    """x -> x W^T, W [width, width] from a truncated normal of std 0.02; `lite`: W stays and x A^T B^T / 4 is added.

    A W that stays is drawn from a generator of its own, seeded with `number`, so that no adapter file need hold it.
    """

    weight: Tensor

    def __init__(self, width: int, lite: bool, number: int) -> None:
        super().__init__()
        self.lite = lite
        if not lite:
            self.weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(width, width), std=_STD))
            return
        generator = torch.Generator().manual_seed(number)
        drawn = nn.init.trunc_normal_(torch.empty(width, width, device="cpu"), std=_STD, generator=generator)
        made_again(self, "weight", drawn.to(torch.empty(0).device))
        self.down = nn.Parameter(torch.empty(RANK, width))
        self.up = nn.Parameter(torch.zeros(width, RANK))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight)
        return y + F.linear(F.linear(x, self.down), self.up) / RANK if self.lite else y


class Feedback(nn.Module):
    """Output tokens z [batch, length, width] -> one signal of that shape for each block.

    z_t is weighted by max(cos(z_t, xi), 0), xi a trained vector, and goes back through the blocks: z <- D z, the
    signal of a block E z. `lite`: a trained matrix, at first the identity, comes ahead of them.
    """

    def __init__(self, width: int, depth: int, lite: bool) -> None:
        super().__init__()
        # a row, and so decayed
        self.xi = nn.Parameter(torch.randn(1, width))
        self.transform = nn.Parameter(torch.eye(width)) if lite else None
        self.back = nn.ModuleList(Square(width, lite, 2 * layer) for layer in range(depth))
        self.out = nn.ModuleList(Square(width, lite, 2 * layer + 1) for layer in range(depth))

    def forward(self, z: Tensor) -> tuple[Tensor, ...]:
        alike = F.linear(F.normalize(z, dim=-1), F.normalize(self.xi, dim=1).to(z.dtype))
        z = z * alike.clamp(0, 1)
        if self.transform is not None:
            z = z @ self.transform
        signals = []
        for back, out in zip(reversed(self.back), reversed(self.out), strict=True):
            z = back(z)
            signals.append(out(z))
        return tuple(reversed(signals))


class LedBlock(Intervention):
    """A frozen block whose values are v + V s: V its own map of values, s the signal that comes with the tokens.

    The first one, which has a `feedback`, sends its tokens through all blocks unled and makes the signals of what comes
    out behind the final norm.
    """

    net: Any

    def __init__(self, base: nn.Module, net: nn.Module, last: bool, feedback: Feedback | None = None) -> None:
        super().__init__(base)
        require_plain(base.get_submodule("attn"))
        refer(self, "net", net)
        self.feedback, self.last = feedback, last

    def forward(self, x: Tensor | Led, **arguments: Any) -> Tensor | Led:
        tokens, (signal, *signals) = x if isinstance(x, tuple) else (x, self._signals(x, arguments))
        headed = Headed(self.base, arguments)
        seen = headed.seen(tokens)
        q, k, v = headed.heads(seen)
        y = headed.through(tokens, seen, (q, k, v + headed.values(signal).to(v.dtype)))
        return y if self.last else (y, tuple(signals))

    def _signals(self, z: Tensor, arguments: dict[str, Any]) -> tuple[Tensor, ...]:
        assert self.feedback is not None
        for block in self.net.blocks:
            z = block.base(z, **arguments)
        signals: tuple[Tensor, ...] = self.feedback(self.net.norm(z))
        return signals

    def map_of(self, out: Tensor | Led) -> Tensor:
        return out[0] if isinstance(out, tuple) else out


@METHODS.add("toast")
@dataclass(frozen=True)
class TOAST(Method):
    """A first pass without change, trained decoders from its output back to each block, and a second pass they lead.

    Each decoder is two square maps; with the vector that selects tokens 2 L D^2 + D parameters. `lite` (TOAST-lite)
    trains LoRA of rank 4 on them instead, the vector, and a square map ahead of all: 16 L D + D^2 + D. The bias of the
    values is added with the signal once more, as released. The forward pass costs twice that of the network.
    """

    family: ClassVar[str] = "side"
    paper: ClassVar[str] = "arXiv:2305.15542"
    version: ClassVar[int] = 2
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "The decoders start as they are drawn, where the release starts from decoders tuned on ImageNet for its own "
        "backbones."
    )
    identity_at_init: ClassVar[bool] = False

    lite: bool = option(False)

    def attach(self, backbone: Backbone) -> None:
        shape, net = backbone.shape, backbone.net
        blocks = token_sequence(self.name, backbone)
        if getattr(net, "rope_mixed", False):
            raise NotApplicable(
                f"{self.name} sends tokens through all blocks alike; here each block turns keys its own way"
            )
        feedback = Feedback(shape.width, shape.depth, self.lite)
        for layer, site in enumerate(blocks):
            made = feedback if layer == 0 else None
            led = LedBlock(site.module, net, layer == len(blocks) - 1, made)
            site.wrap(lambda _, led=led: led)  # type: ignore[misc]

    def expected_params(self, shape: BackboneShape) -> int:
        width, maps = shape.width, 2 * shape.depth
        return maps * 2 * RANK * width + width**2 + width if self.lite else maps * width**2 + width
