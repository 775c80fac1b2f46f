"""Sequential adapters: a bottleneck behind attention and the MLP (Houlsby et al., ICML 2019, arXiv:1902.00751), or
behind the MLP only (Pfeiffer et al., EACL 2021, arXiv:2005.00247)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import Behind, Bottleneck
from peftbench.methods.base import METHODS, Method


@dataclass(frozen=True)
class _Adapter(Method):
    """y <- y + scale * up(dropout(act(down(y)))), where y is the output of attention or the MLP before LayerScale,
    stochastic depth and the residual addition; down [bottleneck, width], up [width, bottleneck], with biases.

    With `init: xavier`, which also draws the up-projection, the function changes at the start.
    """

    family: ClassVar[str] = "adapter"
    roles: ClassVar[tuple[str, ...]] = ()
    size_option: ClassVar[str] = "bottleneck"

    # 8 is the VTAB-1k convention
    bottleneck: int = option(8, ge=1)
    activation: str = option("gelu", choices=("gelu", "quick_gelu", "relu"))
    dropout: float = option(0.1, ge=0, lt=1)
    scale: float = option(1.0, gt=0)
    init: str = option("lora", choices=("lora", "lora_xavier", "xavier"))

    def attach(self, backbone: Backbone) -> None:
        for site in [site for role in self.roles for site in backbone.sites(role)]:
            width = site.shape.out_dim
            adapter = Bottleneck(width, self.bottleneck, self.activation, self.dropout, self.scale, self.init)
            site.wrap(partial(Behind, module=adapter, channel_dim=site.channel_dim))

    def expected_params(self, shape: BackboneShape) -> int:
        h = self.bottleneck
        return sum(2 * site.out_dim * h + h + site.out_dim for site in shape.at(*self.roles))


@METHODS.add("adapter_pfeiffer")
@dataclass(frozen=True)
class PfeifferAdapter(_Adapter):
    """One bottleneck per block, behind the MLP: y <- y + scale * up(dropout(act(down(y)))).

    L (2 D h + h + D) parameters on a plain ViT.
    """

    paper: ClassVar[str] = "arXiv:2005.00247"
    roles: ClassVar[tuple[str, ...]] = ("mlp",)
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "Made for post-norm language models: here behind the MLP of a pre-norm block, ahead of the residual addition."
    )


@METHODS.add("adapter_houlsby")
@dataclass(frozen=True)
class HoulsbyAdapter(_Adapter):
    """Two bottlenecks per block, behind attention's output projection and behind the MLP (section 2.1, figure 2).

    2 L (2 D h + h + D) parameters on a plain ViT. The paper also trains the layer norms; vision's comparisons do not.
    """

    paper: ClassVar[str] = "arXiv:1902.00751"
    roles: ClassVar[tuple[str, ...]] = ("attn", "mlp")
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "Made for post-norm language models, whose layer norms train as well; here a pre-norm block with frozen norms."
    )
