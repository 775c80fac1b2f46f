"""Weights: reading a checkpoint safely, fitting it to the model, and saying clearly what does not fit."""

from __future__ import annotations

import importlib
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn

from peftbench.backbones.checkpoint import first_line, read_checkpoint, refuse_bomb
from peftbench.backbones.layouts import find_state
from peftbench.backbones.options import BackboneSpec
from peftbench.backbones.tubelets import VideoTransformer
from peftbench.foundation.connection import offline_reason
from peftbench.foundation.errors import BadInput, ConfigError, MissingInput

HEAD_NAMES = ("head", "head_dist", "fc", "classifier", "pre_logits")


def load_weights(net: nn.Module, path: Path, ema: bool = True) -> str:
    """Load `path` into a timm model without classifier; returns in words how it was read and what was left out.

    The layout is recognised (`layouts.find_state`); `ema` takes a moving average where the file has one. Position
    embeddings and patch kernels are resampled to the model's size by timm's own filter. Missing and unexpected tensors
    are errors, except those of a classifier. Raises `BadInput` naming the first of them.
    """
    if path.suffix == ".npz":
        _load_npz(net, path)
        return "layout of the JAX release"
    try:
        found = find_state(read_checkpoint(path), net, ema)
    except BadInput as error:
        raise error if str(path) in str(error) else BadInput(f"{path}: {error}") from None
    words = found.words
    state = resampled(net, found.state, f"{path} ({words})")
    words += _on_kernels(found.state, state)
    pooled = any(name.startswith("attn_pool.") for name in net.state_dict())
    unused = {name for name in state if is_head(name) or (name.startswith("attn_pool.") and not pooled)}
    left_out = {name.split(".")[0] for name in unused} | set(found.left_out)
    anew = "; fc_norm starts anew" if isinstance(net, VideoTransformer) and "fc_norm.weight" not in found.state else ""
    state = {name: tensor for name, tensor in state.items() if name not in unused}
    _check(net, state, path, words)
    net.load_state_dict(state, strict=False)
    return words + (f"; left out: {', '.join(sorted(left_out))}" if left_out else "") + anew


def resampled(net: nn.Module, state: Mapping[str, Tensor], file: str) -> Mapping[str, Tensor]:
    """A state whose position embeddings and patch kernels have the model's size, by timm's own filter.

    Raises `BadInput`, which names the `file`, for tensors that cannot be made to fit.
    """
    filter_fn = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    try:
        filtered: Mapping[str, Tensor] = state if filter_fn is None else filter_fn(dict(state), net)
    except (RuntimeError, AttributeError, KeyError, ValueError, TypeError) as error:
        raise BadInput(
            f"{file} does not fit {type(net).__name__} ({first_line(error)}); check backbone.model"
        ) from error
    return filtered


def _on_kernels(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> str:
    """In words where patches are of another size than the file's: that is the network of another paper."""
    # timm's filter renames as well: the kernel is what reads three colours
    kernels = (tensor for tensor in before.values() if tensor.ndim == 4 and tensor.shape[1] == 3)
    sizes = [tuple(kernel.shape[2:]) for kernel in (next(kernels, None), after.get(_KERNEL)) if kernel is not None]
    if [len(size) for size in sizes] != [2, 2] or sizes[0] == sizes[1]:
        return ""
    was, now = ("x".join(map(str, size)) for size in sizes)
    return f", its patches of {was} pixels resampled to {now} (is backbone.model this file's?)"


_KERNEL = "patch_embed.proj.weight"
# what the shapes of a network follow from
_SIZES = "backbone.model and backbone.img_size"


def _check(net: nn.Module, state: Mapping[str, Tensor], path: Path, words: str) -> None:
    """Raises `BadInput` for tensors that are missing, too many, of another shape, or no real finite numbers."""
    own = net.state_dict()
    missing = [name for name in own if name not in state and not is_head(name)]
    unexpected = [name for name in state if name not in own]
    if missing or unexpected:
        parts = [f"{len(missing)} tensors missing ({_some(missing)})"] if missing else []
        parts += [f"{len(unexpected)} not of this model ({_some(unexpected)})"] if unexpected else []
        raise BadInput(
            f"{path} ({words}) is not a checkpoint of this backbone: {'; '.join(parts)}; check backbone.model"
        )
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            there, here = list(tensor.shape), list(own[name].shape)
            raise BadInput(f"{path} ({words}): {name} is {there}, this backbone's {here}; check {_SIZES}")
        if own[name].is_floating_point() and not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise BadInput(f"{path}: {name} holds {kind} numbers, no weights; unpack a quantised file first")
        if own[name].is_floating_point() and not bool(tensor.isfinite().all()):
            raise BadInput(f"{path}: {name} holds NaN or infinite numbers; the file is damaged or training diverged")


def is_head(name: str) -> bool:
    """Whether a tensor, under timm's name, is part of a classifier."""
    return name.split(".")[0] in HEAD_NAMES and not name.startswith("head.norm")


def _load_npz(net: Any, path: Path) -> None:
    if not zipfile.is_zipfile(path):
        raise BadInput(f"{path} is not an .npz archive; is the download complete?")
    if not hasattr(net, "load_pretrained"):
        raise ConfigError([f"backbone.checkpoint: timm reads no .npz for {type(net).__name__}"])
    refuse_bomb(path)
    before = {name: tensor.detach().clone() for name, tensor in net.named_parameters()}
    try:
        net.load_pretrained(str(path))
    except (KeyError, ValueError, RuntimeError, AssertionError) as error:
        raise BadInput(f"{path} is not in timm's JAX layout for this model: {first_line(error)}") from error
    untouched = [
        name
        for name, tensor in net.named_parameters()
        if torch.equal(before[name], tensor) and not is_head(name) and tensor.ndim > 1
    ]
    if untouched:
        raise BadInput(f"{path} left {len(untouched)} tensors untouched ({_some(untouched)}); check backbone.model")


def load_from_timm(model: str, arguments: dict[str, Any], spec: BackboneSpec) -> nn.Module:
    """The model with weights fetched by timm. Raises `MissingInput` where they can neither be found nor downloaded."""
    timm = importlib.import_module("timm")
    if not timm.is_model_pretrained(model):
        raise ConfigError(
            [f"timm has no weights for backbone.model={model}; set backbone.checkpoint or backbone.weights=none"]
        )
    config = timm.get_pretrained_cfg(model)
    if not _is_cached(config.hf_hub_id) and (reason := offline_reason()):
        count = sum(p.numel() for p in timm.create_model(model, pretrained=False, **arguments).parameters())
        where = f"hf download {config.hf_hub_id} model.safetensors" if config.hf_hub_id else f"curl -LO {config.url}"
        raise MissingInput(
            f"the weights of {spec.title} ({model}, about {count * 4 / 1e6:.0f} MB) are not here and cannot be "
            f"downloaded ({reason}). On a machine with a network run `{where}`, then set "
            "backbone.checkpoint=<that file>.",
            instead="backbone=vit_micro needs no download.",
            same_line=True,
        )
    net: nn.Module = timm.create_model(model, pretrained=True, **arguments)
    return net


def _is_cached(hub_id: str | None) -> bool:
    if not hub_id:
        return False
    return any(
        isinstance(try_to_load_from_cache(hub_id, name), str) for name in ("model.safetensors", "pytorch_model.bin")
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
