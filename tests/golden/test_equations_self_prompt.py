"""Prompts that start as patches of training images, against an independent look at a bare network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from peftbench.cells.evidence import random_evidence
from peftbench.contracts.backbones import make
from peftbench.foundation.seeding import seeded
from peftbench.methods.base import METHODS, install
from peftbench.methods.observation import Findings
from peftbench.methods.self_prompt import Lot


def seen_by_blocks(num_images: int = 32) -> list[Tensor]:
    """What each block of the bare network is given, [images, 16, 48]; the first patches without their position."""
    evidence = random_evidence(make("vit_cls"), num_images)
    images = torch.cat([batch["image"] for batch in evidence.images(8)])
    net: Any = make("vit_cls").net
    with torch.no_grad():
        patches = net.patch_embed(images)
        x, seen = net._pos_embed(patches), [patches]
        for block in net.blocks[:-1]:
            x = block(x)
            seen.append(x[:, 1:])
    return seen


def found(**options: Any) -> Findings:
    with seeded(0, "observe"):
        findings: Findings = METHODS.get("self_prompt")(num_tokens=6, **options).observe(
            random_evidence(make("vit_cls"))
        )
    return findings


def all_among(drawn: Tensor, pool: Tensor) -> None:
    """Every row of `drawn` is one of `pool`, each another."""
    distances = torch.cdist(drawn.double(), pool.flatten(0, 1).double(), compute_mode="donot_use_mm_for_euclid_dist")
    assert distances.min(dim=1).values.max() < 1e-4
    assert len(distances.argmin(dim=1).unique()) == len(drawn)


def test_prompts_start_as_tokens_that_their_block_is_given() -> None:
    findings, seen = found(), seen_by_blocks()
    assert list(findings) == ["0", "1", "2"]
    for layer, pool in enumerate(seen):
        all_among(findings[str(layer)], pool)
    shallow = found(deep=False)
    assert list(shallow) == ["0"]
    all_among(shallow["0"], seen[0])


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_pooled_prompts_start_as_windows_of_one_image(pooling: str) -> None:
    findings = found(pooling=pooling)
    for layer, tokens in enumerate(seen_by_blocks()):
        # 16 patches in five windows of three and a rest of one
        windows = [tokens[:, 3 * number : 3 * number + 3] for number in range(5)] + [tokens[:, 15:]]
        pooled = [part.mean(dim=1) if pooling == "mean" else part.max(dim=1).values for part in windows]
        all_among(findings[str(layer)], torch.stack(pooled, dim=1))


def test_windows_that_leave_none_over_are_joined_by_all_patches() -> None:
    tokens = torch.randn(2, 16, 3, generator=torch.Generator().manual_seed(0))
    made = METHODS.get("self_prompt")(num_tokens=5, pooling="mean").candidates(tokens)
    torch.testing.assert_close(made[:, :4], tokens.unflatten(1, (4, 4)).mean(dim=2))
    torch.testing.assert_close(made[:, 4], tokens.mean(dim=1))


def test_all_tokens_are_as_likely_whatever_the_batches() -> None:
    rows = torch.arange(30.0)[:, None]
    torch.manual_seed(0)
    keys = torch.cat([torch.rand(20), torch.rand(10)])
    torch.manual_seed(0)
    lot = Lot(4)
    lot.offer({"rows": rows[:20]})
    lot.offer({"rows": rows[20:]})
    assert torch.equal(lot.rows["rows"], rows[keys.argsort()[:4]])


@pytest.mark.parametrize("deep", [True, False])
def test_attached_it_is_vpt_from_that_start(deep: bool) -> None:
    findings = found(deep=deep)
    ours, vpt = make("vit_cls"), make("vit_cls")
    install(METHODS.get("self_prompt")(num_tokens=6, deep=deep), ours, findings=findings)
    install(METHODS.get("vpt_deep" if deep else "vpt_shallow")(num_tokens=6), vpt)
    assert [name for name, _ in ours.trainable] == [name for name, _ in vpt.trainable]
    with torch.no_grad():
        for (_, tensor), start in zip(vpt.trainable, findings.values(), strict=True):
            tensor.copy_(start)
    images = torch.randn(2, *ours.sample_shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(ours.eval()(images), vpt.eval()(images))
