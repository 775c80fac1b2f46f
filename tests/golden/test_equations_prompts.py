"""Equations of prompts beside VPT on one ViT block, in float64 against an independent computation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.contracts.backbones import images, make
from peftbench.contracts.replaying import Replayed
from peftbench.foundation.errors import NotApplicable
from peftbench.interventions import InsertTokens, QueryTokens
from peftbench.methods.base import METHODS, install
from peftbench.methods.lor_vp import PixelPrompt
from tests.golden.test_equations import HEADS, LAYER, WIDTH, attention, block, installed, plain, tokens
from tests.golden.test_equations_lowrank import moved
from tests.golden.test_equations_rotations import doubles, own_tensor, same, same_from


def fresh(name: str, **options: Any) -> list[Tensor]:
    backbone = make("vit_layerscale")
    install(METHODS.get(name)(**options), backbone, seed=5)
    return [tensor.detach() for _, tensor in backbone.trainable]


@pytest.mark.parametrize("place", ["after_attn", "after_mlp"])
def test_cvpt_looks_at_prompts_through_the_blocks_own_attention(place: str) -> None:
    backbone, w = moved("cvpt", num_tokens=4, place=place), doubles()
    prompts = own_tensor(backbone, "taps.0.prompts")
    op = plain(w)

    def cross(x: Tensor) -> Tensor:
        q = op("attn.qkv", x)[..., :WIDTH]
        _, k, v = op("attn.qkv", prompts.expand(len(x), -1, -1)).split(WIDTH, dim=-1)
        return x + op("attn.proj", attention(q, k, v))

    x = tokens().double()
    q, k, v = op("attn.qkv", op("norm1", x)).split(WIDTH, dim=-1)
    x = x + w["ls1.gamma"] * op("attn.proj", attention(q, k, v))
    x = cross(x) if place == "after_attn" else x
    mlp = op("mlp.fc2", torch.nn.functional.gelu(op("mlp.fc1", op("norm2", x))))
    x = x + w["ls2.gamma"] * mlp
    same(backbone, x if place == "after_attn" else cross(x))


def test_cvpts_prompts_start_as_one_tensor_of_all_layers() -> None:
    drawn = torch.stack(fresh("cvpt", num_tokens=6))
    assert drawn.shape == (3, 6, WIDTH)
    bound = (6 / ((6 + 3) * WIDTH)) ** 0.5
    assert 0.95 * bound < drawn.abs().max() <= bound


def test_cvpts_prompts_may_start_at_zero() -> None:
    assert not torch.stack(fresh("cvpt", num_tokens=6, init="zero")).any()


def test_e2vpt_adds_prompts_to_the_sequence_and_to_keys_and_values() -> None:
    backbone, w = moved("e2vpt", num_tokens=3, num_key_values=2), doubles()
    inserted = own_tensor(backbone, "tokens")
    shared = own_tensor(backbone, "base.attn.hooks.0.tokens")
    assert shared.shape == (HEADS, 2, WIDTH // HEADS)
    further = shared.transpose(0, 1).flatten(1)
    op, x = plain(w), tokens().double()
    x = torch.cat([x[:, :1], inserted.expand(len(x), -1, -1), x[:, 1:]], dim=1)
    q, k, v = op("attn.qkv", op("norm1", x)).split(WIDTH, dim=-1)
    k, v = (torch.cat([further.expand(len(x), -1, -1), part], dim=1) for part in (k, v))
    x = x + w["ls1.gamma"] * op("attn.proj", attention(q, k, v))
    x = x + w["ls2.gamma"] * op("mlp.fc2", torch.nn.functional.gelu(op("mlp.fc1", op("norm2", x))))
    same(backbone, torch.cat([x[:, :1], x[:, 4:]], dim=1))


def test_e2vpts_key_and_value_prompts_start_kaiming_uniform_of_three_axes() -> None:
    drawn = torch.stack([tensor for tensor in fresh("e2vpt") if tensor.shape == (HEADS, 5, WIDTH // HEADS)])
    bound = (6 / (5 * WIDTH // HEADS)) ** 0.5
    assert len(drawn) == 3 and 0.95 * bound < drawn.abs().max() <= bound


def test_vfpt_sees_its_first_prompts_through_a_fourier_transform() -> None:
    options = {"all": (True, True), "tokens": (True, False), "channels": (False, True)}
    for axes, (over_tokens, over_channels) in options.items():
        backbone, w = moved("vfpt", num_tokens=5, fourier_share=0.7, axes=axes), doubles()
        own = own_tensor(backbone, "tokens")[0].to(torch.complex128)
        seen = own[:3]
        for size, used, side in ((3, over_tokens, 0), (WIDTH, over_channels, 1)):
            n = torch.arange(size, dtype=torch.float64)
            dft = torch.exp(-2j * torch.pi * torch.outer(n, n) / size)
            if used:
                seen = dft @ seen if side == 0 else seen @ dft
        prompts = torch.cat([seen.real, own[3:].real])
        x = tokens().double()
        y = block(torch.cat([x[:, :1], prompts.expand(len(x), -1, -1), x[:, 1:]], dim=1), w, plain(w))
        same(backbone, torch.cat([y[:, :1], y[:, 6:]], dim=1))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vpt_shallow", {}),
        ("vpt_deep", {}),
        ("e2vpt", {}),
        ("vqt", {}),
        ("noah_subnet", {"prompts": [4, 4, 4], "lora_ranks": [0, 0, 0], "adapter_widths": [0, 0, 0]}),
    ],
)
def test_dropout_takes_other_entries_of_the_prompts_in_each_image(name: str, options: dict[str, Any]) -> None:
    """As in the released code of VPT, E2VPT, VQT and NOAH, which drop the prompts behind `expand`."""
    options = options or {"num_tokens": 4}
    backbone = moved(name, dropout=0.5, **options)
    inserting: Any = next(m for m in backbone.modules() if isinstance(m, (InsertTokens, QueryTokens))).train()
    x = tokens().double()[:1].expand(2, -1, -1)
    prompts = inserting.queries if name == "vqt" else inserting.tokens
    torch.manual_seed(0)
    kept = torch.nn.functional.dropout(prompts.detach().expand(2, -1, -1), 0.5)
    torch.manual_seed(0)
    with torch.no_grad():
        dropped = inserting(x)
        torch.nn.Module.train(inserting, False)
        expected = []
        for image, own in zip(x, kept, strict=True):
            prompts.copy_(own)
            expected.append(inserting(image[None]))
    if name == "vqt":
        (seen, (asked,)), expected = dropped, [carried[0] for _, carried in expected]
        torch.testing.assert_close(asked, torch.cat(expected), rtol=0, atol=1e-12)
        # two images of one product may differ by its rounding, by processor
        torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=1e-12)
        assert not torch.allclose(asked[0], asked[1])
        return
    torch.testing.assert_close(dropped, torch.cat(expected), rtol=0, atol=1e-12)
    assert not torch.allclose(dropped[0], dropped[1])


def test_vfpt_drops_prompts_of_each_image_ahead_of_the_transform() -> None:
    inserting: Any = moved("vfpt", num_tokens=4, dropout=0.5).get_submodule(f"net.blocks.{LAYER}").train()
    torch.manual_seed(0)
    kept = torch.nn.functional.dropout(inserting.tokens.detach().expand(2, -1, -1), 0.5)
    torch.manual_seed(0)
    with torch.no_grad():
        seen = inserting.inserted(2)
    expected = torch.cat([torch.fft.fft2(kept[:, :2]).real, kept[:, 2:]], dim=1)
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-12)
    assert not torch.allclose(seen[0], seen[1])


def test_vapt_makes_prompts_of_the_patches_a_block_is_given() -> None:
    backbone, w = moved("vapt", num_tokens=5, hidden_dim=3), doubles()
    x = tokens().double()
    own = {name: own_tensor(backbone, name) for name in ("norm.weight", "norm.bias", "kernel")}
    normed = torch.nn.functional.layer_norm(x, (WIDTH,), own["norm.weight"], own["norm.bias"], 1e-5)
    maps = normed[:, 1:].reshape(len(x), 4, 4, WIDTH)
    gathered = torch.zeros(len(x), 3, 3, WIDTH, dtype=torch.float64)
    for row in range(3):
        for column in range(3):
            for i in range(2):
                for j in range(2):
                    gathered[:, row, column] += own["kernel"][i, j] * maps[:, row + i, column + j]
    mixing, offset = own_tensor(backbone, "mixing.weight"), own_tensor(backbone, "mixing.bias")
    prompts = torch.einsum("bpc,tp->btc", gathered.flatten(1, 2), mixing) + offset[:, None]
    down, up = (backbone.get_parameter(f"shared.refinement.{name}.weight").detach() for name in ("down", "up"))
    prompts = prompts + torch.relu(prompts @ down.T) @ up.T
    y = block(torch.cat([x[:, :1], prompts, x[:, 1:]], dim=1), w, plain(w))
    same(backbone, torch.cat([y[:, :1], y[:, 6:]], dim=1))


def test_vapt_drops_the_learned_tokens_a_tenth_as_released_and_none_of_the_prompts_it_makes() -> None:
    backbone = moved("vapt", num_tokens=40, hidden_dropout=0.0, channel_dropout=0.0).train()
    first, later = (backbone.get_submodule(f"net.blocks.{layer}") for layer in (0, LAYER))
    assert later is not first
    torch.manual_seed(0)
    with torch.no_grad():
        dropped = first.inserted(64) / first.tokens  # type: ignore[operator]
        made = later.prompts(tokens().double())  # type: ignore[operator]
        same_made = later.eval().prompts(tokens().double())  # type: ignore[operator]
    kept = dropped != 0
    assert 0.895 < kept.double().mean() < 0.905
    torch.testing.assert_close(dropped[kept], torch.full_like(dropped[kept], 1 / 0.9))
    torch.testing.assert_close(made, same_made, rtol=0, atol=0)


def test_vapts_later_prompts_start_at_zero() -> None:
    backbone = make("vit_layerscale")
    install(METHODS.get("vapt")(), backbone)
    made = backbone.net.blocks[LAYER].prompts(tokens())  # type: ignore[union-attr, index, operator]
    assert made.shape == (len(tokens()), 10, WIDTH) and not made.any()


def test_gated_prompts_change_as_far_as_the_gate_lets_them() -> None:
    backbone, w = moved("gated_prompt", num_tokens=3), doubles()
    gate = torch.sigmoid(own_tensor(backbone, "logit"))
    warmth = own_tensor(backbone, "base.attn.hooks.0.temperature")
    op = plain(w)
    x = torch.cat([tokens().double(), tokens().double()[:, :3]], dim=1)
    q, k, v = op("attn.qkv", op("norm1", x)).split(WIDTH, dim=-1)
    y = x + w["ls1.gamma"] * op("attn.proj", attention(q / warmth, k, v))
    y = y + w["ls2.gamma"] * op("mlp.fc2", torch.nn.functional.gelu(op("mlp.fc1", op("norm2", y))))
    y[:, 1:4] = gate * y[:, 1:4] + (1 - gate) * x[:, 1:4]
    same_from(backbone, x, y)


def test_gates_start_almost_shut_and_temperatures_keep_their_limits() -> None:
    backbone = make("vit_layerscale")
    install(METHODS.get("gated_prompt")(gate_init=5.0), backbone)
    gates = [tensor for name, tensor in backbone.trainable if name.endswith(".logit")]
    assert len(gates) == 2 and all(tensor.item() == -5 for tensor in gates)
    warmth = backbone.get_parameter("net.blocks.1.base.attn.hooks.0.temperature")
    for set_to, kept in ((-1.0, 0.01), (20.0, 10.0)):
        with torch.no_grad():
            warmth.fill_(set_to)
            backbone(torch.zeros(1, *backbone.sample_shape))
        assert warmth.item() == pytest.approx(kept)


@torch.no_grad()
def test_gated_prompts_are_averaged_in_on_demand_where_the_network_averages() -> None:
    backbone = installed("gated_prompt", "vit_avg", num_tokens=3, pool_prompts=True)
    seen: list[Tensor] = []
    backbone.sites("block")[-1].module.register_forward_hook(lambda *call: seen.append(call[-1]))
    found, net = backbone(images(2)), backbone.net
    assert seen[0].shape[1] == 3 + backbone.shape.num_patches
    torch.testing.assert_close(found, net.fc_norm(seen[0].mean(dim=1)))  # type: ignore[operator]
    left_out = installed("gated_prompt", "vit_avg", num_tokens=3)(images(2))
    torch.testing.assert_close(left_out, net.fc_norm(seen[0][:, 3:].mean(dim=1)))  # type: ignore[operator]
    with pytest.raises(NotApplicable, match="does not pool"):
        install(METHODS.get("gated_prompt")(pool_prompts=True), make("vit_cls"))


@torch.no_grad()
@pytest.mark.parametrize("name", ["vit_cls", "vit_prenorm", "swin"])
def test_lor_vp_adds_a_picture_of_low_rank_to_the_pixels(name: str) -> None:
    backbone, bare = installed("lor_vp", name, rank=2), make(name)
    left, right = (tensor.detach() for _, tensor in backbone.trainable)
    assert left.shape == (3, 32, 2) and right.shape == (3, 2, 32)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (bare.input_spec.mean, bare.input_spec.std))
    pixels = images(2) * std + mean
    changed = torch.stack([image + torch.stack([b @ a for b, a in zip(left, right, strict=True)]) for image in pixels])
    torch.testing.assert_close(backbone(images(2)), bare((changed - mean) / std), rtol=1e-4, atol=1e-4)


def test_lor_vps_picture_is_resized_for_images_of_another_size() -> None:
    torch.manual_seed(0)
    prompted = PixelPrompt(nn.Conv2d(3, 4, 4, 4).double(), (16, 40), 2, torch.rand(3, 1, 1) + 0.5).double()
    nn.init.normal_(prompted.left)
    x = torch.randn(2, 3, 32, 24, dtype=torch.float64)
    picture = (prompted.left @ prompted.right / prompted.std)[None]
    expected = F.interpolate(picture, size=(32, 24), mode="bilinear", antialias=True)
    torch.testing.assert_close(prompted(x), prompted.base(x + expected))

    # by what has a deterministic backward pass on CUDA too
    done = Replayed(lambda sizes: prompted(x).sum().backward(), torch.device("cpu"))
    for _ in range(3):
        done((2,))
    assert prompted.left.grad is not None and prompted.left.grad.any()


def test_lor_vps_picture_starts_as_released() -> None:
    backbone = make("vit_cls")
    install(METHODS.get("lor_vp")(rank=30), backbone)
    left, right = (tensor.detach() for _, tensor in backbone.trainable)
    assert not left.any() and 0.0095 < right.std() < 0.0105
