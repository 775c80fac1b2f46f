"""Transformers of tubelets: VideoMAE's layout and equations, what runs on them, and that clips keep apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.backbones.build import build_backbone, from_timm
from peftbench.backbones.options import BackboneSpec
from peftbench.backbones.tubelets import sine_table
from peftbench.backbones.weights import load_weights
from peftbench.contracts.backbones import OF_TIME, installed, make, samples
from peftbench.contracts.test_methods import check_gradients, fitting, loss_of, nudge, refusal
from peftbench.foundation.errors import ConfigError, NotApplicable
from peftbench.interventions import TokenGrid
from peftbench.methods.base import METHODS, install

TINY: dict[str, Any] = {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 3}
NAME = "vit_small_patch16_videomae_224"


def released(prefix: str = "encoder.") -> dict[str, Tensor]:
    """Random numbers under VideoMAE's names: no bias of the keys, a norm behind the blocks, a decoder."""
    shapes: dict[str, tuple[int, ...]] = {"patch_embed.proj.weight": (24, 3, 2, 16, 16), "patch_embed.proj.bias": (24,)}
    for layer in range(2):
        block = f"blocks.{layer}."
        shapes |= {block + f"attn.{name}_bias": (24,) for name in "qv"}
        shapes |= {block + "attn.qkv.weight": (72, 24)}
        for name, shape in (("attn.proj", (24, 24)), ("mlp.fc1", (96, 24)), ("mlp.fc2", (24, 96))):
            shapes |= {block + name + ".weight": shape, block + name + ".bias": shape[:1]}
        shapes |= {block + f"norm{i}.{kind}": (24,) for i in (1, 2) for kind in ("weight", "bias")}
    shapes |= {"norm.weight": (24,), "norm.bias": (24,)}
    random = torch.Generator().manual_seed(0)
    state = {prefix + name: torch.randn(shape, generator=random) / shape[-1] ** 0.5 for name, shape in shapes.items()}
    beside = {
        "decoder.blocks.0.attn.qkv.weight": (72, 24),
        "encoder_to_decoder.weight": (12, 24),
        "mask_token": (1, 12),
    }
    return state | {name: torch.randn(shape, generator=random) for name, shape in beside.items()}


def tiny(num_frames: int = 4) -> Any:
    return timm.create_model(NAME, num_classes=0, num_frames=num_frames, **TINY)


