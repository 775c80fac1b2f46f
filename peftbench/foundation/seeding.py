"""Random streams: every use of chance has its own generator, so that changing one leaves the others alone."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from peftbench.foundation.device import WORKSPACE, WORKSPACE_SIZE
from peftbench.foundation.identity import canonical

_FILL = "fill_uninitialized_memory"
_CUDNN = {"deterministic": True, "benchmark": False, "allow_tf32": False}


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for one named use of `seed`: the first bytes of the SHA-256 of all parts."""
    digest = hashlib.sha256(canonical([seed, *names]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def stream(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator for one named use, for example `stream(seed, "order", epoch)`.

    Draw on the CPU and copy to the device: the same numbers then come out on every kind of hardware.
    """
    return torch.Generator().manual_seed(derive(seed, *names))


def seed_everything(seed: int) -> None:
    """Seeds the global generators of Python, NumPy and torch: what dropout and drop-path draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def deterministic(device: torch.device | str) -> Iterator[None]:
    """Only kernels that repeat bit for bit, in the precision that is asked for; puts the former flags back at the end.

    torch raises `RuntimeError` when an operation has no such kernel. On CUDA enter this before the first matrix
    product of the process: cuBLAS reads its workspace setting once. New memory is not filled, as torch would do beside:
    nothing reads it before it is written (a test fills it with NaN), and filling it costs a pass over every tensor.
    Convolutions of float32 are of float32: by default cuDNN rounds what they multiply to TF32 on GPUs that have it.
    """
    filled = getattr(torch.utils.deterministic, _FILL)
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = {name: getattr(torch.backends.cudnn, name) for name in _CUDNN}
    workspace = os.environ.get(WORKSPACE)
    if torch.device(device).type == "cuda" and workspace is None:
        os.environ[WORKSPACE] = WORKSPACE_SIZE
    torch.use_deterministic_algorithms(True)
    setattr(torch.utils.deterministic, _FILL, False)
    for name, value in _CUDNN.items():
        setattr(torch.backends.cudnn, name, value)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
        setattr(torch.utils.deterministic, _FILL, filled)
        for name, value in cudnn.items():
            setattr(torch.backends.cudnn, name, value)
        if workspace is None:
            os.environ.pop(WORKSPACE, None)


@contextmanager
def seeded(seed: int, *names: str | int) -> Iterator[None]:
    """torch's global CPU generator follows `stream(seed, *names)` inside, and is put back as it was behind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, *names))
        yield
