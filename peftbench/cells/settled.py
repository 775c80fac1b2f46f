"""What all work of a cell runs under, settled ahead of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from peftbench.config.runtime import RuntimeSpec
from peftbench.foundation import matmul
from peftbench.foundation.device import pick_device
from peftbench.foundation.seeding import deterministic


@contextmanager
def settled(runtime: RuntimeSpec) -> Iterator[torch.device]:
    """The device; inside, `runtime`'s threads, its library of products, and only kernels that repeat bit for bit.

    Raises `ConfigError` for a device or a library that is not here. The number of threads stays as it is behind.
    """
    device = pick_device(runtime.device)
    library = matmul.chosen(runtime.matmul, device)
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    with deterministic(device), matmul.multiplied_by(library):
        yield device
