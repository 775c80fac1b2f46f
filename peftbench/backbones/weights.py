"""Weights: reading a checkpoint safely, fitting it to the model, and saying clearly what does not fit."""

from __future__ import annotations

import importlib
import sys
import zipfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors.torch import load_file
from torch import Tensor, nn

from peftbench.backbones.options import BackboneSpec
from peftbench.foundation.connection import offline_reason
from peftbench.foundation.digests import file_digest
from peftbench.foundation.errors import BadInput, ConfigError, MissingInput

HEAD_NAMES = ("head", "head_dist", "fc", "classifier", "pre_logits")


def embedded_file() -> Path:
    """The packaged weights of `vit_micro`."""
    return Path(str(files("peftbench") / "assets" / "vit_micro.safetensors"))


def weights_file(spec: BackboneSpec) -> Path | None:
    """The file the weights will be read from, or None when timm fetches them or there are none.

    Raises `MissingInput` when a named file is not there.
    """
    if spec.source == "embedded":
        return embedded_file()
    if spec.source != "checkpoint":
        return None
    path = Path(str(spec.checkpoint)).expanduser()
    if not path.is_file():
        hint = f" {spec.download}" if spec.download else ""
        raise MissingInput(f"backbone.checkpoint={spec.checkpoint} is not a file.{hint}")
    return path


def weights_id(spec: BackboneSpec) -> str:
    """What identifies the weights in a cell's fingerprint: a file's digest, or timm's name for them.

    Cheap enough to run before a cell is planned; builds no model.
    """
    path = weights_file(spec)
    if path is not None:
        return f"sha256:{file_digest(path)}"
    return f"timm:{spec.model}" if spec.source == "timm" else "none"


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors or .pth file. Never unpickles anything but tensors; raises `BadInput`."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # every reader has its own errors for a damaged file
        raise BadInput(f"{path} cannot be read as a checkpoint ({_first_line(error)}); is it complete?") from error
    if not isinstance(state, dict):
        raise BadInput(f"{path} holds a {type(state).__name__}, not a dictionary of tensors")
    for key in ("model", "state_dict", "teacher"):
        if isinstance(state.get(key), dict):
            state = state[key]
    return state


def load_weights(net: nn.Module, path: Path) -> None:
    """Load `path` into a timm model without classifier.

    Position embeddings and patch kernels are resampled to the model's size by timm's own filter. Missing and
    unexpected tensors are errors, except those of a classifier. Raises `BadInput` naming them.
    """
    if path.suffix == ".npz":
        _load_npz(net, path)
        return
    state = read_checkpoint(path)
    filter_fn = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    try:
        if filter_fn is not None:
            state = filter_fn(state, net)
        state = {name: tensor for name, tensor in state.items() if not is_head(name)}
        result = net.load_state_dict(state, strict=False)
    except (RuntimeError, AttributeError, KeyError, ValueError, TypeError) as error:
        raise BadInput(f"{path} does not fit {type(net).__name__}: {_first_line(error)}") from error
    missing = [name for name in result.missing_keys if not is_head(name)]
    if missing or result.unexpected_keys:
        parts = []
        if missing:
            parts.append(f"{len(missing)} tensors missing ({_some(missing)})")
        if result.unexpected_keys:
            parts.append(f"{len(result.unexpected_keys)} not of this model ({_some(result.unexpected_keys)})")
        raise BadInput(f"{path} is not a checkpoint of this backbone: {'; '.join(parts)}; check backbone.model")


def is_head(name: str) -> bool:
    return name.split(".")[0] in HEAD_NAMES and not name.startswith("head.norm")


def _load_npz(net: Any, path: Path) -> None:
    if not zipfile.is_zipfile(path):
        raise BadInput(f"{path} is not an .npz archive; is the download complete?")
    if not hasattr(net, "load_pretrained"):
        raise ConfigError([f"backbone.checkpoint: timm reads no .npz for {type(net).__name__}"])
    before = {name: tensor.detach().clone() for name, tensor in net.named_parameters()}
    try:
        net.load_pretrained(str(path))
    except (KeyError, ValueError, RuntimeError, AssertionError) as error:
        raise BadInput(f"{path} is not in timm's JAX layout for this model: {_first_line(error)}") from error
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
            "backbone.checkpoint=<that file>. backbone=vit_micro needs no download."
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


def _first_line(error: BaseException) -> str:
    """The line that says something: torch puts a heading on the first one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.endswith(":")]
    return (lines or [type(error).__name__])[0][:200]
