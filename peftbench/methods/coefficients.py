"""Base of methods that change a matrix through a few numbers of its own, at fixed places of it or of a transform."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from peftbench.interventions import Rewritten
from peftbench.methods.targets import Matrix, Targeted


class Coefficients(Targeted):
    """Base: `module` gives a `SparseChange`."""

    def act(self, base: nn.Module, modules: dict[int, nn.Module], num_slices: int) -> nn.Module:
        return Rewritten(base, modules, num_slices)


def random_places(matrix: Matrix, number: int, generator: torch.Generator) -> Tensor:
    """Ascending random places of the flattened matrix, int64 [number], drawn on the CPU: the same on every device."""
    places = torch.randperm(matrix.weight.numel(), generator=generator, device="cpu")[:number]
    return places.sort().values.to(matrix.weight.device)
