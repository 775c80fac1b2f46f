"""Frozen tensors that are made anew from a seed or from the pretrained weights, so that no adapter file holds them.

What trained belongs to them and to no others. Another version of a library may draw other numbers, and other routines
may turn singular vectors, so that a file keeps two numbers of each, by which another one is told.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# of the length: rounding to bfloat16 is far below it, a turned direction among dozens above
TOLERANCE = 0.02


def made_again(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Give `module` a buffer of that name which no file holds and `sketches` tells of."""
    module.register_buffer(name, tensor, persistent=False)
    # a plain attribute, which copies and pickles of the module take along
    object.__setattr__(module, "remade", (*getattr(module, "remade", ()), name))


def sketches(root: nn.Module) -> dict[str, Tensor]:
    """Two numbers of every such buffer below `root`, float64 [2] on the CPU, under the buffer's name."""
    found = {}
    for path, module in root.named_modules():
        for name in getattr(module, "remade", ()):
            found[f"{path}.{name}" if path else name] = sketch(module.get_buffer(name))
    return found


def sketch(tensor: Tensor) -> Tensor:
    """A sum of all entries, weighted so that no two places weigh the same, and their length."""
    flat = tensor.detach().flatten().cpu().double()
    weights = torch.arange(len(flat), dtype=torch.float64).cos()
    return torch.stack([flat @ weights, flat.norm()])


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether two sketches can be of the same tensor."""
    return bool(((one - other).abs() <= TOLERANCE * torch.maximum(one[1], other[1])).all())
