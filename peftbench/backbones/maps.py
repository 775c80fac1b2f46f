"""A backbone's second output: feature maps at chosen blocks, for tasks that predict maps.

What a method puts in a block's place may say what of its output is the map (`map_of(output)`), or which module inside
it gives the map (`mapped`). A readout that makes a pyramid of its own gives `maps(features)` and their `map_widths`,
and one whose features are no maps says so in `no_maps`.

Where several tasks read the maps (`serve`), a method may give each its own: [tasks * batch, ...], one task's behind the
other's. `of_each_task` takes them apart. No module remembers which task it serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape, Site
from peftbench.foundation.errors import NotApplicable


@dataclass(frozen=True)
class Taps:
    """Where the maps come from: blocks (none where the readout makes them) and widths. `flat`: all have one size.

    `merged`: maps of stages are taken behind the merging step that follows.
    """

    layers: tuple[int, ...]
    widths: tuple[int, ...]
    flat: bool
    merged: bool = False

    @property
    def last(self) -> Taps:
        """The map behind the last block alone. Raises `NotApplicable` where the readout makes a pyramid of its own."""
        if not self.layers:
            raise NotApplicable(
                f"the method makes a pyramid of {len(self.widths)} maps, and what reads the one behind the last block "
                "alone (task=promptable, region or vqa; task.decoder=pup) takes none; choose another method or decoder"
            )
        return replace(self, layers=self.layers[-1:], widths=self.widths[-1:])


def taps_of(backbone: Backbone, num_maps: int, merged: bool = False) -> Taps:
    """What a decoder of `num_maps` maps reads of a backbone with its method attached.

    Raises `NotApplicable` where the method's features are no maps, or where nothing merges.
    """
    _refuse_without(backbone)
    if widths := getattr(backbone.readout, "map_widths", ()):
        return Taps((), tuple(widths), flat=False)
    shape = backbone.shape
    layers, blocks = tapped_blocks(shape, num_maps), shape.at("block")
    own = [blocks[layer].out_dim for layer in layers]
    if not merged:
        return Taps(layers, tuple(own), flat=len(_stages(shape)) == 1)
    merges = [merge.out_dim for merge in shape.at("merge")]
    if not merges:
        raise NotApplicable(f"a {shape.family} has no merging steps behind which maps could be taken")
    return Taps(layers, (*merges, own[-1]), flat=False, merged=True)


def tapped_blocks(shape: BackboneShape, num_maps: int) -> tuple[int, ...]:
    """Evenly spaced blocks of one stage (of twelve with four maps the 3rd, 6th, 9th, 12th), else each stage's last."""
    stages = _stages(shape)
    if len(stages) > 1:
        return tuple(stage[-1] for stage in stages)
    count = min(num_maps, shape.depth)
    return tuple(shape.depth * (number + 1) // count - 1 for number in range(count))


def serve(backbone: Backbone, num_tasks: int, num_maps: int) -> None:
    """Say how many tasks will read the maps, and which; ahead of a method that tells tasks apart."""
    backbone.shape = replace(backbone.shape, tasks=num_tasks, tapped=tapped_blocks(backbone.shape, num_maps))


def of_each_task(maps: Sequence[Tensor], num_tasks: int, batch: int) -> list[list[Tensor]]:
    """The maps [batch, ...] that each of the tasks reads: its own, or the same for all where the method has one set."""
    if maps[0].shape[0] == batch:
        return [list(maps)] * num_tasks
    return [[found.unflatten(0, (num_tasks, -1))[task] for found in maps] for task in range(num_tasks)]


def _stages(shape: BackboneShape) -> list[list[int]]:
    return [[block.layer for block in blocks] for _, blocks in groupby(shape.at("block"), key=lambda b: b.out_dim)]


def feature_maps(
    backbone: Backbone, inputs: Sequence[Tensor], layers: Sequence[int], merged: bool = False
) -> list[Tensor]:
    """Maps [batch, channels, height, width] behind the blocks numbered `layers`, one each, in that order.

    `merged`: those of all stages but the last one behind the merging step that follows.

    Hooks sit on the blocks as they are now, so take the maps after a method is attached. Tokens of a plain transformer
    go through its final norm, since its residual stream grows with depth (DINOv2's intermediate layers do the same);
    its patch tokens are the last ones of the sequence. Stages of windows and convolutions give their maps as they are,
    the last one through the final norm.

    Raises `NotApplicable` where the method's features are no maps, `ValueError` where a block gives something else.
    """
    _refuse_without(backbone)
    readout: Any = backbone.readout
    if not layers:
        made: list[Tensor] = readout.maps(backbone.net.forward_features(*inputs))  # type: ignore[operator]
        return made
    sites = {site.layer: site for site in backbone.sites("block")}
    merges = backbone.sites("merge") if merged else []
    found: dict[int, Tensor] = {}

    def keep(layer: int, site: Site) -> Any:
        # what a merging step gives is made of the block's output, and shows the map in the same way
        shown = getattr(_source(sites[layer].module), "map_of", None)

        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            found[layer] = _as_map(backbone, site, output if shown is None else shown(output))

        return hook

    with ExitStack() as hooks:
        for layer, site in zip(layers, [*merges, *(sites[layer] for layer in layers[len(merges) :])], strict=True):
            handle = _source(site.module).register_forward_hook(keep(layer, site))
            hooks.callback(handle.remove)
        backbone.net.forward_features(*inputs)  # type: ignore[operator]
    return [found[layer] for layer in layers]


def _refuse_without(backbone: Backbone) -> None:
    """Raises `NotApplicable` where features are no maps, such as tokens carried behind the patches."""
    if why := getattr(backbone.readout, "no_maps", ""):
        raise NotApplicable(why)


def _source(module: nn.Module) -> nn.Module:
    """The module whose output is the map: the one at the site, unless that goes on with something else."""
    while isinstance(inside := getattr(module, "mapped", None), nn.Module):
        module = inside
    return module


def _as_map(backbone: Backbone, site: Site, output: Any) -> Tensor:
    width = site.shape.out_dim
    if isinstance(output, Tensor) and output.ndim == 4 and output.shape[site.channel_dim] == width:
        last = site.shape.role == "block" and site.layer == backbone.shape.depth - 1
        # the axis counted from the front, as in foundation/channels.py
        return (_normed(backbone, output) if last else output).movedim(site.channel_dim % 4, 1)
    height, columns = backbone.shape.grid
    if isinstance(output, Tensor) and output.ndim == 3 and output.shape[2] == width:
        patches = output[:, -height * columns :]
        if patches.shape[1] == height * columns:
            return _normed(backbone, patches).transpose(1, 2).unflatten(2, (height, columns))
    shown = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise ValueError(f"block {site.layer} gives {shown}, which is no map of {width} channels")


def _normed(backbone: Backbone, features: Tensor) -> Tensor:
    """Behind the final norm, wherever the family has it: of all tokens, or of pooled ones."""
    for site in backbone.all_sites:
        if site.shape.role == "norm.final":
            features = site.module(features)
    return features
