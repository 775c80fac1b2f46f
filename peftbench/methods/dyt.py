"""DyT (Zhao et al., NeurIPS 2024, arXiv:2403.11808): an adapter for all tokens, the MLP for those that need it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import Bottleneck
from peftbench.interventions.dispatch import DispatchedBlock, Dispatcher
from peftbench.methods.base import METHODS, Method
from peftbench.methods.vpt import token_sequence

# of the noisy scores in training; it never changes in the released code
TEMPERATURE = 5.0


@METHODS.add("dyt")
@dataclass(frozen=True)
class DyT(Method):
    """x = x + m MLP_half(x) + scale up(relu(down(x))), m in {0, 1} for each patch from its score w^T x + b.

    The stream x is that behind attention; a patch takes the MLP where sigmoid(score) > 1/2, in training with Gumbel
    noise at a temperature of 5 and the gradient of the sigmoid (equations 2 to 4). Class and register tokens always
    take it. The objective `dyt` holds the share of patches that do at its target and teaches the network by itself with
    all of them. Patches that go past are masked here: the paper's numbers without the time that it saves.
    L (2 D h + h + 2 D + 1) parameters; h = 16 is of the released VTAB-1k script.
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "arXiv:2403.11808"
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "bottleneck"

    bottleneck: int = option(16, ge=1)
    scale: float = option(1.0, gt=0)
    dropout: float = option(0.1, ge=0, lt=1)

    def attach(self, backbone: Backbone) -> None:
        width, num_prefix = backbone.shape.width, backbone.shape.num_prefix_tokens
        blocks = token_sequence(self.name, backbone)
        for site in blocks:
            dispatcher = Dispatcher(width, num_prefix, TEMPERATURE)
            branch = Bottleneck(width, self.bottleneck, "relu", self.dropout, self.scale)
            last = site.layer == blocks[-1].layer
            site.wrap(partial(DispatchedBlock, dispatcher=dispatcher, branch=branch, last=last))

    def expected_params(self, shape: BackboneShape) -> int:
        h, width = self.bottleneck, shape.width
        return shape.depth * (2 * width * h + h + 2 * width + 1)

    def inert(self, backbone: Backbone) -> dict[str, slice]:
        """The last block's scores, where nothing is read of its patches; the objective `dyt` reaches them."""
        if backbone.num_pooled is None:
            return {}
        last = backbone.sites("block")[-1].module
        assert isinstance(last, DispatchedBlock)
        score = {id(tensor) for tensor in last.dispatcher.parameters()}
        return {name: slice(None) for name, tensor in backbone.trainable if id(tensor) in score}
