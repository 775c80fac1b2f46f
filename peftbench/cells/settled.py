"""What all work of a cell runs under, settled ahead of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from peftbench.config.runtime import RuntimeSpec
from peftbench.foundation import attention, matmul
from peftbench.foundation.device import pick_device
from peftbench.foundation.seeding import deterministic
from peftbench.foundation.unbinding import in_one_pass
from peftbench.train.options import TrainSpec


@contextmanager
def settled(runtime: RuntimeSpec, train: TrainSpec) -> Iterator[torch.device]:
    """The device; inside, `runtime`'s threads and kernels, and only kernels that repeat bit for bit.

    Raises `ConfigError` for a device or a library that is not here. The number of threads stays as it is behind.
    """
    device = pick_device(runtime.device)
    library, kind = _chosen(runtime, train, device)
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    with deterministic(device), in_one_pass(), matmul.multiplied_by(library), attention.gradients_in(kind):
        yield device


def kernels_of(runtime: RuntimeSpec, train: TrainSpec, device: torch.device) -> dict[str, str]:
    """By option of `runtime`, what a cell there runs on; what is torch's own choice is left out."""
    library, kind = _chosen(runtime, train, device)
    found = {"matmul": (library, matmul.TORCH), "attention_grad": (kind, attention.TORCH)}
    return {name: used for name, (used, torchs) in found.items() if used != torchs}


def _chosen(runtime: RuntimeSpec, train: TrainSpec, device: torch.device) -> tuple[str, str]:
    library = matmul.chosen(runtime.matmul, device)
    return library, attention.chosen(runtime.attention_grad, device, train.precision, train.compile)
