"""Adapter+ (Steitz & Roth, CVPR 2024, arXiv:2406.06820): a bottleneck behind the block, scaled channel by channel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import Bottleneck, Tap, Thinned, tap_block
from peftbench.methods.base import METHODS, Method

# the paper's value; both matrices are cut at two of it (Houlsby et al., arXiv:1902.00751, section 3.6)
INIT_STD = 0.01
# that of BERT's layers
BERT_STD = 0.02
# where a block's adapters stand: at which half, as which tap
PLACES = {
    "post": (("mlp", "stream"),),
    "pre": (("attn", "stream"),),
    "intermediate": (("mlp", "behind"),),
    "parallel": (("mlp", "beside"),),
    "houlsby": (("attn", "behind"), ("mlp", "behind")),
}
INITS = ("houlsby", "lora", "bert")
SCALINGS = ("channel", "single", "none")


def num_scales(scaling: str, width: int) -> int:
    """How many numbers scale what an adapter of `width` channels adds."""
    return {"channel": width, "single": 1, "none": 0}[scaling]


class ScaledAdapter(nn.Module):
    """x -> c * drop_path(up(dropout(gelu(down(norm(x)))))), channels last, added to x where `to_input`.

    `scaling`: c [width] or [1], one at the start, or absent. `init` of down and up: `houlsby` a normal of std 0.01 cut
    at two of it, biases zero (near the identity, not at it); `bert` a normal of std 0.02; `lora` uniform as torch draws
    a linear map, its bias too, and zero. Without `norm` the input is read as it is.
    """

    def __init__(
        self,
        width: int,
        bottleneck: int,
        dropout: float,
        drop_path: float,
        to_input: bool,
        init: str,
        scaling: str,
        norm: bool,
    ) -> None:
        super().__init__()
        branch = Bottleneck(width, bottleneck, "gelu", dropout)
        if init == "lora":
            bound = width**-0.5
            nn.init.uniform_(branch.down.bias, -bound, bound)
        for linear in (branch.down, branch.up) if init != "lora" else ():
            if init == "houlsby":
                nn.init.trunc_normal_(linear.weight, std=INIT_STD, a=-2 * INIT_STD, b=2 * INIT_STD)
            else:
                nn.init.normal_(linear.weight, std=BERT_STD)
        self.branch = Thinned(branch, drop_path)
        scales = num_scales(scaling, width)
        self.scale = nn.Parameter(torch.ones(scales)) if scales else None
        self.norm = nn.LayerNorm(width, eps=1e-6) if norm else None
        self.to_input = to_input

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.branch(x if self.norm is None else self.norm(x))
        if self.scale is not None:
            added = added * self.scale
        return x + added if self.to_input else added


@METHODS.add("adapter_plus")
@dataclass(frozen=True)
class AdapterPlus(Method):
    """x = x + c * up(gelu(down(x))) on the stream behind the block, c one number a channel (section 3, "Post").

    The adapter has no norm and a stochastic depth of its own, equal in all blocks, ahead of the scale. L (2 D h + h +
    2 D) parameters on a plain ViT. The paper also takes a width from 1 to 32 for each task of VTAB-1k.

    What the ablations vary are options. `place`: `pre`, on the stream ahead of the MLP's half; `intermediate`, on what
    that half adds; `parallel`, beside it, reading the stream; `houlsby`, on what either half adds, an adapter each (the
    release then trains the norms as well). Its "pfeiffer" is `post` under another name. `scaling`: one number for all
    channels, or none; `norm`: a layer norm ahead of down, 2 D parameters more; `init`: BERT's or LoRA's start.
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "arXiv:2406.06820"
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "bottleneck"

    bottleneck: int = option(8, ge=1)
    dropout: float = option(0.0, ge=0, lt=1)
    drop_path: float = option(0.1, ge=0, lt=1)
    place: str = option("post", choices=tuple(PLACES), later=True)
    init: str = option("houlsby", choices=INITS, later=True)
    scaling: str = option("channel", choices=SCALINGS, later=True)
    norm: bool = option(False, later=True)

    def attach(self, backbone: Backbone) -> None:
        for site in backbone.sites("block"):
            taps = [
                Tap(half, self._adapter(site.shape.out_dim, to_input=place == "stream"), place, reads="raw")
                for half, place in PLACES[self.place]
            ]
            site.wrap(partial(tap_block, taps=taps))

    def _adapter(self, width: int, to_input: bool) -> ScaledAdapter:
        return ScaledAdapter(
            width, self.bottleneck, self.dropout, self.drop_path, to_input, self.init, self.scaling, self.norm
        )

    def expected_params(self, shape: BackboneShape) -> int:
        return sum(self._size(site.out_dim) for site in shape.at("block"))

    def _size(self, width: int) -> int:
        """Of the adapters of a block."""
        branch = 2 * width * self.bottleneck + self.bottleneck + width
        return len(PLACES[self.place]) * (branch + num_scales(self.scaling, width) + 2 * width * self.norm)
