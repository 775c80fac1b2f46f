"""BOFT (Liu et al., ICLR 2024, arXiv:2311.06243): OFT with a rotation made of butterfly factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions.rotation import cayley, check_block_dropout, drawn_blocks, largest_block, unturned
from peftbench.methods.base import METHODS
from peftbench.methods.targets import TARGETS, Matrix, Rewriting


class Butterfly(nn.Module):
    """W -> s (W R^T), R = F_m ... F_1 and F_i block-diagonal once the inputs are put into the order `orders[i]`.

    `blocks` [factors, in_dim / size, size, size] start at zero; only their skew-symmetric part (B - B^T) / 2 counts.
    `scale` s [out_dim] starts at one and leaves the bias alone. `dropout` is the share of the blocks of one factor,
    drawn in each pass of a training, that are the identity then.
    """

    orders: Tensor

    def __init__(
        self, in_dim: int, out_dim: int, size: int, num_factors: int, device: torch.device, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.blocks = nn.Parameter(torch.zeros(num_factors, in_dim // size, size, size))
        self.scale = nn.Parameter(torch.ones(out_dim))
        orders = torch.stack([butterfly_order(in_dim, size, factor) for factor in range(num_factors)])
        self.register_buffer("orders", orders.to(device), persistent=False)

    def forward(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        size = self.blocks.shape[-1]
        # rows of W R^T are R times the rows of W; the transpose of each block is what stands here
        rotations = cayley((self.blocks - self.blocks.transpose(-2, -1)) / 2)
        if self.training and self.dropout:
            rotations = unturned(rotations, self._left_out())
        for order, rotation in zip(self.orders, rotations, strict=True):
            sorted_blocks = weight.index_select(1, order).unflatten(1, (-1, size))
            turned = torch.einsum("onk,nkc->onc", sorted_blocks, rotation).flatten(1)
            weight = turned.index_select(1, order.argsort())
        return self.scale.unsqueeze(1) * weight, bias

    def _left_out(self) -> Tensor:
        """The blocks that do not turn in this pass: bool [factors, blocks]."""
        num_factors, num_blocks, device = len(self.blocks), self.blocks.shape[1], self.blocks.device
        factor = torch.randint(num_factors, (1,), device=device)
        here = torch.arange(num_factors, device=device) == factor
        return here.unsqueeze(1) & drawn_blocks(num_blocks, self.dropout, device)


def butterfly_order(width: int, size: int, factor: int) -> Tensor:
    """The inputs in the order in which factor `factor` (from 0) cuts them into blocks: int64 [width].

    Runs of 2^factor blocks are cut into half blocks, and half block i of a run's first half meets half block i of its
    second: neighbours for factor 0, twice as far apart for every further one.
    """
    inputs = torch.arange(width)
    return inputs.view(-1, 2, 2**factor, size // 2).transpose(1, 2).flatten() if factor else inputs


@METHODS.add("boft")
@dataclass(frozen=True)
class BOFT(Rewriting):
    """W' = diag(s) W R^T, R = F_m ... F_1 of block-diagonal rotations between butterfly permutations.

    m = `num_factors` mix b 2^(m-1) inputs where OFT's blocks mix b. Blocks of b = `block_size` are stored whole, as
    released, though their skew-symmetric part alone acts: m b in + out parameters for each matrix. Where b does not fit
    the width, the largest smaller size is taken. s [out] is the released magnitude; biases stay. Folds exactly. b
    and m are those of the paper's runs on VTAB-1k, which adapt all linear maps; `targets` here are q and v.

    `block_dropout`, the paper's multiplicative dropout as the PEFT library has it (`boft_dropout`): in each pass of a
    training one factor of each matrix is drawn, and int(`block_dropout` blocks) of its blocks, drawn anew, do not turn.
    Nothing is rescaled.
    """

    paper: ClassVar[str] = "arXiv:2311.06243"

    block_size: int = option(8, ge=2)
    num_factors: int = option(2, ge=1)
    targets: list[str] = option(["q", "v"], choices=TARGETS)
    block_dropout: float = option(0.0, ge=0, lt=1, later=True)

    def _fitting(self, in_dim: int) -> int:
        size = largest_block(in_dim, self.block_size, 2 ** (self.num_factors - 1), even=self.num_factors > 1)
        if not size:
            raise NotApplicable(
                f"boft with {self.num_factors} factors needs a width that {2**self.num_factors} divides, not {in_dim}; "
                "set method.num_factors=1"
            )
        return size

    def prepare(self, backbone: Backbone) -> torch.device:
        return backbone.device

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        size = self._fitting(matrix.in_dim)
        check_block_dropout(self.block_dropout, matrix.in_dim // size)
        return Butterfly(matrix.in_dim, matrix.out_dim, size, self.num_factors, common, self.block_dropout)

    def size(self, in_dim: int, out_dim: int) -> int:
        return self.num_factors * self._fitting(in_dim) * in_dim + out_dim

    def inert(self, backbone: Backbone) -> dict[str, Tensor]:
        """The diagonals of the blocks, which no skew-symmetric part has."""
        return {
            name: torch.eye(tensor.shape[-1], dtype=torch.bool, device=tensor.device).expand(tensor.shape)
            for name, tensor in backbone.trainable
            if name.endswith(".blocks")
        }
