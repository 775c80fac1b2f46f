"""The attention core against timm's own attention, and the places it gives to methods."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.models.swin_transformer import WindowAttention
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from peftbench.backbones.build import from_timm
from peftbench.contracts.backbones import images, make, randomised
from peftbench.foundation.errors import NotApplicable
from peftbench.interventions.attention import (
    AttentionCore,
    AttentionHook,
    ask,
    attend_self,
    heads_of,
    hook_attention,
    require_plain,
)
from peftbench.methods.base import METHODS, install

WIDTH, HEADS, LENGTH = 24, 3, 9


class Formed(AttentionHook):
    """Changes nothing, but has the probabilities formed."""

    needs_probabilities = True


class Front(AttentionHook):
    """Zero keys and values in front."""

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        zero = torch.zeros_like(k[:, :, :2])
        return torch.cat([zero, k], dim=2), torch.cat([zero, v], dim=2)


def plain(**options: Any) -> nn.Module:
    """timm's attention with every tensor random."""
    return randomised(Attention(WIDTH, HEADS, qkv_bias=True, norm_layer=nn.LayerNorm, **options))


def tokens(length: int = LENGTH) -> Tensor:
    return torch.randn(2, length, WIDTH, generator=torch.Generator().manual_seed(4))


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "normed queries and keys": {"qk_norm": True},
    "normed output": {"scale_norm": True},
    "gate": {"gated": True},
    "other head width": {"attn_head_dim": 4},
    "no bias": {"proj_bias": False},
}
MASKS: dict[str, dict[str, Any]] = {
    "none": {},
    "causal": {"is_causal": True},
    "additive": {"attn_mask": torch.randn(LENGTH, LENGTH, generator=torch.Generator().manual_seed(8))},
    "boolean": {"attn_mask": torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril(2)},
}


@pytest.mark.parametrize("hooks", [[], [Formed()]], ids=["fused", "formed"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_core_is_timms_attention(kind: str, mask: str, hooks: list[AttentionHook]) -> None:
    attn = plain(**KINDS[kind])
    expected = attn(tokens(), **MASKS[mask])
    torch.testing.assert_close(hook_attention(attn, hooks)(tokens(), **MASKS[mask]), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("hooks", [[], [Formed()]], ids=["fused", "formed"])
@pytest.mark.parametrize("shifted", [False, True])
def test_the_core_is_timms_window_attention(shifted: bool, hooks: list[AttentionHook]) -> None:
    attn = randomised(WindowAttention(WIDTH, HEADS, window_size=3))
    windows = torch.randn(8, LENGTH, WIDTH, generator=torch.Generator().manual_seed(4))
    # four windows per image, two images; the mask differs from window to window
    mask = -100.0 * (torch.rand(4, LENGTH, LENGTH, generator=torch.Generator().manual_seed(5)) > 0.7)
    arguments = {"mask": mask} if shifted else {}
    expected = attn(windows, **arguments)
    torch.testing.assert_close(hook_attention(attn, hooks)(windows, **arguments), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backbone", ["vit_cls", "vit_qknorm", "swin"])
def test_a_network_with_bare_cores_is_the_network(backbone: str) -> None:
    built = make(backbone)
    expected = built(images())
    for site in built.sites("attn"):
        site.wrap(AttentionCore)
    torch.testing.assert_close(built(images()), expected, rtol=1e-5, atol=1e-5)


def test_extra_keys_are_seen_under_every_mask() -> None:
    """A zero key has score 0 and a zero value adds nothing: each row only loses weight to the two columns."""
    attn: Any = plain()
    core = hook_attention(attn, [Front()])
    for mask in MASKS.values():
        bias = torch.zeros(LENGTH, LENGTH)
        if mask.get("is_causal"):
            bias = torch.full_like(bias, float("-inf")).triu(1)
        elif "attn_mask" in mask:
            given = mask["attn_mask"]
            bias = bias.masked_fill(~given, float("-inf")) if given.dtype == torch.bool else given
        q, k, v = attn.qkv(tokens()).view(2, LENGTH, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1) / (WIDTH // HEADS) ** 0.5 + bias).exp()
        mixed = (scores / (scores.sum(-1, keepdim=True) + 2)) @ v
        expected = attn.proj(mixed.transpose(1, 2).reshape(2, LENGTH, WIDTH))
        torch.testing.assert_close(core(tokens(), **mask), expected, rtol=1e-5, atol=1e-5)


def test_hooks_join_one_core_and_run_in_order() -> None:
    class Shift(AttentionHook):
        def __init__(self, factor: float, offset: float) -> None:
            super().__init__()
            self.factor, self.offset = factor, offset

        def project(self, x: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            return k, self.factor * v + self.offset

    attn: Any = plain()
    core: Any = hook_attention(hook_attention(attn, [Shift(2, 0)]), [Shift(1, 5)])
    assert core.base is attn and len(core.hooks) == 2
    q, k, v = attn.qkv(tokens()).view(2, LENGTH, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
    mixed = (q @ k.transpose(-2, -1) / (WIDTH // HEADS) ** 0.5).softmax(-1) @ (2 * v + 5)
    expected = attn.proj(mixed.transpose(1, 2).reshape(2, LENGTH, WIDTH))
    torch.testing.assert_close(core(tokens()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_separate_queries_change_nothing_and_see_the_tokens_only(kind: str) -> None:
    attn = plain(**KINDS[kind])
    queries = torch.randn(2, 4, WIDTH, generator=torch.Generator().manual_seed(6))
    heads = heads_of(attn, tokens())
    assert torch.equal(attend_self(attn, tokens(), heads), attn(tokens()))
    asked = ask(attn, queries, heads)
    # the same through timm: one sequence in which the queries are masked as keys
    mask = torch.ones(LENGTH + 4, LENGTH + 4, dtype=torch.bool)
    mask[:, LENGTH:] = False
    together = attn(torch.cat([tokens(), queries], dim=1), attn_mask=mask)
    torch.testing.assert_close(asked, together[:, LENGTH:], rtol=1e-5, atol=1e-5)


def test_unknown_attention_is_refused_by_name() -> None:
    differential = timm.create_model("vit_tiny_patch16_224", attn_layer="diff", depth=1, num_classes=0)
    with pytest.raises(NotApplicable, match="DiffAttention"):
        hook_attention(differential.blocks[0].attn, [])
    backbone = from_timm(differential)
    names = [name for name, _ in backbone.named_parameters()]
    for method in ("prefix", "patt", "attnscale", "vqt"):
        with pytest.raises(NotApplicable, match="DiffAttention"):
            install(METHODS.get(method)(), backbone)
        assert [name for name, _ in backbone.named_parameters()] == names
    with pytest.raises(NotApplicable, match="WindowAttention"):
        require_plain(WindowAttention(WIDTH, HEADS, window_size=3))
