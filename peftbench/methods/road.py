"""RoAd (Liao and Monz, NeurIPS 2024, arXiv:2409.00119): the outputs of linear maps rotated and scaled in pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions.rotation import largest_block
from peftbench.methods.base import METHODS
from peftbench.methods.targets import TARGETS, Matrix, Rewriting

# numbers of each kind for a pair of outputs
PER_PAIR = {"road_1": 1, "road_2": 2, "road_4": 4}


class PairRotation(nn.Module):
    """W -> R W and b -> R b; R turns output i of a group together with output i + size / 2 of it (equation 4).

    `angles` and `scales` [out_dim / 2, out_dim or 2 out_dim] by `variant`: one of each for a pair, one for each of its
    outputs, or one for each entry of the 2 x 2 matrix. Angles start at zero, scales at one.
    """

    def __init__(self, out_dim: int, size: int, variant: str) -> None:
        super().__init__()
        number = out_dim // 2 * PER_PAIR[variant]
        self.angles = nn.Parameter(torch.zeros(number))
        self.scales = nn.Parameter(torch.ones(number))
        self.size, self.variant = size, variant

    def _factors(self) -> tuple[Tensor, Tensor]:
        """What an output and its partner are multiplied by, each [groups, 2, size / 2]."""
        half = self.size // 2
        if self.variant == "road_4":
            # in each group first the cosines of all outputs, then their sines
            angles, scales = (tensor.view(-1, 2, 2, half) for tensor in (self.angles, self.scales))
            return scales[:, 0] * angles[:, 0].cos(), scales[:, 1] * angles[:, 1].sin()
        rows = 1 if self.variant == "road_1" else 2
        angles, scales = (tensor.view(-1, rows, half).expand(-1, 2, -1) for tensor in (self.angles, self.scales))
        return scales * angles.cos(), scales * angles.sin()

    def _turned(self, rows: Tensor) -> Tensor:
        """R applied to the first axis of [out_dim, columns]."""
        own, other = (factor.unsqueeze(-1) for factor in self._factors())
        first, second = rows.unflatten(0, (-1, 2, self.size // 2)).unbind(1)
        turned = own * rows.unflatten(0, (-1, 2, self.size // 2)) + other * torch.stack([-second, first], dim=1)
        return turned.flatten(0, 2)

    def forward(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self._turned(weight), None if bias is None else self._turned(bias.unsqueeze(1)).squeeze(1)


@METHODS.add("road")
@dataclass(frozen=True)
class RoAd(Rewriting):
    """W' = R W, b' = R b, R made of scaled rotations of two outputs: alpha [[cos t, -sin t], [sin t, cos t]].

    Partners lie half a group apart, in groups of `group_size` outputs, or of the largest even size below it that cuts
    the width. `variant`: RoAd_1 shares angle and scale within a pair (out parameters for each matrix), RoAd_2 has them
    for each output (2 out), RoAd_4 for each entry (4 out). R starts at identity: the function is unchanged. Folds
    exactly. Raises `NotApplicable` where a width is odd.
    """

    paper: ClassVar[str] = "arXiv:2409.00119"

    variant: str = option("road_1", choices=tuple(PER_PAIR))
    group_size: int = option(64, ge=2)
    targets: list[str] = option(["q", "v"], choices=TARGETS)

    def _group(self, out_dim: int) -> int:
        return largest_block(out_dim, self.group_size, even=True)

    def prepare(self, backbone: Backbone) -> None:
        odd = sorted({out_dim for _, out_dim in self.matrices(backbone.shape) if not self._group(out_dim)})
        if odd:
            raise NotApplicable(f"road turns outputs in pairs; a width of {odd[0]} has no even groups")

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        return PairRotation(matrix.out_dim, self._group(matrix.out_dim), self.variant)

    def size(self, in_dim: int, out_dim: int) -> int:
        return out_dim * PER_PAIR[self.variant]
