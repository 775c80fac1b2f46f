"""Networks run a second time with prompts or signals of a method's own, written out in float64 around bare blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.contracts.backbones import images, make
from peftbench.methods.base import METHODS, install
from peftbench.objectives.base import OBJECTIVES
from peftbench.tasks.classification import classification_loss
from peftbench.tasks.model import Classifier
from tests.golden.test_equations import HEADS, WIDTH, attention, plain
from tests.golden.test_equations_lowrank import moved

SIDE, HEAD = 4, WIDTH // HEADS


def bare() -> Any:
    return make("vit_layerscale").net.double()


def around(place: int) -> list[int | None]:
    """Indices of the nine patches around one, None beyond the edge."""
    row, column = divmod(place, SIDE)
    nine = [(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return [r * SIDE + c if 0 <= r < SIDE and 0 <= c < SIDE else None for r, c in nine]


def looked(q: Tensor, k: Tensor, v: Tensor, single_head: bool) -> Tensor:
    """SA2VP's attention of x to y: [batch, 17, 48] each, the class token first, place by place."""
    width = WIDTH if single_head else HEAD
    parts = []
    for query, key, value in zip(*(part.split(width, dim=-1) for part in (q, k, v)), strict=True):
        rows = [(query[:, :1] @ key.transpose(1, 2) / width**0.5).softmax(dim=-1) @ value]
        for place in range(SIDE**2):
            known = [other for other in around(place) if other is not None]
            near = [1 + other for other in known]
            scores = query[:, 1 + place, None] @ key[:, near].transpose(1, 2) / width**0.5
            if single_head:  # beyond the edge are zeros
                scores = torch.cat([scores, scores.new_zeros(len(q), 1, 9 - len(near))], dim=-1)
            rows.append(scores.softmax(dim=-1)[..., : len(near)] @ value[:, near])
        parts.append(torch.cat(rows, dim=1))
    return torch.cat(parts, dim=-1)


def two_streams(backbone: Any, single_head: bool) -> tuple[Tensor, Tensor]:
    """Image and prompts behind the last block, of period 1: blocks 0 and 1 write to prompts, block 2 to the image."""
    net, own = bare(), {name: tensor.detach() for name, tensor in backbone.trainable}
    maps = [own[f"net.blocks.0.first.prompts.{end}"] for end in ("tokens", "up.weight", "up.bias")]
    x = net._pos_embed(net.patch_embed(images(2).double()))
    p = (maps[0] @ maps[1].T + maps[2] + net.pos_embed).expand(2, -1, -1)
    for layer, block in enumerate(net.blocks):
        op = plain(dict(block.named_parameters()))
        mine = {name.split(f"blocks.{layer}.")[1]: t for name, t in own.items() if f"blocks.{layer}." in name}
        taker, giver = (x, p) if layer == 2 else (p, x)
        q = op("attn.qkv", op("norm1", taker))[..., :WIDTH]
        _, k, v = op("attn.qkv", op("norm1", giver)).split(WIDTH, dim=-1)
        y = taker + op("attn.proj", looked(q, k, v, single_head))
        y = F.layer_norm(y, (WIDTH,), mine["cross.norm.weight"], mine["cross.norm.bias"], 1e-6)
        y = F.gelu(y @ mine["cross.mlp.down.weight"].T + mine["cross.mlp.down.bias"])
        y = y @ mine["cross.mlp.up.weight"].T + mine["cross.mlp.up.bias"]
        x, p = block(x), block(p)
        if layer == 1:
            new = mine["new.tokens"] @ mine["new.up.weight"].T + mine["new.up.bias"]
            p = p + mine["gate"] * block(new)
        x, p = (x + 0.5 * y, p) if layer == 2 else (x, p + 0.5 * y)
    return net.norm(x), net.norm(p)


@pytest.mark.parametrize("single_head", [False, True])
@torch.no_grad()
def test_sa2vp_lets_image_and_prompts_take_from_each_other_place_by_place(single_head: bool) -> None:
    backbone = moved("sa2vp", hidden_dim=3, scale=0.5, period=1, single_head=single_head)
    x, _ = two_streams(backbone, single_head)
    torch.testing.assert_close(backbone(images(2).double()), x[:, 0], rtol=0, atol=1e-12)


