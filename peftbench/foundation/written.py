"""Tensors written into a model by name, and modules of which the host keeps what some of their tensors say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class HostRead(nn.Module):
    """A module that keeps on the host what one of its tensors says: how many tokens there are, and which.

    `reread` is called where tensors are written, and by the module itself where it writes. So no forward pass reads
    them, and a compiled or exported module goes by what was written last.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_post_hook(_reread)

    def reread(self) -> None:
        """Read the tensors again. May raise `BadInput` for what they cannot say."""
        raise NotImplementedError


def _reread(module: Any, _: Any) -> None:
    module.reread()


@torch.no_grad()
def write_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy `tensors` into the parameters and buffers of these names; modules that read theirs do so again."""
    current = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, tensor in tensors.items():
        current[name].copy_(tensor)
    for module in model.modules():
        if isinstance(module, HostRead):
            module.reread()
