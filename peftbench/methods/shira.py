"""SHiRA (Bhardwaj et al., NeurIPS 2024, arXiv:2406.13175): single entries of the weights, as many as in LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from peftbench.backbones.base import Backbone
from peftbench.foundation.spec import option
from peftbench.interventions import SparseChange
from peftbench.methods.base import METHODS
from peftbench.methods.targets import TARGETS, Matrix, Rewriting, random_places


@METHODS.add("shira")
@dataclass(frozen=True)
class SHiRA(Rewriting):
    """W' = W + S with S zero but for rank (in + out) fixed entries, which start at zero.

    `mask` chooses them: `random`, anew in each matrix from `mask_seed`, or `magnitude`, the largest of W. The paper's
    masks from gradients need data first (`gps` chooses that way). Folds exactly; an adapter is a list of entries.
    """

    paper: ClassVar[str] = "arXiv:2406.13175"
    family: ClassVar[str] = "selection"
    size_option: ClassVar[str] = "rank"

    rank: int = option(4, ge=1)
    mask: str = option("random", choices=("random", "magnitude"))
    mask_seed: int = option(0, ge=0)
    targets: list[str] = option(["q", "v"], choices=TARGETS)

    def prepare(self, backbone: Backbone) -> torch.Generator:
        return torch.Generator().manual_seed(self.mask_seed)

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        number = self.size(matrix.in_dim, matrix.out_dim)
        if self.mask == "random":
            places = random_places(matrix, number, common)
        else:
            order = matrix.weight.detach().abs().flatten().sort(descending=True, stable=True).indices
            places = order[:number].sort().values
        return SparseChange(matrix.weight.shape, places, torch.zeros(number))

    def size(self, in_dim: int, out_dim: int) -> int:
        return min(self.rank * (in_dim + out_dim), in_dim * out_dim)
