"""Which device work runs on."""

from __future__ import annotations

import os

import torch

from peftbench.foundation.errors import ConfigError

DEVICES = ("cpu", "cuda", "mps", "xpu")
# what torch asks for where products are to be deterministic: the variable, and one of its two settings
WORKSPACE, WORKSPACE_SIZE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"


def pick_device(name: str, option: str = "runtime.device") -> torch.device:
    """`auto` is CUDA where there is one. Raises `ConfigError`, naming `option`, for a device that is not here.

    On CUDA the workspace of cuBLAS is settled here for the whole process, unless it is already: torch looks at the
    setting at the first matrix product, and a prediction ahead of a cell would leave the cell without. A device that is
    named by number becomes the current one: pinned memory and measures then are on it as well, and CUDA has begun.
    """
    device = _picked(name, option)
    if device.type == "cuda":
        os.environ.setdefault(WORKSPACE, WORKSPACE_SIZE)
        if device.index is not None:
            torch.cuda.set_device(device)
    return device


def device_answers() -> bool:
    """False once an error has left CUDA without use in this process, as a failed assertion on the device does."""
    if not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def _picked(name: str, option: str) -> torch.device:
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
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise ConfigError([f"{option}={name}: the CUDA devices here are cuda:0 to cuda:{last}; use one of them"])
    return device
