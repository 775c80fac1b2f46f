"""Translators: where the roles that methods speak of lie in each timm family.

Roles: embed, block, attn, attn.qkv, attn.proj, mlp, mlp.fc1, mlp.fc2, norm.1, norm.2, norm.attn and norm.mlp (ahead of
attn.proj and mlp.fc2, in ViTamin of mlp.fc1), norm.embed, norm.pre, norm.merge, norm.neck, norm.final, qk_norm.q and
qk_norm.k (no `norm`: they act on heads, not on the stream), merge (the linear of a downsampling step), conv (ConvNeXt's
depthwise convolution), neck (the two convolutions behind SAM's blocks). Where a model holds q, k and v or the inputs of
a gated MLP apart, `fuse` has joined them before: attn.qkv is q | k | v, and mlp.fc1 of a gated MLP is gate | value,
twice as wide as what mlp.fc2 reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import timm.models.beit as beit
import timm.models.convnext as convnext
import timm.models.eva as eva
import timm.models.swin_transformer as swin
import timm.models.vision_transformer as vit
import timm.models.vision_transformer_relpos as relpos
import timm.models.vision_transformer_sam as sam
from torch import nn

from peftbench.backbones.base import BackboneShape, Site, SiteShape
from peftbench.backbones.relative import take_longer
from peftbench.backbones.rotary import turn_only_patches
from peftbench.backbones.video_swin import VideoSwin
from peftbench.foundation.errors import NotApplicable


def sites_of(net: nn.Module) -> tuple[str, list[Site]]:
    """Family name and all sites of a timm model. Raises `NotApplicable` for a family without a translator."""
    family, translate = translator(net)
    return family, list(translate(net))


def translator(net: nn.Module) -> tuple[str, Callable[[Any], Iterator[Site]]]:
    """Family name of a timm model, and what lists its sites. Raises `NotApplicable` for a family without one."""
    if isinstance(net, vit.VisionTransformer):
        return "vit", _vit
    if isinstance(net, eva.Eva):
        return "vit", _eva
    if isinstance(net, beit.Beit):
        return "vit", _beit
    if isinstance(net, relpos.VisionTransformerRelPos):
        return "vit", _relpos
    if isinstance(net, swin.SwinTransformer):
        return "swin", _swin
    if isinstance(net, VideoSwin):
        return "video_swin", _video_swin
    if isinstance(net, convnext.ConvNeXt):
        return "convnext", _convnext
    if isinstance(net, sam.VisionTransformerSAM) and isinstance(net.neck, nn.Sequential):
        return "sam", _sam
    name = type(net).__name__
    why = _REFUSED.get(name)
    raise NotApplicable(
        f"{name} is not a supported family{f', since {why}' if why else ''}; supported: VisionTransformer, Eva, Beit, "
        "VisionTransformerRelPos, SwinTransformer, ConvNeXt, VisionTransformerSAM with its neck"
    )


# relatives of supported families, and why methods cannot act on them as they are written
_REFUSED = {
    "SwinTransformerV2": "its norms stand behind attention and MLP, where methods expect them ahead, and its attention "
    "compares directions",
    "SwinTransformerV2Cr": "its norms stand behind attention and MLP, where methods expect them ahead",
    "Hiera": "its blocks pool queries and change the width inside attention",
}


def shape_of(net: Any, family: str, sites: list[Site]) -> BackboneShape:
    """Numbers of a model, for the closed-form counts."""
    blocks = [site for site in sites if site.shape.role == "block"]
    grid = getattr(getattr(net, "patch_embed", None), "grid_size", None) or (0, 0)
    positions = getattr(net, "pos_embed", None)
    first_attention = getattr(blocks[0].module, "attn", None)
    return BackboneShape(
        family=family,
        width=net.num_features,
        depth=len(blocks),
        num_heads=getattr(first_attention, "num_heads", 0),
        patch_size=_patch_size(net, sites, grid),
        grid=(int(grid[0]), int(grid[1])),
        times=getattr(net.patch_embed, "times", 1) if hasattr(net, "patch_embed") else 1,
        num_prefix_tokens=getattr(net, "num_prefix_tokens", 0),
        num_parameters=sum(parameter.numel() for parameter in net.parameters()),
        sites=tuple(site.shape for site in sites),
        num_positions=0 if positions is None else positions.shape[1:-1].numel(),
    )


def _patch_size(net: Any, sites: list[Site], grid: tuple[int, int]) -> int:
    """Side of a patch in px; behind a stem of several convolutions, of what the stem makes a token of."""
    for site in sites:
        if site.shape.role == "embed" and isinstance(site.module, (nn.Conv2d, nn.Conv3d)):
            return int(site.module.kernel_size[-1])
    size = getattr(net.patch_embed, "img_size", None)
    if size is None or not grid[0]:
        raise NotApplicable(f"the patch embedding of this {type(net).__name__} is no convolution and has no known grid")
    return int(size[0]) // int(grid[0])


def site_at(parent: nn.Module, key: str, role: str, layer: int = -1, channel_dim: int = -1) -> Iterator[Site]:
    """One site, or none where the model has no such module (an Identity norm, a missing bias-free part)."""
    module = getattr(parent, key, None) if not key.isdigit() else parent.get_submodule(key)
    if module is None or isinstance(module, nn.Identity):
        return
    inside, outside = _dims(module)
    bias = getattr(module, "bias", None) is not None
    size = sum(parameter.numel() for parameter in module.parameters())
    yield Site(parent, key, SiteShape(role, layer, inside, outside, bias, size), channel_dim)


def _dims(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, (nn.Conv2d, nn.Conv3d)):
        # in_dim counts the inputs of one output channel
        return module.weight[0].numel(), module.out_channels
    weight = getattr(module, "weight", None)
    if weight is not None and weight.ndim == 1:
        return len(weight), len(weight)
    width = _width(module)
    return width, width


def _width(module: nn.Module) -> int:
    """Width of a composite (block, attn, mlp): the output of its last linear, which a fused qkv never is."""
    parts = [child for name, child in module.named_modules() if not name.endswith("qkv")]
    linears = [part for part in parts if isinstance(part, (nn.Linear, nn.Conv2d))]
    last = linears[-1]
    return last.out_features if isinstance(last, nn.Linear) else last.out_channels


def transformer_sites(parent: nn.Module, key: str, layer: int) -> Iterator[Site]:
    block = parent.get_submodule(key)
    attn, mlp = block.get_submodule("attn"), block.get_submodule("mlp")
    yield from site_at(parent, key, "block", layer)
    yield from site_at(block, "norm1", "norm.1", layer)
    yield from site_at(block, "attn", "attn", layer)
    yield from site_at(attn, "qkv", "attn.qkv", layer)
    yield from site_at(attn, "q_norm", "qk_norm.q", layer)
    yield from site_at(attn, "k_norm", "qk_norm.k", layer)
    yield from site_at(attn, "norm", "norm.attn", layer)
    yield from site_at(attn, "proj", "attn.proj", layer)
    yield from site_at(block, "norm2", "norm.2", layer)
    yield from site_at(block, "mlp", "mlp", layer)
    yield from site_at(mlp, "fc1", "mlp.fc1", layer)
    yield from site_at(mlp, "norm", "norm.mlp", layer)
    yield from site_at(mlp, "fc2", "mlp.fc2", layer)


def _eva(net: Any) -> Iterator[Site]:
    """A plain transformer under rotary embeddings: DINOv3, EVA-02, PE, RoPE-ViT."""
    yield from site_at(net.patch_embed, "proj", "embed", channel_dim=1)
    yield from site_at(net, "norm_pre", "norm.pre")
    for layer, block in enumerate(net.blocks):
        if not isinstance(block, eva.EvaBlock):
            raise NotApplicable(f"blocks of type {type(block).__name__} are not pre-norm timm EvaBlocks")
        block.attn.register_forward_pre_hook(turn_only_patches, with_kwargs=True)
        yield from transformer_sites(net.blocks, str(layer), layer)
    yield from site_at(net, "norm", "norm.final")
    yield from site_at(net, "fc_norm", "norm.final")


def _beit(net: Any) -> Iterator[Site]:
    """A plain transformer with relative positions: BEiT and BEiT v2."""
    take_longer(net)
    yield from site_at(net.patch_embed, "proj", "embed", channel_dim=1)
    for layer in range(len(net.blocks)):
        yield from transformer_sites(net.blocks, str(layer), layer)
    yield from site_at(net, "norm", "norm.final")
    yield from site_at(net, "fc_norm", "norm.final")


def _relpos(net: Any) -> Iterator[Site]:
    """A plain transformer with relative positions, from tables or from coordinates: timm's ViT-RelPos."""
    for block in net.blocks:
        if not isinstance(block, relpos.RelPosBlock):
            raise NotApplicable(f"blocks of type {type(block).__name__} are not pre-norm timm RelPosBlocks")
    yield from _beit(net)


