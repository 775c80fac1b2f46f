"""Precision of what is computed beside the network."""

from __future__ import annotations

import torch
from torch import Tensor


def exact(x: Tensor) -> Tensor:
    """`x` in single precision at least: half precision is widened, double precision stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
