"""Tiny timm models without weights, one for each feature of a backbone that a method can trip over."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import timm
import torch
from torch import Tensor

from peftbench.backbones.base import Backbone
from peftbench.backbones.build import from_timm
from peftbench.backbones.frames import FrameFolded
from peftbench.backbones.maps import feature_maps, of_each_task, serve, taps_of
from peftbench.backbones.pair import Pair
from peftbench.backbones.text import build_text
from peftbench.backbones.text_options import TextSpec
from peftbench.backbones.tokenizers import micro_words
from peftbench.cells.evidence import random_evidence
from peftbench.data.templates import PLAIN
from peftbench.foundation.seeding import seeded
from peftbench.methods.base import Method, install
from peftbench.methods.observation import Findings

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}
SWIN = {"img_size": 32, "window_size": 4, "embed_dim": 24, "num_heads": (2, 4)}
VIDEO_SWIN: dict[str, Any] = {
    "img_size": 32,
    "num_frames": 8,
    "embed_dim": 24,
    "depths": (2, 1),
    "num_heads": (2, 4),
    "window_size": (2, 4, 4),
}
CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}


def _build(model: str, **arguments: Any) -> Backbone:
    return from_timm(randomised(timm.create_model(model, pretrained=False, num_classes=0, **arguments)), img_size=32)


@torch.no_grad()
def randomised(net: torch.nn.Module) -> torch.nn.Module:
    """Every parameter drawn anew: ones and zeros (norms, biases, scales) would hide a wrong order or a lost term."""
    generator = torch.Generator().manual_seed(7)
    for tensor in net.parameters():
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim == 1:
            tensor.add_(0.2 * noise)
        else:
            tensor.copy_(noise / tensor[0].numel() ** 0.5)
    return net.eval()


# The features of each: a class token; average pooling; register tokens without position; LayerScale; norms on
# queries and keys; two prefix tokens; a norm before the blocks and a patch embedding without bias; rotary embeddings
# behind five prefix tokens, without a bias in qkv (DINOv3); queries, keys and values apart, a gated MLP with a norm
# inside (EVA-02); relative positions and biases of queries and values apart (BEiT); shifted
# windows and a merging step; maps with linears; maps with 1 x 1 convolutions.
BUILDERS: dict[str, Callable[[], Backbone]] = {
    "vit_cls": lambda: _build("vit_tiny_patch16_224", **VIT),
    "vit_avg": lambda: _build("vit_tiny_patch16_224", **VIT, class_token=False, global_pool="avg"),
    "vit_registers": lambda: _build("vit_tiny_patch16_224", **VIT, reg_tokens=2, no_embed_class=True),
    "vit_layerscale": lambda: _build("vit_tiny_patch16_224", **VIT, init_values=0.1),
    "vit_qknorm": lambda: _build("vit_tiny_patch16_224", **VIT, qk_norm=True),
    "vit_distilled": lambda: _build("deit_tiny_distilled_patch16_224", **VIT),
    "vit_prenorm": lambda: _build("vit_base_patch16_clip_224", **VIT),
    "eva_rope": lambda: _build("vit_small_patch16_dinov3", **VIT),
    "eva_split": lambda: _build("eva02_base_patch16_clip_224", **VIT),
    "beit": lambda: _build("beit_base_patch16_224", **VIT),
    "swin": lambda: _build("swin_tiny_patch4_window7_224", **SWIN, depths=(2, 1)),
    "convnext": lambda: _build("convnext_tiny", **CONVNEXT),
    "convnext_conv_mlp": lambda: _build("convnext_tiny", **CONVNEXT, conv_mlp=True),
}

# The same families with other widths and depths: a count that fits one shape by chance does not fit two.
OTHER_SHAPES: dict[str, Callable[[], Backbone]] = {
    "vit_cls": lambda: _build(
        "vit_tiny_patch16_224", img_size=32, patch_size=16, embed_dim=32, depth=2, num_heads=2, mlp_ratio=3
    ),
    "swin": lambda: _build("swin_tiny_patch4_window7_224", **(SWIN | {"embed_dim": 16}), depths=(1, 2)),
    "convnext": lambda: _build("convnext_tiny", depths=(1, 2, 1, 1), dims=(8, 12, 16, 20)),
}

# Twelve blocks, for methods whose defaults name the sizes of a published network block by block.
TWELVE_BLOCKS: dict[str, Callable[[], Backbone]] = {
    "vit_twelve": lambda: _build("vit_tiny_patch16_224", **(VIT | {"depth": 12})),
}

# Networks that take clips as a whole: tubelets of 2 x 8 x 8 of four frames, in two steps of time; windows of 2 x 4 x 4
# in four steps, shifted in time and space.
OF_TIME: dict[str, Callable[[], Backbone]] = {
    "vit_tubelets": lambda: _build("vit_small_patch16_videomae_224", **VIT, num_frames=4),
    "video_swin": lambda: _build("swin3d_tiny_patch244_window877", **VIDEO_SWIN),
}

# A pair of towers that has read the names of five classes, for methods of pairs.
PAIR, PAIR_OF_TWELVE = "pair", "pair_of_twelve"


def _pair(image: str, width: int, depth: int, joint: int) -> Backbone:
    spec = TextSpec(width, depth, 2, joint, 24, 76, "quick_gelu", tokenizer="words", start=1, end=75)
    net = make(image) if image in BUILDERS | TWELVE_BLOCKS else OTHER_SHAPES["vit_cls"]()
    pair = Pair(net, build_text(spec), micro_words())
    with torch.no_grad():
        for part in (pair.text, pair.image_projection, pair.text_projection):
            randomised(part)
        pair.match.logit_scale.fill_(1.0)  # type: ignore[operator, union-attr]
    pair.read_classes(("red circle", "blue star", "three", "drop", "green_ring"), PLAIN)
    return pair.eval()


# Any image network under clips, or under several tasks: its name with this behind it.
OF_CLIPS, OF_TASKS = "_of_clips", "_of_tasks"
FRAMES, TASKS = 3, 2

PAIRS: dict[str, Callable[[], Backbone]] = {
    PAIR: lambda: _pair("vit_cls", 32, 2, 64),
    PAIR_OF_TWELVE: lambda: _pair("vit_twelve", 32, 12, 64),
}
OTHER_SHAPES[PAIR] = lambda: _pair("vit_cls other", 16, 3, 20)
_template = cache(lambda name: (BUILDERS | TWELVE_BLOCKS | OF_TIME | PAIRS)[name]())


def make(name: str) -> Backbone:
    """A fresh copy of a tiny backbone: frozen, in eval mode, the same tensors every time."""
    backbone = copy.deepcopy(_template(name.removesuffix(OF_CLIPS).removesuffix(OF_TASKS))).eval()
    if name.endswith(OF_TASKS):
        return of_tasks(backbone)
    return of_clips(backbone) if name.endswith(OF_CLIPS) else backbone


def of_clips(backbone: Backbone, frames: int = FRAMES) -> Backbone:
    """The same network for clips of that many frames."""
    shape = replace(backbone.shape, frames=frames)
    return FrameFolded(backbone.net, shape, backbone.all_sites, backbone.input_spec).train(backbone.training)


class MapsOfTasks(Backbone):
    """images [batch, 3, height, width] -> all maps of every task, flat: [tasks * batch, numbers]."""

    def forward(self, images: Tensor) -> Tensor:
        maps = feature_maps(self, (images,), taps_of(self, len(self.shape.tapped)).layers)
        tasks = of_each_task(maps, self.shape.tasks, len(images))
        return torch.cat([torch.cat([found.flatten(1) for found in own], dim=1) for own in tasks])


def of_tasks(backbone: Backbone, tasks: int = TASKS, num_maps: int = 2) -> Backbone:
    """The same network for several tasks that read its maps, which are its features."""
    built = MapsOfTasks(backbone.net, backbone.shape, backbone.all_sites, backbone.input_spec)
    serve(built, tasks, num_maps)
    return built.train(backbone.training)


def suited(method: type[Method], backbone: str) -> str:
    """The backbone of that name that the method works on: of clips where it mixes time, a pair where it needs one, of
    tasks where it tells them apart.
    """
    if method.of_pairs:
        return {"vit_cls": PAIR, "vit_twelve": PAIR_OF_TWELVE}.get(backbone, backbone)
    if method.by_task:
        return backbone + OF_TASKS
    return backbone + OF_CLIPS if method.mixes_time else backbone


def images(count: int = 4) -> Tensor:
    """Random images [count, 3, 32, 32], the same at every call."""
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def samples(backbone: Backbone, count: int = 4, size: int | None = None, seed: int = 3) -> Tensor:
    """What the backbone takes: random images [count, 3, size, size], or clips [count, frames, 3, size, size]."""
    *frames, channels, own, _ = backbone.sample_shape
    shape = (count, *frames, channels, size or own, size or own)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# What a method that looks at images first found on a backbone of this module; looking once is enough.
_found: dict[tuple[str, str], Findings] = {}


def look(method: Method, backbone: Backbone) -> Findings | None:
    """What `method` sees in random images of random classes on `backbone`; None for a method that does not look."""
    if not method.looks_first:
        return None
    with seeded(0, "observe"):
        return method.observe(random_evidence(backbone))


def findings(method: Method, backbone: str) -> Findings | None:
    key = repr(method), backbone
    if method.looks_first and key not in _found:
        _found[key] = look(method, make(backbone)) or {}
    return _found.get(key)


def installed(method: Method, backbone: str, seed: int = 0) -> Backbone:
    """A fresh copy of a tiny backbone with `method`, whether it looks at images first or not."""
    built = make(backbone)
    install(method, built, seed, findings(method, backbone))
    return built