@torch.no_grad()
def test_a_release_is_read_and_gives_the_features_of_its_equations(tmp_path: Path) -> None:
    w = released()
    torch.save({"model": w}, tmp_path / "checkpoint.pth")
    net = tiny()
    words = load_weights(net, tmp_path / "checkpoint.pth")
    assert "under 'encoder.'" in words and words.endswith("fc_norm starts anew") and "decoder" in words
    w = {name.removeprefix("encoder."): tensor.double() for name, tensor in w.items()}
    backbone = from_timm(net).double().eval()
    clips = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = F.conv3d(clips.transpose(1, 2), w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=(2, 16, 16))
    # [batch, width, times, rows, columns]: time is the slowest axis of the sequence
    x = x.permute(0, 2, 3, 4, 1).reshape(2, 8, 24)
    place = np.arange(8)[:, None] / np.power(10000, 2 * (np.arange(24) // 2) / 24)
    table = np.where(np.arange(24) % 2 == 0, np.sin(place), np.cos(place))
    torch.testing.assert_close(sine_table(8, 24)[0].double(), torch.from_numpy(table), rtol=0, atol=1e-7)
    x = x + sine_table(8, 24).double()
    for layer in range(2):
        block = {name.removeprefix(f"blocks.{layer}."): tensor for name, tensor in w.items()}
        n = F.layer_norm(x, (24,), block["norm1.weight"], block["norm1.bias"], 1e-6)
        q, k, v = (n @ part.T for part in block["attn.qkv.weight"].chunk(3))
        q, v = q + block["attn.q_bias"], v + block["attn.v_bias"]
        q, k, v = (part.unflatten(-1, (3, 8)).transpose(1, 2) for part in (q, k, v))
        mixed = ((q * 8**-0.5) @ k.transpose(-1, -2)).softmax(-1) @ v
        x = x + F.linear(mixed.transpose(1, 2).flatten(2), block["attn.proj.weight"], block["attn.proj.bias"])
        n = F.layer_norm(x, (24,), block["norm2.weight"], block["norm2.bias"], 1e-6)
        hidden = F.gelu(F.linear(n, block["mlp.fc1.weight"], block["mlp.fc1.bias"]))
        x = x + F.linear(hidden, block["mlp.fc2.weight"], block["mlp.fc2.bias"])
    expected = F.layer_norm(x.mean(dim=1), (24,), eps=1e-6)
    torch.testing.assert_close(backbone(clips), expected, rtol=1e-12, atol=1e-12)


def test_the_layout_of_transformers_gives_the_same_tensors(tmp_path: Path) -> None:
    first, second = tiny(), tiny()
    w = released()
    torch.save({"model": w}, tmp_path / "release.pth")
    renamed: dict[str, Tensor] = {}
    for name, tensor in w.items():
        name = name.removeprefix("encoder.")
        if name.startswith("blocks.") and "attn.qkv" in name:
            start = "videomae.encoder.layer." + name.split(".")[1] + ".attention.attention."
            renamed |= {
                f"{start}{n}.weight": p for n, p in zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            }
            continue
        for old, new in (
            ("blocks.", "encoder.layer."),
            ("attn.proj", "attention.output.dense"),
            ("attn.", "attention.attention."),
            ("norm1", "layernorm_before"),
            ("norm2", "layernorm_after"),
            ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
            ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        ):
            name = name.replace(old, new)
        if not name.startswith(("decoder", "encoder_to", "mask", "norm")):
            renamed["videomae." + name] = tensor
    torch.save(renamed, tmp_path / "transformers.pth")
    load_weights(first, tmp_path / "release.pth")
    load_weights(second, tmp_path / "transformers.pth")
    for (name, one), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


COUNTS = [
    ("adaptformer", {"bottleneck": 64}, 1_189_632),
    ("adaptformer_video", {}, 1_189_632 + 1_536),
    ("vpt_deep", {"num_tokens": 1}, 9_216),
    ("vpt_video", {}, 9_216 + 1_536),
    ("bapat", {"bottleneck": 32, "adapter_bottleneck": 64}, 2_093_184),
]


@pytest.mark.parametrize(("name", "options", "count"), COUNTS, ids=str)
def test_counts_on_the_base_network(name: str, options: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        backbone = from_timm(timm.create_model("vit_base_patch16_videomae_224", num_classes=0))
        install(METHODS.get(name)(**options), backbone)
    assert backbone.shape.num_patches == 1_568 and (backbone.shape.frames, backbone.shape.times) == (16, 8)
    assert sum(parameter.numel() for _, parameter in backbone.trainable) == count


@pytest.mark.parametrize("name", METHODS.names())
@pytest.mark.parametrize("network", OF_TIME)
def test_every_method_runs_on_networks_of_clips_or_says_why_not(network: str, name: str) -> None:
    method, bare = fitting(name), make(network)
    if reason := refusal(method, make(network)):
        assert len(reason.split()) >= 4
        return
    built = installed(method, network).eval()
    clips = samples(bare, 3)
    with torch.no_grad():
        if not method.pools_itself:
            before, after = bare(clips), built(clips)
            same = before.shape == after.shape and torch.allclose(after, before, rtol=1e-5, atol=1e-5)
            assert same == method.identity_at_init
        nudge(built)
        torch.testing.assert_close(built(clips[[2, 0, 1]]), built(clips)[[2, 0, 1]], rtol=1e-4, atol=1e-5)
        other = torch.cat([clips[:1], -clips[1:]])
        torch.testing.assert_close(built(other)[0], built(clips)[0], rtol=1e-4, atol=1e-5)
    if built.trainable:
        loss_of(built).backward()
        check_gradients(built, method.inert(built))


def test_methods_across_folded_frames_are_refused_and_most_others_are_not() -> None:
    refused = {name for name in METHODS.names() if refusal(fitting(name), make("vit_tubelets"))}
    across = {name for name in METHODS.names() if METHODS.get(name).mixes_time}
    assert across <= refused
    # and methods of pairs of towers, which this is not
    assert {"dtl", "dtl_plus", "hst", "vapt", "vit_adapter"} <= refused
    assert not refused & {
        "linear",
        "lora",
        "ssf",
        "bitfit",
        "adaptformer",
        "convpass",
        "mona",
        "vpt_deep",
        "prefix",
        "lst",
    }
    with pytest.raises(NotApplicable, match="takes clips as a whole"):
        install(METHODS.get("st_adapter")(), make("vit_tubelets"))


@torch.no_grad()
def test_the_order_of_frames_matters_to_the_network_itself() -> None:
    backbone = make("vit_tubelets")
    clips = samples(backbone, 2)
    assert not torch.allclose(backbone(clips), backbone(clips[:, [2, 3, 0, 1]]), atol=1e-4)
    with pytest.raises(ValueError, match=r"clips \[batch, 4, 3, height, width\]"):
        backbone(clips[:, :2])


@torch.no_grad()
def test_feature_maps_of_tubelets_are_taken_step_by_step() -> None:
    backbone = make("vit_tubelets")
    grid = TokenGrid.of_times(backbone.shape)
    tokens = torch.randn(2, 2 * 16, 5, generator=torch.Generator().manual_seed(0))
    conv = nn.Conv2d(5, 5, 3, padding=1)
    found = grid.apply(conv, tokens)
    for step in range(2):
        part = slice(16 * step, 16 * (step + 1))
        maps = tokens[:, part].transpose(1, 2).reshape(2, 5, 4, 4)
        torch.testing.assert_close(found[:, part], conv(maps).flatten(2).transpose(1, 2))
    with pytest.raises(NotApplicable, match="as one feature map"):
        TokenGrid.of(backbone.shape)


def test_the_video_forms_put_a_batch_norm_between_features_and_head() -> None:
    backbone: Backbone = installed(METHODS.get("adaptformer_video")(), "vit_tubelets").train()
    features = backbone(samples(backbone, 6))
    torch.testing.assert_close(features.mean(dim=0), torch.zeros(48), rtol=0, atol=1e-5)
    torch.testing.assert_close(features.var(dim=0, unbiased=False), torch.ones(48), rtol=1e-3, atol=1e-3)
    # the transformer's own start comes behind the adapters' in the released network of clips
    branch: Any = backbone.sites("block")[0].module.taps[0]
    for linear in (branch.down, branch.up):
        assert 0.018 < float(linear.weight.detach().std()) < 0.022 and not linear.bias.any()
    prompts: Any = installed(METHODS.get("vpt_video")(num_tokens=3), "vit_tubelets").sites("block")[0].module
    assert prompts.tokens.shape == (1, 3, 48)
    # xavier on [1, p, D] sees p D and D connections
    assert prompts.tokens.abs().max() <= (6 / (3 * 48 + 48)) ** 0.5 and prompts.dropout.p == 0


def test_what_does_not_fit_is_said() -> None:
    spec = BackboneSpec(model=NAME, weights="none", img_size=32)
    with pytest.raises(NotApplicable, match="is a network of clips; this data has images"):
        build_backbone(spec)
    with pytest.raises(ConfigError, match=r"dataset\.frames=5: tubelets are of 2 frames"):
        build_backbone(spec, frames=5)
    with pytest.raises(ConfigError, match=r"frame_readout=mean_then_norm: .* has no features of frames"):
        build_backbone(BackboneSpec(model=NAME, weights="none", frame_readout="mean_then_norm"), frames=4)
    built = build_backbone(spec, frames=6)
    assert built.sample_shape == (6, 3, 32, 32) and built.shape.times == 3 and built.shape.family == "vit"
