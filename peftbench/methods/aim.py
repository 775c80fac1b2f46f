"""AIM (Yang et al., ICLR 2023, arXiv:2302.03024): the frozen attention of images used again over time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import nn

from peftbench.backbones.base import Backbone, BackboneShape, unfreeze
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import Added, Bottleneck, FrameOffsets, Tap, TemporalPass, tap_block
from peftbench.methods.base import METHODS, Method


@METHODS.add("aim")
@dataclass(frozen=True)
class AIM(Method):
    """x = x + T(attn(n1(x))) over time; x = x + y + S(y), y = attn(n1(x)); x = x + mlp(n2(x)) + scale * M(n2(x)).

    T, S, M: up(gelu(down(.))) of width `ratio` D, down from a truncated normal of std 0.02, up zero. A learned offset
    of each frame, zero at the start, ahead of the first norm or block; the final norms train. `drop_path` acts on T
    and M alone, growing over the blocks up to its value, with a draw for each frame (in the released code, which has
    tokens first, for each token's place). For Something-Something the released code has
    `temporal_adapters` 2 (T(attn(n + T'(n))), n = n1(x)) and `scale` 1. L (3 or 4) (2 D h + h + D) + T D + 2 D
    parameters.
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "arXiv:2302.03024"
    mixes_time: ClassVar[bool] = True

    ratio: float = option(0.25, gt=0, le=4)
    scale: float = option(0.5, gt=0)
    temporal_adapters: int = option(1, ge=1, le=2)
    drop_path: float = option(0.2, ge=0, lt=1)

    def attach(self, backbone: Backbone) -> None:
        shape = backbone.shape
        positions = (
            "rotary embeddings" if backbone.turns_keys else "relative positions" if backbone.pairs_places else ""
        )
        if shape.family != "vit" or positions:
            what = f"{positions}, which place patches and not frames" if shape.family == "vit" else shape.family
            raise NotApplicable(f"{self.name} attends over time with the attention of a plain transformer, not {what}")
        blocks = backbone.sites("block")
        for site in blocks:
            width, drop = site.shape.out_dim, self.drop_path * site.layer / max(len(blocks) - 1, 1)
            joint = Added(self._adapter(width, self.scale), drop, shortcut=False)
            spatial = Tap("attn", self._adapter(width), place="behind")
            site.wrap(partial(tap_block, taps=[spatial, Tap("mlp", joint)]))
            ahead = Added(self._adapter(width)) if self.temporal_adapters == 2 else None
            temporal = partial(TemporalPass, module=self._adapter(width), frames=shape.frames, ahead=ahead, drop=drop)
            site.wrap(temporal)
        first = backbone.sites("norm.pre")[0] if shape.at("norm.pre") else blocks[0]
        first.wrap(partial(FrameOffsets, frames=shape.frames, width=shape.width))
        unfreeze(*(site.module for site in backbone.sites("norm.final")))

    def _adapter(self, width: int, scale: float = 1.0) -> Bottleneck:
        adapter = Bottleneck(width, self._bottleneck(width), "gelu", scale=scale)
        nn.init.trunc_normal_(adapter.down.weight, std=0.02)
        return adapter

    def _bottleneck(self, width: int) -> int:
        return max(int(self.ratio * width), 1)

    def expected_params(self, shape: BackboneShape) -> int:
        widths = [(site.out_dim, self._bottleneck(site.out_dim)) for site in shape.at("block")]
        adapters = (2 + self.temporal_adapters) * sum(2 * width * h + h + width for width, h in widths)
        norms = sum(site.num_parameters for site in shape.at("norm.final"))
        return adapters + shape.frames * shape.width + norms
