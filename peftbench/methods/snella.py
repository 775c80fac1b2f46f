"""SNELLA (Shen et al., 2025, arXiv:2510.24037): sparse kernels that compete for the entries they may keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from peftbench.foundation.spec import option
from peftbench.interventions.kernels import CompetingKernel, SparseKernel
from peftbench.methods.base import METHODS
from peftbench.methods.snell import SNELL


@METHODS.add("snella")
@dataclass(frozen=True)
class SNELLA(SNELL):
    """SNELL whose T thresholds D + alpha softmax(D / gamma) + beta, the softmax over the outputs of an input.

    alpha, gamma and beta train, one number each for a matrix: rank (in + out) + 3 parameters. D and all else are as in
    `snell`. `sparsity` is that of the start; the objective `snella` takes it to its end over the epochs and shares the
    entries that are kept out among the matrices by how much the loss feels of each.
    """

    paper: ClassVar[str] = "arXiv:2510.24037"

    sparsity: float = option(0.01, ge=0, lt=1)

    def kind(self) -> type[SparseKernel]:
        return CompetingKernel

    def size(self, in_dim: int, out_dim: int) -> int:
        return super().size(in_dim, out_dim) + 3
