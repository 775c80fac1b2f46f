"""SNELL (Shen et al., NeurIPS 2024, arXiv:2411.01800): a sparse update from a kernel of low-rank factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from peftbench.backbones.base import Backbone, BackboneShape, class_token_of, unfreeze
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import LinearDelta, Thinned
from peftbench.interventions.kernels import SparseKernel
from peftbench.methods.base import METHODS
from peftbench.methods.targets import TARGETS, Matrix, Targeted


@METHODS.add("snell")
@dataclass(frozen=True)
class SNELL(Targeted):
    """W' = W + T(D), D_oi = 0.1 (||p_i - q_o|| - ||p'_i - q'_o||) from two halves of rank-r factors, T a threshold.

    T keeps the share 1 - `sparsity` of largest entries: rank (in + out) parameters for each matrix, and an update of
    full rank. Not zero at the start. Folds exactly. `threshold: soft` is the paper's; the released code multiplies what
    it keeps by its size, `released`. As released, dropout acts on the inputs of all maps but attention's output, with
    one mask for q, k and v, and each update has a stochastic depth of its own. The share is chosen for each task there
    (0 to 0.995). The class token trains as well there, which the paper does not say: `class_token` does so here.
    """

    paper: ClassVar[str] = "arXiv:2411.01800"
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "rank"

    rank: int = option(8, ge=2)
    sparsity: float = option(0.9, ge=0, lt=1)
    threshold: str = option("soft", choices=("soft", "released"))
    dropout: float = option(0.1, ge=0, lt=1)
    drop_path: float = option(0.1, ge=0, lt=1)
    targets: list[str] = option(list(TARGETS), choices=TARGETS)
    class_token: bool = option(False, later=True)

    def problems(self) -> Sequence[str]:
        odd = [f"method.rank must be even, half for each kernel, got {self.rank}"] if self.rank % 2 else []
        return [*super().problems(), *odd]

    def attach(self, backbone: Backbone) -> None:
        super().attach(backbone)
        if self.class_token:
            token = class_token_of(backbone)
            if not token:
                raise NotApplicable("snell's class_token trains one, and this backbone has none; leave it out")
            unfreeze(*token)

    def kind(self) -> type[SparseKernel]:
        """Of the update."""
        return SparseKernel

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        kernel = self.kind()(matrix.in_dim, matrix.out_dim, self.rank, self.sparsity, self.threshold)
        kernel.reads_dropped = matrix.target != "proj"
        return Thinned(kernel, self.drop_path)

    def act(self, base: nn.Module, modules: dict[int, nn.Module], num_slices: int) -> nn.Module:
        reads_dropped = all(module.delta.reads_dropped for module in modules.values())  # type: ignore[union-attr]
        return LinearDelta(base, modules, num_slices, self.dropout if reads_dropped else 0.0)

    def size(self, in_dim: int, out_dim: int) -> int:
        return self.rank * (in_dim + out_dim)

    def expected_params(self, shape: BackboneShape) -> int:
        return super().expected_params(shape) + self.class_token * shape.width