@torch.no_grad()
def test_the_prompts_beside_the_image_are_classed_by_the_same_head() -> None:
    backbone = moved("sa2vp", hidden_dim=3, scale=0.5, period=1, dropout=0.0)
    model, objective = Classifier(backbone, 5, seed=0).double(), OBJECTIVES.get("prompt_stream")(weight=0.3)
    objective.install(model, torch.nn.Module())
    labels = torch.tensor([3, 1])
    x, p = two_streams(backbone, single_head=False)
    expected = 0.7 * F.cross_entropy(model.head(x[:, 0]), labels) + 0.3 * F.cross_entropy(model.head(p[:, 0]), labels)
    loss = objective.loss_fn(model, classification_loss())(
        model.train(), {"image": images(2).double(), "label": labels}
    )
    # logits of a loss are in float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)
    assert model.eval()(images(2).double()).shape == (2, 5)


def test_sa2vps_maps_start_small_and_new_prompts_join_in_every_fourth_block() -> None:
    backbone = make("vit_twelve")
    install(METHODS.get("sa2vp")(), backbone, seed=5)
    own = {name: tensor.detach() for name, tensor in backbone.trainable}
    joined = [name for name in own if name.endswith(".gate")]
    assert joined == ["net.blocks.4.gate", "net.blocks.8.gate"]
    assert [own[name].shape for name in joined] == [(1, WIDTH)] * 2
    tokens = own["net.blocks.4.new.tokens"]
    assert tokens.shape == (1, 17, 16) and float(tokens.std()) == pytest.approx(0.02, rel=0.15)
    up, bias = own["net.blocks.4.new.up.weight"], own["net.blocks.4.new.up.bias"]
    bound = (6 / (16 + WIDTH)) ** 0.5
    assert 0.95 * bound < up.abs().max() <= bound and 0 < bias.abs().max() < 1e-5
    assert sum(module.inward for module in backbone.modules() if hasattr(module, "inward")) == 3


@pytest.mark.parametrize("lite", [False, True])
@torch.no_grad()
def test_toast_leads_the_second_pass_by_what_the_first_saw(lite: bool) -> None:
    backbone, net = moved("toast", lite=lite), bare()
    own = {name.removeprefix("net.blocks.0.feedback."): tensor.detach() for name, tensor in backbone.trainable}
    drawn = {name.removeprefix("net.blocks.0.feedback."): tensor for name, tensor in backbone.named_buffers()}

    def square(x: Tensor, name: str) -> Tensor:
        if not lite:
            return x @ own[f"{name}.weight"].T
        return x @ drawn[f"{name}.weight"].T + 0.25 * x @ own[f"{name}.down"].T @ own[f"{name}.up"].T

    start = net._pos_embed(net.patch_embed(images(2).double()))
    z = start
    for block in net.blocks:
        z = block(z)
    z = net.norm(z)
    cosine = (z * own["xi"]).sum(dim=-1) / z.norm(dim=-1) / own["xi"].norm()
    assert (cosine > 0).any() and (cosine < 0).any()
    z = z * cosine.clamp(min=0)[..., None]
    if lite:
        z = z @ own["transform"]
    signals: list[Tensor] = []
    for layer in (2, 1, 0):
        z = square(z, f"back.{layer}")
        signals.insert(0, square(z, f"out.{layer}"))
    x = start
    for block, signal in zip(net.blocks, signals, strict=True):
        w = dict(block.named_parameters())
        op = plain(w)
        q, k, v = op("attn.qkv", op("norm1", x)).split(WIDTH, dim=-1)
        v = v + op("attn.qkv", signal)[..., -WIDTH:]
        x = x + w["ls1.gamma"] * op("attn.proj", attention(q, k, v))
        x = x + w["ls2.gamma"] * op("mlp.fc2", F.gelu(op("mlp.fc1", op("norm2", x))))
    torch.testing.assert_close(backbone(images(2).double()), net.norm(x)[:, 0], rtol=0, atol=1e-12)


def test_toasts_decoders_start_as_released_and_the_lighter_form_from_silent_factors() -> None:
    backbone = make("vit_cls")
    install(METHODS.get("toast")(lite=True), backbone, seed=5)
    feedback: Any = backbone.get_submodule("net.blocks.0.feedback")
    assert torch.equal(feedback.transform, torch.eye(WIDTH))
    assert not any(square.up.any() for square in [*feedback.back, *feedback.out])
    weights = torch.stack([square.weight for square in feedback.back])
    assert float(weights.std()) == pytest.approx(0.02, rel=0.05)
    assert 0.7 < float(feedback.xi.detach().std()) < 1.3
    assert feedback.xi.shape == (1, WIDTH), "the release decays it, as whatever has two axes is here"
