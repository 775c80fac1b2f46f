"""Video Swin: torchvision's function and weights, the authors' names, the paper's counts, and BAPAT in its form."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.video.swin_transformer import SwinTransformer3d

from peftbench.backbones.build import from_timm
from peftbench.backbones.weights import load_weights
from peftbench.contracts.backbones import VIDEO_SWIN, installed, make, samples
from peftbench.contracts.test_methods import fitting, nudge
from peftbench.methods.base import METHODS, install

NAME = "swin3d_tiny_patch244_window877"


def theirs() -> SwinTransformer3d:
    sizes = {name: VIDEO_SWIN[name] for name in ("embed_dim", "depths", "num_heads", "window_size")}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SwinTransformer3d(
            [2, 4, 4], num_classes=5, **{k: v if k == "embed_dim" else list(v) for k, v in sizes.items()}
        )
        for tensor in net.parameters():
            torch.nn.init.normal_(tensor, std=0.2)
    return net.eval()


def released(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the authors' names."""
    renamed = {}
    for name, tensor in state.items():
        name = re.sub(r"^features\.(\d+)\.(?=\d)", lambda m: f"layers.{int(m[1]) // 2}.blocks.", name)
        name = re.sub(r"^features\.(\d+)\.(?=norm|red)", lambda m: f"layers.{int(m[1]) // 2}.downsample.", name)
        name = name.replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")
        renamed["cls_head.fc_cls." + name[5:] if name.startswith("head.") else "backbone." + name] = tensor
    return renamed


@pytest.mark.parametrize(("frames", "size"), [(8, 32), (5, 32), (3, 24)], ids=str)
@pytest.mark.parametrize("layout", ["torchvision", "authors"])
@torch.no_grad()
def test_weights_and_function_are_torchvisions(layout: str, frames: int, size: int, tmp_path: Path) -> None:
    """Windows that are shifted in time and space, padded, and larger than what they are laid over."""
    reference = theirs()
    state = reference.state_dict()
    torch.save(state if layout == "torchvision" else {"state_dict": released(state)}, tmp_path / "x.pth")
    net = timm.create_model(NAME, num_classes=0, **(VIDEO_SWIN | {"num_frames": frames, "img_size": size}))
    assert "left out: " in load_weights(net, tmp_path / "x.pth")
    backbone = from_timm(net, size).double().eval()
    clips = torch.randn(2, frames, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    reference.head = torch.nn.Identity()  # type: ignore[assignment]
    expected = reference.double()(clips.transpose(1, 2))
    torch.testing.assert_close(backbone(clips), expected, rtol=1e-10, atol=1e-10)
    # with attention written out for hooks
    install(METHODS.get("patt")(zero_up=True), backbone)
    torch.testing.assert_close(backbone.double().eval()(clips), expected, rtol=1e-10, atol=1e-10)


COUNTS = [
    ("patt", {"bottleneck": 128}, 4_647_424),
    ("adaptformer", {"bottleneck": 64}, 1_553_664),
    ("bapat", {"bottleneck": 128, "adapter_bottleneck": 64, "reads": "normed"}, 6_201_088),
]


@pytest.mark.parametrize(("name", "options", "count"), COUNTS, ids=str)
def test_counts_on_the_base_network(name: str, options: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        backbone = from_timm(timm.create_model("swin3d_base_patch244_window877", num_classes=0))
        install(METHODS.get(name)(**options), backbone)
    assert sum(parameter.numel() for _, parameter in backbone.trainable) == count


@torch.no_grad()
def test_bapat_in_its_form_for_video_is_part_of_the_mlp() -> None:
    options = {"bottleneck": 6, "scale": 0.8, "adapter_bottleneck": 5, "adapter_scale": 0.1, "reads": "normed"}
    backbone = nudge(installed(METHODS.get("bapat")(**options), "video_swin")).double().eval()
    block: Any = backbone.sites("block")[0].module
    x = torch.randn(2, 4, 8, 8, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inner, branch, hook = block.base, block.taps[0], block.base.attn.hooks[0]
    n = inner.norm1(x)
    # windows of 2 x 4 x 4, the first block's without a shift
    windows = n.view(2, 2, 2, 2, 4, 2, 4, 24).permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(16, 32, 24)
    q, k, v = inner.attn.base.qkv(windows).chunk(3, dim=-1)
    added_k, added_v = (0.8 * hook.up(torch.tanh(hook.down(windows)))).chunk(2, dim=-1)
    q, k, v = (part.unflatten(-1, (2, 12)).transpose(1, 2) for part in (q, k + added_k, v + added_v))
    scores = (q * 12**-0.5) @ k.transpose(-1, -2) + inner.attn.base._get_rel_pos_bias()
    mixed = inner.attn.base.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    y = x + mixed.view(2, 2, 2, 2, 2, 4, 4, 24).permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(x.shape)
    n = inner.norm2(y)
    y = y + inner.mlp(n) + 0.1 * branch.up(F.relu(branch.down(n)))
    torch.testing.assert_close(block(x), y, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_the_order_of_frames_matters_and_clips_keep_apart() -> None:
    backbone = make("video_swin")
    clips = samples(backbone, 2)
    assert backbone.shape.times == 4 and backbone.shape.grid == (8, 8)
    assert not torch.allclose(backbone(clips), backbone(clips.flip(1)), atol=1e-4)
    torch.testing.assert_close(backbone(torch.cat([clips[:1], -clips[1:]]))[0], backbone(clips)[0])


def test_a_method_knows_its_inert_tensors_by_place_and_not_by_name() -> None:
    """The MLP's second linear is called `mlp.3` here: KARST's shift behind it changes nothing, as behind fc2."""
    method = fitting("karst")
    backbone = installed(method, "video_swin")
    declared = set(method.inert(backbone))
    shifts = {name for name, _ in backbone.trainable if name.endswith((".proj.shift", ".mlp.3.shift"))}
    assert len(shifts) == 2 * len(backbone.shape.at("block")) and declared == shifts
