"""LoRA_mul and VPT_add (Ni et al., NeurIPS 2024, arXiv:2409.17137): the adapter of the objective PACE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.methods.base import METHODS
from peftbench.methods.targets import FUSED_TARGETS, Matrix, Rewriting, offsets_without_effect


class ScaledWithPrompt(nn.Module):
    """W -> W * (1 + U V), b -> b * (1 + d) + W P q.

    `up` U [out_dim, rank] and `prompt_up` P [in_dim, rank] start at zero, `down` V [rank, in_dim] and `prompt_down` q
    [rank, 1] are xavier-uniform, `bias_scale` d [out_dim] is zero; without a bias there is no d.
    """

    def __init__(self, matrix: Matrix, rank: int) -> None:
        super().__init__()
        self.up, self.down = (
            nn.Parameter(torch.zeros(matrix.out_dim, rank)),
            nn.Parameter(torch.empty(rank, matrix.in_dim)),
        )
        self.prompt_up, self.prompt_down = (
            nn.Parameter(torch.zeros(matrix.in_dim, rank)),
            nn.Parameter(torch.empty(rank, 1)),
        )
        self.bias_scale = nn.Parameter(torch.zeros(matrix.out_dim)) if matrix.has_bias else None
        for factor in (self.down, self.prompt_down):
            nn.init.xavier_uniform_(factor)

    def forward(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        shift = (weight @ (self.prompt_up @ self.prompt_down)).squeeze(1)
        if bias is not None and self.bias_scale is not None:
            shift = bias * (1 + self.bias_scale) + shift
        return weight * (1 + self.up @ self.down), shift


@METHODS.add("lora_vpt")
@dataclass(frozen=True)
class LoRAVPT(Rewriting):
    """W' = W * (1 + U V) and b' = b * (1 + d) + W P q for every linear map of the blocks.

    A low-rank factor on the entries of W and one learned input that all tokens share. rank (in + out) + out + rank
    (in + 1) parameters for each map; the function is unchanged at the start. Folds exactly. The paper's numbers add the
    objective `pace` and train for 300 epochs.
    """

    paper: ClassVar[str] = "arXiv:2409.17137"
    size_option: ClassVar[str] = "rank"

    rank: int = option(10, ge=1)
    targets: list[str] = option(list(FUSED_TARGETS), choices=FUSED_TARGETS)

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        return ScaledWithPrompt(matrix, self.rank)

    def size(self, in_dim: int, out_dim: int) -> int:
        return self.rank * (in_dim + out_dim) + self.rank * (in_dim + 1)

    def expected_params(self, shape: BackboneShape) -> int:
        biases = sum(site.out_dim for site in shape.at(*self.roles) if site.has_bias)
        return super().expected_params(shape) + biases

    def inert(self, backbone: Backbone) -> dict[str, Tensor]:
        """The scale of the keys' bias, and of a bias that is zero."""
        return offsets_without_effect(
            backbone, lambda change: [] if change.bias_scale is None else [(change.bias_scale, True)]
        )
