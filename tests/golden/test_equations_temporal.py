"""Methods across the frames of clips: equations in plain tensor operations, counts, and what they may not mix."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.backbones.build import build_backbone, from_timm
from peftbench.backbones.options import BackboneSpec
from peftbench.contracts.backbones import FRAMES, OF_CLIPS, make, of_clips, samples
from peftbench.contracts.test_methods import nudge
from peftbench.foundation.errors import NotApplicable
from peftbench.interventions import TemporalConvAdapter
from peftbench.methods.base import METHODS, install
from peftbench.train.optim import param_groups
from peftbench.train.options import OptimSpec

WIDTH, HEADS = 48, 3
ST_BOTH = {"halves": ["attn", "mlp"]}
FORMS: list[tuple[str, dict[str, Any]]] = [
    ("st_adapter", {}),
    ("st_adapter", ST_BOTH),
    ("aim", {}),
    ("aim", {"temporal_adapters": 2, "scale": 1.0}),
    ("temporal_head", {}),
]
every_form = pytest.mark.parametrize(("name", "options"), FORMS, ids=str)


def installed(name: str, backbone: str = "vit_prenorm", **options: Any) -> Backbone:
    """In double precision, every trained tensor off its start."""
    built = make(backbone + OF_CLIPS)
    install(METHODS.get(name)(**options), built)
    return nudge(built.double()).eval()


def agree(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def linear(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def norm(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)


def attention(w: dict[str, Tensor], x: Tensor) -> Tensor:
    """Multi-head self-attention of sequences [batch, length, width]."""
    qkv = linear(w, "attn.qkv", x).unflatten(-1, (3, HEADS, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
    scores = qkv[0] @ qkv[1].transpose(-1, -2) / (WIDTH // HEADS) ** 0.5
    return linear(w, "attn.proj", (scores.softmax(-1) @ qkv[2]).transpose(1, 2).flatten(2))


def mlp(w: dict[str, Tensor], x: Tensor) -> Tensor:
    return linear(w, "mlp.fc2", F.gelu(linear(w, "mlp.fc1", x)))


def tensors(backbone: Backbone, layer: int) -> dict[str, Tensor]:
    """All tensors of a block, the frozen ones under the names that timm gives them."""
    found = {}
    for name, tensor in backbone.net.named_parameters():
        if name.startswith(f"blocks.{layer}."):
            found[name.removeprefix(f"blocks.{layer}.").replace("base.", "")] = tensor.detach()
    return found


def st_branch(w: dict[str, Tensor], number: int, x: Tensor) -> Tensor:
    """The module of the released code: Conv3d with kernel (3, 1, 1) over [batch, channels, frames, rows, columns]."""
    part = {name.removeprefix(f"taps.{number}."): tensor for name, tensor in w.items() if f"taps.{number}." in name}
    hidden = linear(part, "down", x[:, 1:])
    maps = hidden.view(-1, FRAMES, 4, 4, hidden.shape[-1]).permute(0, 4, 1, 2, 3)
    weight = part["conv.weight"][..., None, None]
    moved = F.conv3d(maps, weight, part["conv.bias"], padding=(1, 0, 0), groups=len(weight))
    added = linear(part, "up", moved.permute(0, 2, 3, 4, 1).reshape(hidden.shape))
    return torch.cat([x[:, :1], x[:, 1:] + added], dim=1)


@pytest.mark.parametrize("options", [{}, ST_BOTH], ids=str)
@torch.no_grad()
def test_st_adapter_acts_on_the_stream_ahead_of_norm_and_shortcut(options: dict[str, Any]) -> None:
    backbone = installed("st_adapter", **options)
    x = torch.randn(2 * FRAMES, 17, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w, expected = tensors(backbone, 1), x
    if options:
        expected = st_branch(w, 0, expected)
    expected = expected + attention(w, norm(w, "norm1", expected))
    expected = st_branch(w, len(options), expected)
    expected = expected + mlp(w, norm(w, "norm2", expected))
    agree(backbone.net.blocks[1](x), expected)  # type: ignore[index, operator]


@torch.no_grad()
def test_st_adapter_pools_class_tokens_ahead_of_the_norm() -> None:
    backbone, clips = installed("st_adapter"), samples(make("vit_prenorm" + OF_CLIPS), 2).double()
    net: Any = backbone.net
    x = net.norm_pre(net._pos_embed(net.patch_embed(clips.flatten(0, 1))))
    x = net.blocks(x)
    pooled = x[:, 0].unflatten(0, (2, FRAMES)).mean(dim=1)
    expected = F.layer_norm(pooled, (WIDTH,), net.norm.base.weight, net.norm.base.bias, net.norm.base.eps)
    agree(backbone(clips), expected)


def test_the_temporal_convolution_by_its_sum() -> None:
    """y_t = up(sum_k w_k pad(down x)_{t+k-1} + b) at every place; prefix tokens untouched, whatever their number."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = TemporalConvAdapter(6, 4, frames=5, num_prefix=2).double()
        for tensor in module.parameters():
            nn.init.normal_(tensor)
        x = torch.randn(2 * 5, 2 + 3, 6, dtype=torch.float64)
    found = module(x)
    assert torch.equal(found[:, :2], x[:, :2])
    hidden = F.pad(module.down(x[:, 2:]).view(2, 5, 3, 4), (0, 0, 0, 0, 1, 1))
    mixed = sum(hidden[:, k : k + 5] * module.conv.weight[:, 0, k] for k in range(3)) + module.conv.bias
    agree(found[:, 2:], x[:, 2:] + module.up(mixed).flatten(0, 1))
    maps = torch.randn(2 * 5, 3, 2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    no_prefix = TemporalConvAdapter(6, 4, frames=5, num_prefix=0).double()
    no_prefix.load_state_dict(module.state_dict())
    agree(no_prefix(maps).flatten(1, 2), no_prefix(maps.flatten(1, 2)))


def bottleneck(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return linear(w, f"{name}.up", F.gelu(linear(w, f"{name}.down", x)))


@pytest.mark.parametrize("options", [{}, {"temporal_adapters": 2, "scale": 1.0}], ids=str)
@torch.no_grad()
def test_aim_attends_over_time_then_space_then_adapts_the_mlp(options: dict[str, Any]) -> None:
    backbone = installed("aim", **options)
    x = torch.randn(2 * FRAMES, 17, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = tensors(backbone, 1)
    n = norm(w, "norm1", x)
    if options:
        n = n + bottleneck(w, "ahead.module", n)
    # [batch * frames, tokens, width] -> a sequence of frames at every place of every clip, and back
    sequences = n.view(2, FRAMES, 17, WIDTH).permute(0, 2, 1, 3).reshape(-1, FRAMES, WIDTH)
    attended = attention(w, sequences).view(2, 17, FRAMES, WIDTH).permute(0, 2, 1, 3).reshape(x.shape)
    y = x + bottleneck(w, "module", attended)
    spatial = attention(w, norm(w, "norm1", y))
    y = y + spatial + bottleneck(w, "taps.0", spatial)
    n = norm(w, "norm2", y)
    y = y + mlp(w, n) + options.get("scale", 0.5) * bottleneck(w, "taps.1.module", n)
    agree(backbone.net.blocks[1](x), y)  # type: ignore[index, operator]


@pytest.mark.parametrize("backbone", ["vit_cls", "vit_prenorm"])
@torch.no_grad()
def test_aim_gives_each_frame_an_offset_ahead_of_the_first_norm_or_block(backbone: str) -> None:
    built, clips = installed("aim", backbone), samples(make(backbone + OF_CLIPS), 2).double()
    net: Any = built.net
    offsets = dict(built.trainable)[("net.norm_pre" if backbone == "vit_prenorm" else "net.blocks.0") + ".offsets"]
    entry = net.norm_pre if backbone == "vit_prenorm" else net.blocks[0]
    seen = []
    entry.base.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    built(clips)
    tokens = net._pos_embed(net.patch_embed(clips.flatten(0, 1)))
    agree(seen[0], tokens + offsets[0].repeat(2, 1)[:, None])


@torch.no_grad()
def test_aim_starts_with_narrow_down_projections_and_trains_the_final_norm() -> None:
    built = make("vit_cls" + OF_CLIPS)
    install(METHODS.get("aim")(), built)
    start = dict(built.trainable)
    downs = torch.cat([tensor.flatten() for name, tensor in start.items() if name.endswith("down.weight")])
    assert downs.std().item() == pytest.approx(0.02, rel=0.05) and downs.abs().max() < 0.1
    zero = [name for name, tensor in start.items() if name.endswith(("up.weight", "bias", "offsets"))]
    assert all(not start[name].any() for name in zero if not name.startswith("net.norm."))
    assert {"net.norm.weight", "net.norm.bias"} <= set(start)


def test_aims_recipe_decays_all_that_trains_but_the_final_norm() -> None:
    """mmcv with the released `custom_keys`, of which `ln_post` alone trains: biases and offsets of frames decay."""
    built = make("vit_prenorm" + OF_CLIPS)
    install(METHODS.get("aim")(), built)
    spec = OptimSpec(weight_decay=0.05, decay_vectors=True, undecayed=["net.norm."])
    names = {group["name"]: set(group["names"]) for group in param_groups(built.trainable, [], spec)}
    assert names["method/no_decay"] == {"net.norm.weight", "net.norm.bias"}
    assert names["method/decay"] == {name for name, _ in built.trainable} - names["method/no_decay"]


@every_form
@torch.no_grad()
def test_the_start_is_the_frame_wise_network_with_the_same_read_out(name: str, options: dict[str, Any]) -> None:
    bare, built = make("vit_cls" + OF_CLIPS), make("vit_cls" + OF_CLIPS)
    method = METHODS.get(name)(**options)
    install(method, built)
    bare.read_frames(method.frame_readout)
    clips = samples(bare, 2)
    torch.testing.assert_close(built.eval()(clips), bare(clips), rtol=1e-6, atol=1e-6)


def test_the_first_step_of_st_adapter_moves_kernel_and_two_biases() -> None:
    built = make("vit_cls" + OF_CLIPS)
    install(METHODS.get("st_adapter")(), built)
    built(samples(built, 2)).square().sum().backward()
    moved = {name.partition("taps.0.")[2] for name, tensor in built.trainable if tensor.grad.abs().max() > 0}
    assert moved == {"conv.weight", "conv.bias", "up.bias"}


@every_form
@torch.no_grad()
def test_the_order_of_frames_matters_and_clips_keep_apart(name: str, options: dict[str, Any]) -> None:
    built = installed(name, "vit_cls", **options)
    clips = samples(built, 3).double()
    features = built(clips)
    assert (built(clips[:, [1, 0, 2]]) - features).abs().max() > 1e-3, "frames in another order"
    agree(built(clips[[2, 0, 1]]), features[[2, 0, 1]])
    # clips of one colour each: a wrong fold of batch and frames passes every test of one clip
    plain = torch.ones_like(clips[:2]) * torch.tensor([0.3, -0.7], dtype=torch.float64).view(2, 1, 1, 1, 1)
    other = torch.cat([plain[:1], clips[2:]])
    agree(built(other)[0], built(plain)[0])
    agree(built(plain[:1])[0], built(plain)[0])


def test_what_aim_cannot_attend_over_is_refused() -> None:
    with pytest.raises(NotApplicable, match="rotary embeddings, which place patches and not frames"):
        install(METHODS.get("aim")(), make("eva_rope" + OF_CLIPS))
    with pytest.raises(NotApplicable, match="a plain transformer, not swin"):
        install(METHODS.get("aim")(), make("swin" + OF_CLIPS))


CLIP_B, CLIP_L, VIT_S = (
    "vit_base_patch16_clip_quickgelu_224",
    "vit_large_patch14_clip_quickgelu_224",
    "vit_small_patch16_224",
)
COUNTS: list[tuple[str, dict[str, Any], str, int, int]] = [
    ("st_adapter", {}, CLIP_B, 8, 7_110_144),
    ("st_adapter", ST_BOTH, CLIP_B, 8, 14_220_288),
    ("st_adapter", {"bottleneck": 384}, CLIP_B, 16, 12 * 592_512),
    ("st_adapter", {}, VIT_S, 8, 1_785_600),
    ("aim", {}, CLIP_B, 8, 10_659_072),
    ("aim", {}, CLIP_B, 16, 10_665_216),
    ("aim", {}, CLIP_B, 32, 10_677_504),
    ("aim", {"temporal_adapters": 2, "scale": 1.0}, CLIP_B, 8, 14_209_536),
    ("aim", {}, CLIP_L, 8, 37_851_136),
    ("adaptformer", {"bottleneck": 64}, CLIP_B, 8, 1_189_632),
]


@pytest.mark.parametrize(("name", "options", "model", "frames", "count"), COUNTS, ids=str)
def test_counts(name: str, options: dict[str, Any], model: str, frames: int, count: int) -> None:
    with torch.device("meta"):
        backbone = of_clips(from_timm(timm.create_model(model, pretrained=False, num_classes=0)), frames)
        install(METHODS.get(name)(**options), backbone)
    assert sum(parameter.numel() for _, parameter in backbone.trainable) == count


@torch.no_grad()
def test_the_temporal_head_is_a_transformer_on_the_features_of_frames() -> None:
    built, bare = installed("temporal_head", "vit_cls", depth=2), make("vit_cls")
    clips = samples(built, 2).double()
    w = {name.removeprefix("over_frames."): tensor for name, tensor in built.named_parameters()}
    x = bare.double()(clips.flatten(0, 1)).view(2, FRAMES, WIDTH) + w["places"]
    for number in range(2):
        block = {name.removeprefix(f"blocks.{number}."): tensor for name, tensor in w.items()}
        x = x + attention(block, own_norm(block, "norm1", x))
        x = x + mlp(block, own_norm(block, "norm2", x))
    agree(built(clips), x.mean(dim=1))


def own_norm(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)


@torch.no_grad()
def test_the_temporal_shift_moves_channels_ahead_of_the_attention() -> None:
    backbone = installed("temporal_shift")
    x = torch.randn(2 * FRAMES, 17, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = tensors(backbone, 1)
    n = norm(w, "norm1", x).view(2, FRAMES, 17, WIDTH)
    shifted = n.clone()
    part = WIDTH // 8
    for frame in range(FRAMES):
        shifted[:, frame, :, :part] = n[:, frame + 1, :, :part] if frame + 1 < FRAMES else 0
        shifted[:, frame, :, part : 2 * part] = n[:, frame - 1, :, part : 2 * part] if frame else 0
    y = x + attention(w, shifted.flatten(0, 1))
    y = y + mlp(w, norm(w, "norm2", y))
    agree(backbone.net.blocks[1](x), y)  # type: ignore[index, operator]


@torch.no_grad()
def test_a_linear_head_on_averaged_features_averages_scores_over_frames() -> None:
    """The frame-average probe and temporal average pooling are one function."""
    built, bare = make("vit_cls" + OF_CLIPS), make("vit_cls")
    clips, head = samples(built, 2), nn.Linear(WIDTH, 5)
    torch.testing.assert_close(head(built(clips)), torch.stack([head(bare(clip)).mean(0) for clip in clips]))


def test_the_temporal_head_needs_the_features_of_every_frame() -> None:
    built = build_backbone(BackboneSpec(weights="none", frame_readout="mean_then_norm"), frames=3)
    with pytest.raises(NotApplicable, match=r"set backbone\.frame_readout=method"):
        install(METHODS.get("temporal_head")(), built)
