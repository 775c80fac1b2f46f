"""Which device work runs on."""

from __future__ import annotations

import torch

from peftbench.foundation.errors import ConfigError

DEVICES = ("cpu", "cuda", "mps", "xpu")


def pick_device(name: str, option: str = "runtime.device") -> torch.device:
    """`auto` is CUDA where there is one. Raises `ConfigError`, naming `option`, for a device that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError([f"{option} '{name}' is not a device; use auto, cpu, cuda or cuda:N"]) from error
    if device.type not in DEVICES:
        raise ConfigError([f"{option} '{name}' is not a device to train on; use auto, cpu, cuda or cuda:N"])
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError([f"{option}={name}: torch sees no CUDA device here; use auto or cpu"])
    return device
