"""The losses of the objectives, written out from the papers' equations on logits computed by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.contracts.backbones import images, make
from peftbench.contracts.test_objectives import CLASSES, batch, build, loss_of, nudge
from peftbench.interventions.base import Intervention, innermost
from peftbench.interventions.noise import SharedDropPath, changes_linear
from peftbench.objectives.base import OBJECTIVES
from peftbench.tasks.classification import classification_loss


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum(dim=1).mean()


def head(model: Any, features: Tensor) -> Tensor:
    return features @ model.head.weight.T + model.head.bias


@torch.no_grad()
def test_gist_adds_the_tokens_cross_entropy_and_two_divergences() -> None:
    model: Any = nudge(build("linear", "gist", dropout=0.0)[0]).train()
    net: Any = make("vit_cls").net
    patches = net.patch_embed(images())
    tokens = torch.cat([net.cls_token.expand(4, -1, -1), patches], dim=1) + net.pos_embed
    token = dict(model.named_parameters())["backbone.net.patch_drop.token"]
    tokens = torch.cat([tokens[:, :1], token.expand(4, -1, -1), tokens[:, 1:]], dim=1)
    for block in net.blocks:
        tokens = block(tokens)
    tokens = net.norm(tokens)
    c, g = head(model, tokens[:, 0]), head(model, tokens[:, 1])
    p_c, p_g = (c / 2).softmax(dim=1), (g / 2).softmax(dim=1)
    label = batch()["label"]
    expected = F.cross_entropy(c, label) + 0.3 * F.cross_entropy(g, label) + 0.9 * (kl(p_c, p_g) + kl(p_g, p_c))
    options = {"gist_weight": 0.3, "interaction_weight": 0.9, "temperature": 2.0, "dropout": 0.0}
    torch.testing.assert_close(loss_of(model, "gist", **options), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.eval()(images()), c, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_pesf_kd_adds_the_teachers_cross_entropy_and_a_divergence() -> None:
    model: Any = nudge(build("bitfit", "pesf_kd", hidden=6)[0]).train()
    f = make("vit_cls")(images())
    w = {name: tensor for name, tensor in model.teacher.named_parameters() if not name.startswith("backbone")}
    first = f @ w["adapter.0.weight"].T + w["adapter.0.bias"]
    hidden = (first @ w["adapter.1.weight"].T + w["adapter.1.bias"]).clamp(min=0)
    adapter = hidden @ w["adapter.3.weight"].T + w["adapter.3.bias"]
    t = f @ w["classifier.weight"].T + w["classifier.bias"] - adapter
    s = model.eval()(images())
    label = batch()["label"]
    gap = 4.0**2 * kl((t / 4).softmax(dim=1), (s / 4).softmax(dim=1))
    expected = F.cross_entropy(s, label) + F.cross_entropy(t, label) + 0.7 * gap
    found = loss_of(model.train(), "pesf_kd", weight=0.7, temperature=4.0, hidden=6)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_none_is_the_tasks_own_loss() -> None:
    model = build("linear", "none")[0]
    assert torch.equal(loss_of(model, "none"), classification_loss()(model, batch()))


@pytest.mark.parametrize(
    ("objective", "expected"),
    # by hand for width 48, 5 classes: one token; 2 * 49 * 5 + 11 * 32 + 5
    [("none", 0), ("gist", 48), ("pesf_kd", 847)],
)
def test_number_of_parameters(objective: str, expected: int) -> None:
    alone = sum(tensor.numel() for _, tensor in build("lora", "none")[0].added)
    assert sum(tensor.numel() for _, tensor in build("lora", objective)[0].added) == alone + expected
    assert CLASSES == 5


def noisy_vit(model: Any, images: Tensor, sigmas: list[float]) -> Tensor:
    """Logits of a tiny ViT with LoRA-VPT on all linear maps, noise drawn in the order in which the maps act."""
    net = model.backbone.net

    def noise(shape: Tensor, sigma: float) -> Tensor:
        drawn = torch.randn(len(shape), *[1] * (shape.ndim - 2), shape.shape[-1], dtype=shape.dtype) if sigma else 0.0
        return 1 + sigma * drawn

    def linear(module: Any, x: Tensor, sigma: float) -> Tensor:
        weight, bias, own = module.base.weight, module.base.bias, module.changes["0"]
        added = (
            x @ (weight * (own.up @ own.down)).T
            + bias * own.bias_scale
            + (weight @ own.prompt_up @ own.prompt_down)[:, 0]
        )
        return x @ weight.T + bias + added * noise(added, sigma)

    x = torch.cat([net.cls_token.expand(len(images), -1, -1), net.patch_embed(images)], dim=1) + net.pos_embed
    for block, sigma in zip(net.blocks, sigmas, strict=False):
        q, k, v = linear(block.attn.qkv, block.norm1(x), sigma).unflatten(-1, (3, 3, 16)).permute(2, 0, 3, 1, 4)
        mixed = ((q @ k.transpose(-2, -1)) / 4).softmax(dim=-1) @ v
        x = x + linear(block.attn.proj, mixed.transpose(1, 2).flatten(2), sigma)
        x = x + linear(block.mlp.fc2, F.gelu(linear(block.mlp.fc1, block.norm2(x), sigma)), sigma)
    logits = head(model, net.norm(x)[:, 0])
    return logits * noise(logits, sigmas[-1])


@torch.no_grad()
def test_pace_asks_two_passes_under_noise_to_agree() -> None:
    model: Any = nudge(build("lora_vpt", "pace", sigma=0.9)[0]).double().train()
    x, label = batch()["image"].double(), batch()["label"]
    torch.manual_seed(0)
    # three blocks and the head: none in the first, then 0.9, 0.6 and 0.3
    logits = noisy_vit(model, torch.cat([x, x]), [0.0, 0.9, 0.6, 0.3])
    first, second = logits[:4], logits[4:]
    expected = F.cross_entropy(first.float(), label) + 0.7 * ((first - second) ** 2).sum(dim=1).mean()
    loss_fn = OBJECTIVES.get("pace")(weight=0.7, sigma=0.9).loss_fn(model, classification_loss())
    torch.manual_seed(0)
    found = loss_fn(model, {"image": x, "label": label})
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-6, atol=1e-6)
    # no noise in evaluation
    torch.testing.assert_close(model.eval()(x), noisy_vit(model, x, [0.0] * 4), rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["karst", "spt_lora", "lora_vpt"])
def test_pace_has_noise_on_all_that_a_method_stacks_on_a_linear_map(method: str) -> None:
    """What is multiplied is the whole output less that of the frozen map, through any number of wrappers."""
    model: Any = nudge(build(method, "pace", sigma=0.9)[0]).double()
    wrappers = [module for module in model.backbone.net.blocks[1].modules() if changes_linear(module)]
    stacked = [module for module in wrappers if isinstance(module.base, Intervention)]
    wrapper = stacked[0] if method != "lora_vpt" else wrappers[0]
    frozen = innermost(wrapper)
    assert isinstance(frozen, nn.Linear)
    x = torch.randn(4, 17, frozen.in_features, dtype=torch.float64)
    plain, base = wrapper.eval()(x), frozen(x)
    assert not torch.equal(plain, base)
    # noise follows the wrapper; without the dropout of what it holds
    wrapper.training = True
    torch.manual_seed(0)
    found = wrapper(x)
    torch.manual_seed(0)
    noise = 1 + 0.9 * torch.randn(4, 1, frozen.out_features, dtype=torch.float64)
    torch.testing.assert_close(found, base + (plain - base) * noise, rtol=0, atol=1e-12)


def test_paces_two_copies_share_the_draws_of_stochastic_depth() -> None:
    drop = SharedDropPath(0.5).train()
    x = torch.randn(64, 3, 8, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    first, second = drop(torch.cat([x, x])).chunk(2)
    assert torch.equal(first, second)
    kept = first.abs().sum(dim=(1, 2)) > 0
    # the mask that stochastic depth draws for the first copy by itself
    torch.manual_seed(0)
    plain = DropPath(0.5).train()(torch.cat([x, x]))[:64]
    assert torch.equal(kept, plain.abs().sum(dim=(1, 2)) > 0)
    # divided by the share that was kept
    torch.testing.assert_close(first[kept], x[kept] / kept.double().mean().float())
    assert 10 < kept.sum() < 54 and torch.equal(drop.eval()(x), x)


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize(("rate", "copies"), [(0.1, 2), (0.3, 2), (0.1, 1), (1.0, 2)])
def test_paces_stochastic_depth_is_divided_in_the_released_order(rate: float, copies: int, scaled: bool) -> None:
    """By what is expected to stay, and then by the mean of that over both copies, to the last digits of a double."""
    drop = SharedDropPath(rate, scaled).train()
    drop.copies = copies
    x = torch.randn(64, 3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.manual_seed(0)
    found = drop(x)
    torch.manual_seed(0)
    mask = x.new_empty((64, 1, 1)).bernoulli_(1 - rate)
    if scaled and rate < 1:
        mask = mask / (1 - rate)
    mask = torch.cat([mask[: 64 // copies]] * copies)
    torch.testing.assert_close(found, x * (mask / (mask.mean() + 1e-12)), rtol=1e-15, atol=0)