def _vit(net: Any) -> Iterator[Site]:
    yield from site_at(net.patch_embed, "proj", "embed", channel_dim=1)
    yield from site_at(net, "norm_pre", "norm.pre")
    for layer, block in enumerate(net.blocks):
        if not isinstance(block, vit.Block):
            raise NotApplicable(f"blocks of type {type(block).__name__} are not pre-norm timm Blocks")
        yield from transformer_sites(net.blocks, str(layer), layer)
    yield from site_at(net, "norm", "norm.final")
    yield from site_at(net, "fc_norm", "norm.final")


def _swin(net: Any) -> Iterator[Site]:
    yield from site_at(net.patch_embed, "proj", "embed", channel_dim=1)
    yield from site_at(net.patch_embed, "norm", "norm.embed")
    layer = 0
    for stage in net.layers:
        yield from site_at(stage.downsample, "norm", "norm.merge")
        yield from site_at(stage.downsample, "reduction", "merge")
        for index in range(len(stage.blocks)):
            yield from transformer_sites(stage.blocks, str(index), layer)
            layer += 1
    yield from site_at(net, "norm", "norm.final")


def _video_swin(net: Any) -> Iterator[Site]:
    yield from site_at(net.patch_embed, "proj", "embed", channel_dim=1)
    yield from site_at(net.patch_embed, "norm", "norm.embed")
    layer = 0
    for stage in net.features:
        if not isinstance(stage, nn.Sequential):
            yield from site_at(stage, "norm", "norm.merge")
            yield from site_at(stage, "reduction", "merge")
            continue
        block: Any
        for index, block in enumerate(stage):
            yield from site_at(stage, str(index), "block", layer)
            yield from site_at(block, "norm1", "norm.1", layer)
            yield from site_at(block, "attn", "attn", layer)
            yield from site_at(block.attn, "qkv", "attn.qkv", layer)
            yield from site_at(block.attn, "proj", "attn.proj", layer)
            yield from site_at(block, "norm2", "norm.2", layer)
            yield from site_at(block, "mlp", "mlp", layer)
            yield from site_at(block.mlp, "0", "mlp.fc1", layer)
            yield from site_at(block.mlp, "3", "mlp.fc2", layer)
            layer += 1
    yield from site_at(net, "norm", "norm.final")


