"""What side networks promise: no backward pass through the backbone where the paper has none, and no shared state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone
from peftbench.backbones.build import from_timm
from peftbench.contracts.backbones import VIT, images, make, randomised
from peftbench.interventions import Intervention
from peftbench.methods.base import METHODS, install

SIDE = ("dtl", "dtl_plus", "lst", "last", "hst", "e3va")


def twelve_blocks(name: str) -> Backbone:
    """A method on a tiny ViT with the depth of the papers, its tensors moved off their start."""
    net = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, **(VIT | {"depth": 12}))
    backbone = from_timm(randomised(net), img_size=32)
    install(METHODS.get(name)(), backbone)
    return nudged(backbone)


@torch.no_grad()
def nudged(backbone: Backbone) -> Backbone:
    for _, tensor in backbone.trainable:
        tensor.add_(0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
    return backbone


def frozen_blocks(backbone: Backbone) -> list[nn.Module]:
    """The timm blocks themselves, without what is wrapped around them."""
    blocks = []
    for site in backbone.sites("block"):
        block = site.module
        while isinstance(block, Intervention):
            block = block.base
        blocks.append(block)
    return blocks


@contextmanager
def saved_bytes(blocks: list[nn.Module]) -> Iterator[list[int]]:
    """Bytes that autograd keeps for the backward pass while each block runs, the blocks' own tensors left out."""
    total: list[int] = [0] * len(blocks)
    running: list[int] = []
    own = {id(parameter) for block in blocks for parameter in block.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        if running and id(tensor) not in own:
            total[running[-1]] += tensor.numel() * tensor.element_size()
        return tensor

    handles: list[Any] = []
    for number, block in enumerate(blocks):
        handles.append(block.register_forward_pre_hook(lambda *_, number=number: running.append(number)))
        handles.append(block.register_forward_hook(lambda *_: running.clear()))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize(("name", "free"), [("dtl", 7), ("dtl_plus", 7), ("lst", 12), ("last", 12)])
def test_no_graph_is_kept_of_the_blocks_that_need_no_backward_pass(name: str, free: int) -> None:
    backbone = twelve_blocks(name).train()
    blocks = frozen_blocks(backbone)
    attached: list[bool] = []
    hooks = [b.register_forward_hook(lambda _, __, out: attached.append(out.grad_fn is not None)) for b in blocks]
    with saved_bytes(blocks) as kept:
        features = backbone(images())
    assert attached == [number >= free for number in range(12)]
    assert [size > 0 for size in kept] == [number >= free for number in range(12)]
    for hook in hooks:
        hook.remove()
    features.sum().backward()
    assert all(parameter.grad is not None for _, parameter in backbone.trainable)


def branches(backbone: Backbone) -> list[nn.Module]:
    return [block.get_submodule(name) for block in frozen_blocks(backbone) for name in ("attn", "mlp")]


def test_the_highway_keeps_nothing_of_attention_and_the_mlp() -> None:
    backbone = twelve_blocks("e3va").train()
    with saved_bytes(branches(backbone)) as kept:
        features = backbone(images())
    assert kept == [0] * 24
    features.sum().backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in backbone.parameters())


def test_the_probe_sees_what_an_ordinary_adapter_keeps() -> None:
    backbone = twelve_blocks("lora").train()
    for probed in (frozen_blocks, branches):
        with saved_bytes(probed(backbone)) as kept:
            backbone(images())
        # the first MLP as well: attention ahead of it is adapted
        assert all(size > 0 for size in kept)


@pytest.mark.parametrize("name", ["lst", "last", "e3va"])
def test_no_gradient_goes_through_the_backbone_even_if_the_images_ask_for_one(name: str) -> None:
    backbone, pixels = twelve_blocks(name), images().requires_grad_()
    backbone(pixels).sum().backward()
    # only the embedded tokens could carry it, and the side network reads them detached
    assert pixels.grad is None


@pytest.mark.parametrize("name", SIDE)
def test_a_pass_inside_a_pass_does_not_disturb_it(name: str) -> None:
    backbone, other = make("vit_cls"), images().flip(0) * 2
    install(METHODS.get(name)(), backbone)
    nudged(backbone).eval()
    with torch.no_grad():
        expected, expected_other = backbone(images()), backbone(other)
        inner: list[Tensor] = []

        def run_other(*_: Any) -> None:
            if not inner:
                inner.append(torch.empty(0))
                inner[0] = backbone(other)

        hook = frozen_blocks(backbone)[1].get_submodule("attn").register_forward_hook(run_other)
        found = backbone(images())
        hook.remove()
    assert torch.equal(found, expected) and torch.equal(inner[0], expected_other)


@pytest.mark.parametrize("name", ["dtl", "dtl_plus"])
def test_dtl_leaves_the_tokens_alone_at_the_start(name: str) -> None:
    for kind in ("vit_cls", "vit_registers", "vit_layerscale"):
        backbone, bare = make(kind), make(kind)
        install(METHODS.get(name)(), backbone)
        with torch.no_grad():
            x = torch.randn(2, bare.shape.num_prefix_tokens + 16, 48, generator=torch.Generator().manual_seed(4))
            tokens = bare.net.blocks(x)  # type: ignore[union-attr, operator]
            expected = bare.net.norm(tokens[:, bare.shape.num_prefix_tokens :].mean(dim=1))  # type: ignore[operator]
            found = backbone.readout(backbone.net.norm(backbone.net.blocks(x.clone())))  # type: ignore[union-attr, operator]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["dtl", "dtl_plus"])
@pytest.mark.parametrize("kind", ["vit_avg", "swin"])
def test_dtl_is_the_identity_where_the_backbone_pools_like_it(name: str, kind: str) -> None:
    backbone, bare = make(kind), make(kind)
    install(METHODS.get(name)(), backbone)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images()), bare(images()), rtol=0, atol=1e-6)
