"""From a BackboneSpec to a Backbone with its weights in place."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import timm
import torch
from torch import nn

import peftbench.backbones.convnext_micro
import peftbench.backbones.sam_micro
import peftbench.backbones.swin_micro
import peftbench.backbones.vit_micro  # noqa: F401  they register the embedded models with timm
from peftbench.backbones import tubelets, video_swin
from peftbench.backbones.base import Backbone, InputSpec
from peftbench.backbones.families import shape_of, sites_of, translator
from peftbench.backbones.frames import FrameFolded
from peftbench.backbones.fused import fuse
from peftbench.backbones.options import BackboneSpec
from peftbench.backbones.pair import Pair
from peftbench.backbones.pair_weights import load_pair
from peftbench.backbones.rotary import keep_angles
from peftbench.backbones.source import weights_files, writer_files
from peftbench.backbones.t5 import build_t5
from peftbench.backbones.text import build_text
from peftbench.backbones.text_options import TEXTS
from peftbench.backbones.tokenizers import tokenizer_of
from peftbench.backbones.tubelets import Tubelets, VideoTransformer
from peftbench.backbones.video_swin import VideoSwin
from peftbench.backbones.vl_t5 import VLT5
from peftbench.backbones.weights import load_from_timm, load_weights
from peftbench.foundation.errors import ConfigError, NotApplicable, did_you_mean
from peftbench.foundation.plugins import load_plugins


def build_backbone(spec: BackboneSpec, drop_path: float = 0.0, frames: int = 1) -> Backbone:
    """The backbone of a cell, frozen, in fp32, on the CPU; of images, or of clips of that many `frames`.

    Raises `ConfigError` for an unknown model or an impossible size, `NotApplicable` for a family that is not
    supported, `MissingInput` and `BadInput` for weights.
    """
    if spec.writer:
        config, weights, *_, vocabulary = writer_files(spec)
        image = build_backbone(replace(spec, writer=None, vocabulary=None), drop_path, frames)
        return VLT5(image, build_t5(config, weights, vocabulary))
    if spec.text:
        return _pair(spec, drop_path, frames)
    arguments = _arguments(spec) | {"drop_path_rate": drop_path}
    if is_of_clips(spec.model):
        if frames == 1:
            raise NotApplicable(f"{spec.model} is a network of clips; this data has images (dataset=moving_shapes)")
        arguments["num_frames"] = frames
    try:
        if spec.source == "timm":
            net = load_from_timm(spec.model, arguments, spec)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                net = timm.create_model(spec.model, pretrained=False, **arguments)
    except AssertionError as error:
        raise ConfigError([f"backbone.img_size={spec.img_size} does not fit {spec.model}: {error}"]) from error
    # before the translation, which changes the layout of some networks
    paths = weights_files(spec)
    read = load_weights(net, paths[0], spec.ema) if paths else None
    if is_of_clips(spec.model) and spec.frame_readout != "method":
        raise ConfigError([f"backbone.frame_readout={spec.frame_readout}: {spec.model} has no features of frames"])
    if frames == 1 and spec.frame_readout != "method":
        raise ConfigError([f"backbone.frame_readout={spec.frame_readout} speaks of clips, and this data has images"])
    backbone = from_timm(net, spec.img_size, frames, spec.frame_readout)
    patch = backbone.shape.patch_size
    if spec.img_size is not None and spec.img_size % patch:
        # timm would silently leave out the pixels behind the last whole patch
        near = max(spec.img_size // patch, 1) * patch
        message = (
            f"backbone.img_size={spec.img_size} is not a multiple of {spec.model}'s patch size {patch}; try {near}"
        )
        raise ConfigError([message])
    stride = _stride(net, backbone)
    if backbone.input_spec.size < stride:
        # torch would say that a kernel is larger than its input
        message = f"backbone.img_size={spec.img_size} is too small for {spec.model}, which divides it by {stride}"
        raise ConfigError([f"{message}; try {stride}"])
    if read is not None:
        backbone.weights_read, backbone.weights_path = read, paths[0]
    return backbone


def is_of_clips(model: str) -> bool:
    """Whether a model of that name takes clips as a whole and not frame by frame."""
    return model.partition(".")[0] in (*tubelets.MODELS, *video_swin.MODELS)


def own_frames(net: nn.Module) -> int | None:
    """How many frames a network of clips was built for; None for one of images."""
    return net.num_frames if isinstance(net, (VideoTransformer, VideoSwin)) else None


def _pair(spec: BackboneSpec, drop_path: float, frames: int) -> Pair:
    """Both towers of a pair, from one file."""
    image = build_backbone(replace(spec, text="", weights="none", checkpoint=None), drop_path, frames)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = build_text(TEXTS[spec.text])
        paths = weights_files(spec)
        pair = Pair(image, text, tokenizer_of(text.spec, spec.vocabulary, paths))
    if paths:
        pair.weights_read = load_pair(pair, paths[0], spec.ema)
    return pair


def _stride(net: Any, backbone: Backbone) -> int:
    """By how much the last stage of a convolutional family divides the image; 1 where timm itself checks the size."""
    return int(net.feature_info[-1]["reduction"]) if backbone.shape.family == "convnext" else 1


def _arguments(spec: BackboneSpec) -> dict[str, Any]:
    """What timm's `create_model` is told. Raises `ConfigError` with the nearest names for an unknown model.

    Raises `NotApplicable` for a family that is not supported.
    """
    load_plugins()  # which may register models with timm
    known = timm.list_models() + timm.list_pretrained()
    if spec.model not in known:
        raise ConfigError([f"backbone.model '{spec.model}' is not a timm model{did_you_mean(spec.model, known)}"])
    _refuse_other_families(spec.model)
    arguments: dict[str, Any] = {"num_classes": 0}
    if spec.img_size is not None and "convnext" not in spec.model:
        arguments["img_size"] = spec.img_size
    return arguments


@lru_cache
def _refuse_other_families(model: str) -> None:
    """Raises `NotApplicable` before anything is asked of a model that no translator knows, its weights above all."""
    try:
        with torch.device("meta"):
            net = timm.create_model(model, pretrained=False, num_classes=0)
    except (RuntimeError, NotImplementedError):
        # it computes with numbers while it is built
        net = timm.create_model(model, pretrained=False, num_classes=0)
    translator(net)


def input_spec(spec: BackboneSpec) -> InputSpec:
    """What the backbone of a cell expects of an image, without its weights."""
    with torch.device("meta"):
        net = timm.create_model(spec.model, pretrained=False, **_arguments(spec))
    return _input_spec(net, spec.img_size)


def from_timm(net: nn.Module, img_size: int | None = None, frames: int = 1, frame_readout: str = "method") -> Backbone:
    """Wrap any supported timm model (built with `num_classes=0`) as a frozen Backbone.

    With `frames` above 1 it is given clips of that many frames (see `frames.FrameFolded`); a network of clips was built
    for as many. Image statistics come from the model's pretrained configuration.
    """
    own = own_frames(net)
    frames = own or frames
    fuse(net)
    keep_angles(net)
    family, sites = sites_of(net)
    shape, expects = replace(shape_of(net, family, sites), frames=frames), _input_spec(net, img_size)
    backbone = Backbone(net, shape, sites, expects)
    if own is not None:
        backbone = Tubelets(net, shape, sites, expects)
    elif frames > 1:
        backbone = FrameFolded(net, shape, sites, expects, frame_readout=frame_readout)
    backbone.freeze()
    return backbone


def _input_spec(net: Any, img_size: int | None) -> InputSpec:
    config = net.pretrained_cfg
    size = img_size or getattr(getattr(net, "patch_embed", None), "img_size", (config["input_size"][-1],))[-1]
    interpolation = config.get("interpolation") or "bicubic"
    return InputSpec(int(size), tuple(config["mean"]), tuple(config["std"]), interpolation)
