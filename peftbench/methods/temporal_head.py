"""A transformer over the features of frames, behind a frozen image network (ActionCLIP, arXiv:2109.08472, "Transf")."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import FrameTransformer
from peftbench.methods.base import METHODS, Method


@METHODS.add("temporal_head")
@dataclass(frozen=True)
class TemporalHead(Method):
    """features of a clip = mean of blocks(f + e), f the frozen network's features of its frames, e learned places.

    `depth` pre-norm blocks of the features' width and the backbone's heads; the last maps of their halves and the
    places start at zero, which is the probe of averaged frames. No order is seen below the blocks. Baseline beside
    methods that work inside the network. depth (12 D^2 + 13 D) + T D parameters.
    """

    family: ClassVar[str] = "side"
    paper: ClassVar[str] = "arXiv:2109.08472"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = "One block whose last maps start at zero in place of six, on a network of images alone."
    mixes_time: ClassVar[bool] = True
    size_option: ClassVar[str] = "depth"

    depth: int = option(1, ge=1, le=12)

    def attach(self, backbone: Backbone) -> None:
        shape = backbone.shape
        heads = _heads(shape)
        build = partial(FrameTransformer, frames=shape.frames, width=shape.width, num_heads=heads, depth=self.depth)
        backbone.sites("over_frames")[0].wrap(build)

    def inert(self, backbone: Backbone) -> dict[str, slice]:
        """The key third of every qkv bias, which softmax cancels."""
        width = backbone.shape.width
        blocks: Any = backbone.sites("over_frames")[0].module.blocks
        names = {id(parameter): name for name, parameter in backbone.trainable}
        return {names[id(block.attn.qkv.bias)]: slice(width, 2 * width) for block in blocks}

    def expected_params(self, shape: BackboneShape) -> int:
        return self.depth * (12 * shape.width**2 + 13 * shape.width) + shape.frames * shape.width


def _heads(shape: BackboneShape) -> int:
    """The backbone's, or, where its stages differ, as many as there are 32 channels."""
    heads = shape.num_heads if shape.family == "vit" else shape.width // 32
    return heads if heads and shape.width % heads == 0 else 1
