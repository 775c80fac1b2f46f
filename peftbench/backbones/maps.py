"""A backbone's second output: feature maps at chosen blocks, for tasks that predict maps."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from peftbench.backbones.base import Backbone, Site


def feature_maps(backbone: Backbone, inputs: Sequence[Tensor], layers: Sequence[int]) -> list[Tensor]:
    """Maps [batch, channels, height, width] behind the blocks numbered `layers`, one each, in that order.

    Hooks sit on the blocks as they are now, so take the maps after a method is attached. Tokens of a plain transformer
    go through its final norm, since its residual stream grows with depth (DINOv2's intermediate layers do the same);
    its patch tokens are the last ones of the sequence. Stages of windows and convolutions give their maps as they are.

    Raises `ValueError` where a block gives something else, such as tokens carried behind the patches.
    """
    sites = {site.layer: site for site in backbone.sites("block")}
    found: dict[int, Tensor] = {}

    def keep(site: Site) -> Any:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            found[site.layer] = _as_map(backbone, site, output)

        return hook

    with ExitStack() as hooks:
        for layer in layers:
            handle = sites[layer].module.register_forward_hook(keep(sites[layer]))
            hooks.callback(handle.remove)
        backbone.net.forward_features(*inputs)  # type: ignore[operator]
    return [found[layer] for layer in layers]


def _as_map(backbone: Backbone, site: Site, output: Any) -> Tensor:
    width = site.shape.out_dim
    if isinstance(output, Tensor) and output.ndim == 4 and output.shape[site.channel_dim] == width:
        return output.movedim(site.channel_dim, 1)
    height, columns = backbone.shape.grid
    if isinstance(output, Tensor) and output.ndim == 3 and output.shape[2] == width:
        patches = output[:, -height * columns :]
        if patches.shape[1] == height * columns:
            norm: Any = getattr(backbone.net, "norm", nn.Identity())
            return norm(patches).transpose(1, 2).unflatten(2, (height, columns))
    shown = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise ValueError(f"block {site.layer} gives {shown}, which is no map of {width} channels")
