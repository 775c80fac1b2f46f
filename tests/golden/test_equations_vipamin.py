"""VIPAMIN's prompts, against a look at a bare network in float64 that draws the same random prompts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.backbones.build import from_timm
from peftbench.cells.evidence import CellEvidence, random_evidence
from peftbench.contracts.backbones import VIT, make
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.seeding import seeded
from peftbench.methods.base import METHODS
from peftbench.methods.observation import Batch, Findings
from tests.golden.test_equations import HEADS, WIDTH, attention

PROMPTS, MATCHED = 3, 4
BOUND = math.sqrt(6 / (3 * 8 * 8 + WIDTH))


class InDouble(CellEvidence):
    def images(self, batch_size: int) -> Iterator[Batch]:
        for batch in super().images(batch_size):
            yield {**batch, "image": batch["image"].double()}

    def classifier(self, backbone: Backbone) -> nn.Module:
        return super().classifier(backbone).double()


def evidence() -> InDouble:
    shown = random_evidence(make("vit_cls").double())
    return InDouble(**{name: getattr(shown, name) for name in shown.__dataclass_fields__})


def found(**options: Any) -> Findings:
    method, shown = METHODS.get("vipamin")(num_tokens=PROMPTS, num_matched=MATCHED, **options), evidence()
    with seeded(0, "observe"):
        findings: Findings = method.observe(shown)
    return findings


def looked_at(network: Any, images: Tensor, prompts: Tensor | None, layers: int) -> list[dict[str, Tensor]]:
    """What each block's patches, keys and mixed values are, means over images; `prompts` [layers, number, width]."""
    seen, x = [], network._pos_embed(network.patch_embed(images))
    for block, inserted in zip(network.blocks[:layers], [None] * layers if prompts is None else prompts, strict=True):
        given = x
        if inserted is not None:
            x = torch.cat([x[:, :1], inserted.expand(len(x), -1, -1), x[:, 1:]], dim=1)
        q, k, v = block.attn.qkv(block.norm1(x)).chunk(3, dim=-1)
        x = block(x)
        if inserted is not None:
            x = torch.cat([x[:, :1], x[:, 1 + len(inserted) :]], dim=1)
        keys = k.mean(dim=0).reshape(-1, HEADS, WIDTH // HEADS).mean(dim=1)
        seen.append({"patches": given[:, 1:].mean(dim=0), "keys": keys[1:], "mixed": attention(q, k, v).mean(dim=0)})
    return seen


@torch.no_grad()
def expected(deep: bool, expansion: float, released: bool = False) -> list[Tensor]:
    layers = 3 if deep else 1
    network: Any = make("vit_cls").net.double()
    images = torch.cat([batch["image"] for batch in evidence().images(8)])
    with seeded(0, "observe"):
        prompts = torch.stack([torch.empty(PROMPTS, WIDTH).uniform_(-BOUND, BOUND) for _ in range(layers)]).double()
        drawn = [torch.empty(PROMPTS, WIDTH, dtype=torch.float64).uniform_(-BOUND, BOUND) for _ in range(layers)]
    starts = []
    for layer, (of_prompts, plain) in enumerate(
        zip(looked_at(network, images, prompts, layers), looked_at(network, images, None, layers), strict=True)
    ):
        matched = []
        for key in of_prompts["keys"][:PROMPTS]:
            order = sorted(range(16), key=lambda n: -F.cosine_similarity(key, of_prompts["keys"][PROMPTS + n], dim=0))
            matched.append(torch.stack([of_prompts["patches"][n] for n in order[:MATCHED]]).mean(dim=0))
        w, b = (tensor[2 * WIDTH :] for tensor in network.blocks[layer].attn.qkv.parameters())
        mixed = plain["mixed"]
        beside = torch.eye(WIDTH).double() - mixed.T @ torch.linalg.inv(mixed @ mixed.T) @ mixed
        inverse = torch.linalg.inv(w) if released else torch.linalg.inv(w).T
        expanded = ((drawn[layer] @ w.T + b) @ beside - b) @ inverse
        starts.append((1 - expansion) * torch.stack(matched) + expansion * expanded)
    return starts


@pytest.mark.parametrize("options", [{"deep": True, "expansion": 0.25}, {"expansion": 0.0}, {"inverse": "released"}])
def test_prompts_start_at_patches_and_beyond_what_attention_brings_back(options: dict[str, Any]) -> None:
    findings = found(**options)
    starts = expected(options.get("deep", False), options.get("expansion", 0.5), "inverse" in options)
    assert list(findings) == [str(layer) for layer in range(len(starts))]
    for start, own in zip(starts, findings.values(), strict=True):
        torch.testing.assert_close(own, start, rtol=1e-8, atol=1e-8)


def test_values_of_expanding_prompts_are_orthogonal_to_all_tokens() -> None:
    backbone: Backbone = make("vit_cls").double()
    network: Any = backbone.net
    images = torch.cat([batch["image"] for batch in evidence().images(8)])
    with torch.no_grad():
        (plain,) = looked_at(network, images, None, 1)
        w, b = (tensor[2 * WIDTH :] for tensor in network.blocks[0].attn.qkv.parameters())
        values = found(expansion=1.0)["0"] @ w.T + b
    assert (values @ plain["mixed"].T).abs().max() < 1e-8 < values.abs().min()


def test_too_few_patches_or_directions_are_refused_before_looking() -> None:
    with pytest.raises(NotApplicable, match=r"num_matched = 17 is more than the 16 patches"):
        METHODS.get("vipamin")(num_matched=17).observe(random_evidence(make("vit_cls")))
    wide = timm.create_model("vit_tiny_patch16_224", num_classes=0, **(VIT | {"embed_dim": 15, "num_heads": 3}))
    with pytest.raises(NotApplicable, match=r"17 tokens leave none of 15 directions .*expansion=0"):
        METHODS.get("vipamin")().observe(random_evidence(from_timm(wide, img_size=32)))