def _convnext(net: Any) -> Iterator[Site]:
    yield from site_at(net.stem, "0", "embed", channel_dim=1)
    yield from site_at(net.stem, "1", "norm.embed", channel_dim=1)
    layer = 0
    for stage in net.stages:
        if not isinstance(stage.downsample, nn.Identity):
            yield from site_at(stage.downsample, "0", "norm.merge", channel_dim=1)
            yield from site_at(stage.downsample, "1", "merge", channel_dim=1)
        for index, block in enumerate(stage.blocks):
            # the small variants keep maps channels-first through the MLP, as 1 x 1 convolutions
            channels = 1 if block.use_conv_mlp else -1
            yield from site_at(stage.blocks, str(index), "block", layer, channel_dim=1)
            yield from site_at(block, "conv_dw", "conv", layer, channel_dim=1)
            yield from site_at(block, "norm", "norm.2", layer, channels)
            yield from site_at(block, "mlp", "mlp", layer, channels)
            yield from site_at(block.mlp, "fc1", "mlp.fc1", layer, channels)
            yield from site_at(block.mlp, "fc2", "mlp.fc2", layer, channels)
            layer += 1
    yield from site_at(net, "norm_pre", "norm.final", channel_dim=1)
    yield from site_at(net.head, "norm", "norm.final", channel_dim=1)


def _sam(net: Any) -> Iterator[Site]:
    """The image encoder of Segment Anything: tokens as maps [batch, height, width, channels], a neck behind them."""
    yield from site_at(net.patch_embed, "proj", "embed", channel_dim=1)
    for layer, block in enumerate(net.blocks):
        # timm builds these norms with torch's usual 1e-5, SAM was trained with this
        block.norm1.eps = block.norm2.eps = 1e-6
        yield from transformer_sites(net.blocks, str(layer), layer)
    for place in (0, 2):
        yield from site_at(net.neck, str(place), "neck", channel_dim=1)
        yield from site_at(net.neck, str(place + 1), "norm.neck", channel_dim=1)
