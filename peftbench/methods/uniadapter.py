"""UniAdapter (Lu et al., ICLR 2024, arXiv:2302.06605): adapters of both towers that share what leads into them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.backbones.pair import Pair, both_shapes
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import Tap, refer, share, tap_block
from peftbench.methods.base import METHODS, Method


class Entrance(nn.Module):
    """x [..., width] -> ReLU(down(LN(x))), [..., bottleneck]; a narrower x takes the first of norm and columns."""

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.down = nn.Linear(width, bottleneck)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        normed = F.layer_norm(x, (width,), self.norm.weight[:width], self.norm.bias[:width], self.norm.eps)
        return F.linear(normed, self.down.weight[:, :width], self.down.bias).relu()


class Exit(nn.Module):
    """x -> scale * up(entrance(x)), the entrance being that of both towers."""

    entrance: Entrance

    def __init__(self, entrance: Entrance, width: int, scale: float) -> None:
        super().__init__()
        refer(self, "entrance", entrance)
        self.up = nn.Linear(entrance.down.out_features, width)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.scale * self.up(self.entrance(x))
        return added


@METHODS.add("uniadapter")
@dataclass(frozen=True)
class UniAdapter(Method):
    """x = x + mlp_half(x) + scale up_m(ReLU(down(LN(x)))), x the stream behind attention, in block i of both towers m.

    Norm and down-projection of a depth are one for both towers, each has its up-projection (section 3.3); of a narrower
    tower they are the first entries. Down starts kaiming-uniform, the text's up at zero, that of images as torch starts
    it, biases of down and of the text's up at zero (released code). With B the wider of both widths, r the bottleneck:
    2 B + B r + r for every depth, and r D + D for every block.
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "arXiv:2302.06605"
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "bottleneck"
    of_pairs: ClassVar[bool] = True
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "Made for BLIP, whose text network looks at the image: here for two towers, without the cross-modal exit, the "
        "changes of keys and values of the image, and the re-ranking by matching."
    )

    bottleneck: int = option(512, ge=1)
    scale: float = option(0.1, gt=0)

    def attach(self, backbone: Backbone) -> None:
        if not isinstance(backbone, Pair):
            raise NotApplicable(f"{self.name} needs a backbone that reads images and texts, such as pair_micro")
        image, text = backbone.image.sites("block"), backbone.text.sites("block")
        if len({site.shape.out_dim for site in image}) > 1:
            raise NotApplicable(f"{self.name} gives block i of both towers one entrance; this image tower has stages")
        width = max(site.shape.out_dim for site in (*image, *text))
        for depth in range(max(len(image), len(text))):
            # owned by the text tower, so that its features are known to change
            entrance = share(backbone.text, f"entrance_{depth}", Entrance(width, self.bottleneck))
            for sites, silent in ((image, False), (text, True)):
                if depth < len(sites):
                    branch = Exit(entrance, sites[depth].shape.out_dim, self.scale)
                    if silent:
                        with torch.no_grad():
                            branch.up.weight.zero_()
                            branch.up.bias.zero_()
                    sites[depth].wrap(partial(tap_block, taps=[Tap("mlp", branch, reads="raw")]))

    def expected_params(self, shape: BackboneShape) -> int:
        image, text = both_shapes(shape)
        widest, r = max(image.width, text.width), self.bottleneck
        entrances = max(image.depth, text.depth) * (2 * widest + widest * r + r)
        return entrances + sum(tower.depth * (r + 1) * tower.width for tower in (image, text))
