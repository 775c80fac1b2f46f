"""Entries of trained tensors that get no gradient, whatever the image: what `Method.inert` declares."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone


def norms_keys(attention: Any) -> bool:
    """Whether keys are normed behind their projection, so that an offset which all of them share is felt."""
    return not isinstance(getattr(attention, "k_norm", nn.Identity()), nn.Identity)


def key_third(backbone: Backbone, tensor: str) -> dict[str, slice]:
    """Where a trained offset of the fused qkv (attribute `tensor` of its site) acts on keys alone: name -> rows.

    It shifts all scores of a query equally, which softmax cancels. Where the keys are normalised behind it, the same
    holds for the bias of that norm instead, as a whole. Keys that rotary embeddings turn keep no common offset.
    """
    if backbone.turns_keys:
        return {}
    names = {id(parameter): name for name, parameter in backbone.trainable}
    found = {}
    for site in backbone.all_sites:
        if site.shape.role != "attn.qkv":
            continue
        normed_keys = norms_keys(site.parent)
        vector = getattr(site.parent.k_norm, "bias", None) if normed_keys else getattr(site.module, tensor, None)
        name = names.get(id(vector))
        if name is not None:
            width = site.shape.out_dim // 3
            found[name] = slice(None) if normed_keys else slice(width, 2 * width)
    return found


def unread_positions(backbone: Backbone) -> dict[str, slice | Tensor]:
    """Entries of trained relative positions that no query feels which is read: name -> entries.

    In the last block those that tokens ask for which are not pooled. The last three rows of a table are of the class
    token asking a patch, of a patch asking it, and of itself; positions from coordinates leave the class token out.
    What such a network of coordinates adds to all scores alike softmax cancels where there is no class token.
    """
    if backbone.shape.family != "vit":
        return {}
    last, of_class = f"net.blocks.{backbone.shape.depth - 1}.attn.", backbone.num_pooled is not None
    prefix = backbone.shape.num_prefix_tokens > 0
    found: dict[str, slice | Tensor] = {}
    for name, tensor in backbone.trainable:
        if name.startswith(last) and name.endswith("relative_position_bias_table") and prefix:
            of_class_token = torch.zeros_like(tensor, dtype=torch.bool)
            of_class_token[[-3, -1]] = True
            found[name] = ~of_class_token if of_class else of_class_token
        silent = of_class and name.startswith(f"{last}rel_pos.mlp.")
        if silent or (not prefix and name.endswith("rel_pos.mlp.fc2.bias")):
            found[name] = slice(None)
    return found


def idle_taps(backbone: Backbone) -> dict[str, Tensor]:
    """Masks of the trained kernels of the last block that leave out the centre, where the pooling reads no patches.

    What is read then are prefix tokens, 1 x 1 maps to a convolution, and nothing behind the last block mixes tokens.
    """
    if backbone.num_pooled is None:
        return {}
    names = {id(parameter): name for name, parameter in backbone.trainable}
    found = {}
    for module in backbone.sites("block")[-1].module.modules():
        if isinstance(module, nn.Conv2d) and id(module.weight) in names and module.weight[0, 0].numel() > 1:
            mask = torch.ones_like(module.weight, dtype=torch.bool)
            mask[..., module.weight.shape[2] // 2, module.weight.shape[3] // 2] = False
            found[names[id(module.weight)]] = mask
    return found
