"""Numeric precision of the forward pass."""

from __future__ import annotations

import torch
from torch import nn

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context a forward pass runs in: mixed precision for bf16 and fp16, nothing for fp32."""
    return torch.autocast(device.type, dtype=_DTYPES[precision], enabled=precision != "fp32")


def round_frozen(model: nn.Module) -> None:
    """Holds the frozen tensors of linear maps and convolutions in bfloat16, half the bytes.

    Autocast to bf16 rounds them so at every step; what reads them by itself reads them rounded from here on.
    """
    for module in model.modules():
        if type(module) in (nn.Linear, nn.Conv2d):
            for tensor in module.parameters(recurse=False):
                if not tensor.requires_grad:
                    tensor.data = tensor.data.bfloat16()


def widen_frozen(model: nn.Module) -> None:
    """Holds in float32 again, rounded as they are, what `round_frozen` made smaller: folding computes with it."""
    for tensor in model.parameters():
        if tensor.dtype is torch.bfloat16:
            tensor.data = tensor.data.float()
