"""Methods written out on a plain timm ViT in the least code, as published code bases have them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NAMES = ("linear", "full", "lora", "ssf", "adaptformer", "vpt_deep", "convpass")


def by_hand(net: Any, method: str, num_classes: int = 100) -> nn.Module | None:
    """`net` with one of these methods and a linear head; None for a method that is not written out here."""
    if method not in NAMES:
        return None
    net.requires_grad_(method == "full")
    width, prefix = net.embed_dim, net.num_prefix_tokens
    for place, block in enumerate(net.blocks):
        if method == "lora":
            block.attn.qkv = HandLoRA(block.attn.qkv)
        elif method == "adaptformer":
            net.blocks[place] = HandAdaptFormer(block, width)
        elif method == "vpt_deep":
            net.blocks[place] = HandPrompts(block, width, prefix, place == 0)
        elif method == "convpass":
            net.blocks[place] = HandConvpass(block, width, prefix, net.patch_embed.grid_size)
        elif method == "ssf":
            block.norm1, block.norm2 = HandSSF(block.norm1, width), HandSSF(block.norm2, width)
            block.attn.qkv, block.attn.proj = HandSSF(block.attn.qkv, 3 * width), HandSSF(block.attn.proj, width)
            hidden = block.mlp.fc1.out_features
            block.mlp.fc1, block.mlp.fc2 = HandSSF(block.mlp.fc1, hidden), HandSSF(block.mlp.fc2, width)
    if method == "ssf":
        net.patch_embed.norm, net.norm = HandSSF(net.patch_embed.norm, width), HandSSF(net.norm, width)
    return nn.Sequential(net, nn.Linear(width, num_classes))


class HandLoRA(nn.Module):
    """qkv with low-rank updates of q and v, added to slices in place."""

    def __init__(self, qkv: nn.Linear, rank: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.qkv, self.width = qkv, qkv.in_features
        self.down_q, self.down_v = (nn.Linear(self.width, rank, bias=False) for _ in range(2))
        self.up_q, self.up_v = (nn.Linear(rank, self.width, bias=False) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        qkv: Tensor = self.qkv(x)
        qkv[..., : self.width] += self.up_q(self.down_q(self.dropout(x)))
        qkv[..., -self.width :] += self.up_v(self.down_v(self.dropout(x)))
        return qkv


class HandSSF(nn.Module):
    """An operation followed by factor and shift."""

    def __init__(self, base: nn.Module, width: int) -> None:
        super().__init__()
        self.base = base
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y * self.scale + self.shift


class HandAdaptFormer(nn.Module):
    """A block's MLP half with a bottleneck beside it."""

    def __init__(self, block: Any, width: int, bottleneck: int = 8) -> None:
        super().__init__()
        self.block = block
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        block = self.block
        x = x + block.ls1(block.attn(block.norm1(x), **arguments))
        beside = self.up(self.dropout(F.relu(self.down(x)))) * 0.1
        return x + block.ls2(block.mlp(block.norm2(x))) + beside


class HandPrompts(nn.Module):
    """A block with prompts of its own behind the class token, in place of those of the block before."""

    def __init__(self, block: nn.Module, width: int, prefix: int, first: bool, num_tokens: int = 10) -> None:
        super().__init__()
        self.block, self.prefix, self.left = block, prefix, 0 if first else num_tokens
        self.prompts = nn.Parameter(torch.empty(1, num_tokens, width).uniform_(-0.1, 0.1))
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        prompts = self.dropout(self.prompts.expand(len(x), -1, -1)).to(x.dtype)
        patches = x[:, self.prefix + self.left :]
        y: Tensor = self.block(torch.cat([x[:, : self.prefix], prompts, patches], dim=1), **arguments)
        return y


class HandBypass(nn.Module):
    """Down, 3 x 3 convolution, up; prefix tokens are maps of one pixel."""

    def __init__(self, width: int, prefix: int, grid: tuple[int, int], bottleneck: int = 8) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        self.conv = nn.Conv2d(bottleneck, bottleneck, 3, padding=1)
        self.dropout = nn.Dropout(0.1)
        self.prefix, self.grid = prefix, grid

    def forward(self, z: Tensor) -> Tensor:
        hidden = self.down(z)
        hidden = hidden * torch.sigmoid(1.702 * hidden)
        batch, _, width = hidden.shape
        alone = hidden[:, : self.prefix].reshape(-1, width, 1, 1)
        patches = hidden[:, self.prefix :].transpose(1, 2).reshape(batch, width, *self.grid)
        parts = self.conv(alone).view(batch, self.prefix, width), self.conv(patches).flatten(2).transpose(1, 2)
        mixed = torch.cat(parts, dim=1)
        up: Tensor = self.up(self.dropout(mixed * torch.sigmoid(1.702 * mixed)))
        return up


class HandConvpass(nn.Module):
    """A block with such a bypass beside each half."""

    def __init__(self, block: Any, width: int, prefix: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.block = block
        self.of_attn, self.of_mlp = HandBypass(width, prefix, grid), HandBypass(width, prefix, grid)

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        block = self.block
        z = block.norm1(x)
        x = x + block.ls1(block.attn(z, **arguments)) + self.of_attn(z)
        z = block.norm2(x)
        return x + block.ls2(block.mlp(z)) + self.of_mlp(z)
