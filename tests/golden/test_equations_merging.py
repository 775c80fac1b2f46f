"""Merging of patches, written out patch by patch around bare blocks, against the installed method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.contracts.backbones import images, make
from peftbench.foundation.errors import NotApplicable
from peftbench.interventions import TokenGrid
from peftbench.methods.base import METHODS, install
from peftbench.methods.fpet import match
from tests.golden.test_equations_side import agree, below, embedded, installed

# of a grid of 4 x 4 patches behind one prefix token, in the order in which the kept ones follow each other
GIVEN = [1 + 4 * row + column for row in range(4) for column in range(4) if (row + column) % 2 == 0]
KEPT = [1 + 4 * row + column for start in (1, 0) for row in range(start, 4, 2) for column in range(1 - start, 4, 2)]


def snapped(weight: Tensor) -> Tensor:
    """A matrix of one bit: its mean and plus or minus 0.6745 deviations."""
    mean, deviation = weight.mean(), weight.std()
    return mean + deviation * 0.67448975 * torch.sign((weight - mean) / (deviation + 1e-5))


def keys_of(block: Any, x: Tensor) -> Tensor:
    """The mean over the heads of the block's keys, [batch, length, 16]."""
    k = block.attn.qkv(block.norm1(x)).split(48, dim=-1)[1]
    return k.unflatten(-1, (3, 16)).mean(dim=2)


def attended(block: Any, x: Tensor, sizes: Tensor | None, deltas: dict[str, Tensor]) -> Tensor:
    """What attention adds: scores plus the logarithms of the sizes; `deltas` change q and v."""
    n = block.norm1(x)
    q, k, v = block.attn.qkv(n).split(48, dim=-1)
    if deltas:
        q, v = (
            part + 0.7 * n @ deltas[f"{number}.down"].T @ deltas[f"{number}.up"].T for part, number in ((q, 0), (v, 2))
        )
    heads = []
    for query, key, value in zip(*(part.split(16, dim=-1) for part in (q, k, v)), strict=True):
        scores = query @ key.transpose(1, 2) / 4
        heads.append((scores if sizes is None else scores + sizes.log().unsqueeze(1)).softmax(dim=-1) @ value)
    added: Tensor = block.attn.proj(torch.cat(heads, dim=-1))
    return added


def merged(x: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Every given patch goes to the kept one whose key is nearest in angle; a token is the mean of what it took."""
    tokens, sizes = [], []
    for image, own in zip(x, keys, strict=True):
        taken = {place: [image[place]] for place in (0, *KEPT)}
        for place in GIVEN:
            nearest = max(KEPT, key=lambda other: float(F.cosine_similarity(own[place], own[other], dim=0)))
            taken[nearest].append(image[place])
        tokens.append(torch.stack([torch.stack(group).mean(dim=0) for group in taken.values()]))
        sizes.append(torch.tensor([float(len(group)) for group in taken.values()]))
    return torch.stack(tokens), torch.stack(sizes)


@torch.no_grad()
@pytest.mark.parametrize("adapter", ["adaptformer", "lora"])
@pytest.mark.parametrize("proportional", [True, False])
def test_fpet_merges_each_patch_of_one_colour_into_the_nearest_of_the_other(adapter: str, proportional: bool) -> None:
    options = {"adapter": adapter, "scale": 0.7, "bottleneck": 4, "proportional": proportional}
    backbone, tensors = installed("fpet", "vit_cls", **options)
    bare: Any = make("vit_cls").net
    x, sizes = embedded(bare), None
    for layer, frozen in enumerate(bare.blocks):
        w = below(tensors, f"net.blocks.{layer}.")
        deltas = {name.partition("deltas.")[2]: tensor for name, tensor in w.items() if "deltas" in name}
        keys = keys_of(frozen, x)
        x = x + attended(frozen, x, sizes if proportional else None, deltas)
        if layer == 1:
            down, up = (snapped(w[f"refinement.{name}"]) for name in ("down", "up"))
            x, sizes = merged(x, keys + F.relu(keys @ down.T) @ up.T)
        branch: Tensor | float = 0.0
        if adapter == "adaptformer":
            down, up = (
                next(t for n, t in w.items() if "refinement" not in n and n.endswith(e)) for e in ("down", "up")
            )
            branch = 0.7 * F.relu(x @ down.T) @ up.T
        x = x + frozen.mlp(frozen.norm2(x)) + branch
    assert x.shape[1] == 1 + 8
    agree(backbone(images(2)), bare.norm(x)[:, 0])


def test_the_choice_of_a_patch_has_the_gradient_of_a_sigmoid() -> None:
    grid = TokenGrid(1, (2, 3))
    keys = torch.randn(1, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    weights = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    shares = match(grid, keys).shares[0]
    given, kept = (1, 3, 5), (4, 6, 2)
    # rows of the checkerboard: 1 2 3 over 4 5 6
    assert shares.shape == (3, 4) and torch.equal(shares.detach().sum(dim=1), torch.ones(3, dtype=torch.float64))
    (found,) = torch.autograd.grad((shares * weights).sum(), keys)
    total = torch.zeros((), dtype=torch.float64)
    for row, own in enumerate(given):
        cosines = torch.stack([F.cosine_similarity(keys[0, own], keys[0, other], dim=0) for other in kept])
        between = cosines.sort(descending=True).values[:2].mean()
        total = total + (weights[row, 1:] * torch.sigmoid(cosines - between)).sum()
        assert shares[row, 0] == 0 and shares[row, 1:].argmax() == cosines.argmax()
    (expected,) = torch.autograd.grad(total, keys)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_fpet_starts_from_the_merged_network() -> None:
    """Silent adapters on a network whose patches are merged: the same for both kinds but for their draws."""
    features = []
    for adapter in ("adaptformer", "lora"):
        backbone = make("vit_cls")
        install(METHODS.get("fpet")(adapter=adapter), backbone)
        refinement: Backbone = backbone.get_submodule("net.blocks.1.refinement")  # type: ignore[assignment]
        up = refinement.get_parameter("up")
        assert 0 < up.abs().max() <= 0.002
        with torch.no_grad():
            up.zero_()
            features.append(backbone.eval()(images(2)))
    agree(*features)


@pytest.mark.parametrize(
    ("backbone", "options", "why"),
    [
        ("vit_avg", {}, "averages"),
        ("eva_rope", {}, "rotary"),
        ("swin", {}, "windows"),
        ("vit_cls", {"layer": 2}, "not in block 2"),
    ],
)
def test_fpet_says_where_it_cannot_merge(backbone: str, options: dict[str, Any], why: str) -> None:
    with pytest.raises(NotApplicable, match=why):
        install(METHODS.get("fpet")(**options), make(backbone))
