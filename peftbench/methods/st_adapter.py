"""ST-Adapter (Pan et al., NeurIPS 2022, arXiv:2206.13559): bottlenecks with a convolution over time on the stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import Tap, TemporalConvAdapter, tap_block
from peftbench.methods.base import METHODS, Method


@METHODS.add("st_adapter")
@dataclass(frozen=True)
class STAdapter(Method):
    """x = x + up(conv(down(x))) on the patches, ahead of a block's halves; conv over three frames, channel by channel.

    As in the released code: no activation and no norm, the class token untouched (where it is all that is pooled, the
    adapter ahead of the last MLP has no effect), frames averaged ahead of the final norm, which stays frozen. `halves`
    mlp is the form for Kinetics (12 adapters in ViT-B), attn and mlp that for Something-Something (24). `bottleneck`
    null is half the width: 384 in ViT-B, as in the paper. 2 D h + 5 h + D parameters each.
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "arXiv:2206.13559"
    pools_itself: ClassVar[bool] = True
    mixes_time: ClassVar[bool] = True
    frame_readout: ClassVar[str] = "mean_then_norm"

    bottleneck: int | None = option(None, ge=1)
    halves: list[str] = option(["mlp"], choices=("attn", "mlp"))

    def problems(self) -> Sequence[str]:
        if not self.halves or len(set(self.halves)) < len(self.halves):
            return [f"method.halves must name each half once and at least one, got {self.halves}"]
        return ()

    def attach(self, backbone: Backbone) -> None:
        shape = backbone.shape
        for site in backbone.sites("block"):
            width = site.shape.out_dim
            taps = [
                Tap(
                    half,
                    TemporalConvAdapter(width, self._bottleneck(width), shape.frames, shape.num_prefix_tokens),
                    place="before",
                )
                for half in self.halves
            ]
            site.wrap(partial(tap_block, taps=taps))

    def _bottleneck(self, width: int) -> int:
        return self.bottleneck or max(width // 2, 1)

    def inert(self, backbone: Backbone) -> dict[str, slice]:
        """The adapter ahead of the last MLP, where a class token alone is read: nothing behind it mixes tokens."""
        if backbone.num_pooled is None or "mlp" not in self.halves:
            return {}
        last = backbone.sites("block")[-1].module
        adapters = [module for module in last.modules() if isinstance(module, TemporalConvAdapter)]
        names = {id(parameter): name for name, parameter in backbone.trainable}
        dead = adapters[self.halves.index("mlp")]
        return {names[id(parameter)]: slice(None) for parameter in dead.parameters()}

    def expected_params(self, shape: BackboneShape) -> int:
        widths = [(site.out_dim, self._bottleneck(site.out_dim)) for site in shape.at("block")]
        return len(self.halves) * sum(2 * width * h + 5 * h + width for width, h in widths)
