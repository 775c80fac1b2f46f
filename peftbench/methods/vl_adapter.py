"""VL-Adapter (Sung et al., CVPR 2022, arXiv:2112.06825): bottlenecks and norms of a text network that reads images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import nn

from peftbench.backbones.base import Backbone, BackboneShape, unfreeze
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import Behind, Bottleneck
from peftbench.methods.base import METHODS, Method

ROLES = ("attn", "attn.cross", "mlp")
_STD = 0.02


@METHODS.add("vl_adapter")
@dataclass(frozen=True)
class VLAdapter(Method):
    """y <- y + up(gelu(down(y))) behind (cross-)attention and the MLP, ahead of the residual addition (section 3.2).

    Of width D / `reduction`, with the tanh form of GELU; all norms of the stream train as well, as in the released
    code. They start as the library starts what a checkpoint of theirs lacks: in a T5 as PyTorch starts linear maps,
    elsewhere as in BART, weights from N(0, 0.02) and biases at zero. With
    h = floor(D / reduction): 2 L (2 D h + h + D) + 2 D (2 L + 1) parameters on a plain transformer. Its own setting is
    `task=vqa_written method.towers=[text]` with a T5, or `task=vqa` where none is at hand; the head has the visual
    embedding.
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "arXiv:2112.06825"
    identity_at_init: ClassVar[bool] = False
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "Made for VL-BART and VL-T5, which read images beside words and write answers, as a T5 does here under "
        "task=vqa_written; other towers have no cross-attention and choose among answers."
    )

    reduction: int = option(8, ge=1)
    norms: bool = option(True)

    def attach(self, backbone: Backbone) -> None:
        for site in [site for role in _roles(backbone.shape) for site in backbone.sites(role)]:
            width = site.shape.out_dim
            if self.reduction > width:
                raise NotApplicable(f"method.reduction={self.reduction} leaves nothing of the {width} channels here")
            adapter = Bottleneck(width, width // self.reduction, "gelu_tanh")
            for linear in (adapter.down, adapter.up):
                if backbone.shape.family == "t5":
                    linear.reset_parameters()
                else:
                    nn.init.normal_(linear.weight, std=_STD)
            site.wrap(partial(Behind, module=adapter, channel_dim=site.channel_dim))
        if self.norms:
            unfreeze(*(site.module for site in backbone.sites("norm")))

    def expected_params(self, shape: BackboneShape) -> int:
        norms = sum(norm.out_dim * (2 if norm.has_bias else 1) for norm in shape.at("norm")) if self.norms else 0
        widths = [(site.out_dim, site.out_dim // self.reduction) for site in shape.at(*_roles(shape))]
        return norms + sum(2 * width * h + h + width for width, h in widths)


def _roles(shape: BackboneShape) -> list[str]:
    """Where adapters stand; cross-attention is a decoder's alone."""
    return [role for role in ROLES if role != "attn.cross" or shape.at(role)]
