"""Sparse-Tuning: dense adapters and merged patches of twelve blocks, in float64, patch by patch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.contracts.backbones import images, make
from peftbench.methods.base import METHODS, install
from tests.golden.test_equations import HEADS, WIDTH

KEEP = 0.6
STAGES = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (9, 10, 11)]


def adapter(w: dict[str, Tensor], x: Tensor) -> Tensor:
    def linear(name: str, y: Tensor) -> Tensor:
        return y @ w[f"branch.{name}.weight"].T + w[f"branch.{name}.bias"]

    z = F.relu(linear("down1", x))
    a = linear("down2", z)
    return linear("up2", linear("down3", torch.cat([a, linear("up1", a)], dim=-1)) + z)


def merged(block: Any, before: Tensor, behind: Tensor) -> Tensor:
    """Of one image: tokens behind attention, by what the class token looks at among those before it."""
    q, k, _ = block.attn.qkv(block.norm1(before)).chunk(3, dim=-1)
    looks = torch.zeros(len(before), dtype=torch.float64)
    for head in range(HEADS):
        part = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
        looks += (k[:, part] @ q[0, part] / (WIDTH // HEADS) ** 0.5).softmax(dim=0) / HEADS
    order = sorted(range(1, len(before)), key=lambda place: -float(looks[place]))
    kept = math.ceil(KEEP * len(order))
    rest = sum(looks[place] * behind[place] for place in order[kept:])
    return torch.stack([behind[0], *(behind[place] for place in order[:kept]), rest])  # type: ignore[list-item]


def test_few_patches_go_on_and_each_stage_adds_its_adapters_once_more() -> None:
    backbone = make("vit_twelve")
    install(METHODS.get("sparse_tuning")(bottleneck=6, keep=KEEP), backbone, seed=5)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for _, tensor in backbone.trainable:
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    backbone.double().eval()
    own = {name: tensor.detach() for name, tensor in backbone.trainable}
    net: Any = make("vit_twelve").net.double()
    lengths = []
    with torch.no_grad():
        x = net._pos_embed(net.patch_embed(images(3).double()))
        for stage, numbers in enumerate(STAGES):
            dense: Any = x if stage == 0 else 0
            for number in numbers:
                block = net.blocks[number]
                w = {name.split(f"blocks.{number}.")[1]: t for name, t in own.items() if f"blocks.{number}." in name}
                behind = x + block.attn(block.norm1(x))
                if stage and number == numbers[0]:
                    behind = torch.stack([merged(block, *pair) for pair in zip(x, behind, strict=True)])
                    lengths.append(behind.shape[1])
                added = adapter(w, behind)
                x = behind + block.mlp(block.norm2(behind)) + added
                dense = dense + (0 if number == 11 else added)
            x = x + dense
        expected = net.norm(x)[:, 0]
        found = backbone(images(3).double())
    # 16 patches, 10 and one of the others, 7 and one, 5 and one
    assert lengths == [12, 9, 7]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
