"""Dropout of the matrix that a method adds, whole or row by row, drawn on the device so that a step can be captured."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Dropped:
    """A matrix [out_dim, in_dim] as it acts in one pass of a training, with one draw for the whole batch.

    Zero as a whole with probability `whole`; each of its rows with probability `rows`. `rescaled`: what is left is
    divided by the share of rows that are left (where there is none, the matrix is zero).
    """

    rows: float = 0.0
    whole: float = 0.0
    rescaled: bool = False

    def __call__(self, matrix: Tensor) -> Tensor:
        if not (self.rows or self.whole):
            return matrix
        # one number for the whole, then one for each row: in the PEFT library's order, which draws the first always
        kept = self._drawn(1, self.whole, matrix)
        if self.rows:
            rows = self._drawn(len(matrix), self.rows, matrix)
            kept = kept * (rows / rows.mean().clamp(min=1 / len(rows)) if self.rescaled else rows)
        return matrix * kept.to(matrix.dtype).unsqueeze(1)

    def _drawn(self, number: int, rate: float, matrix: Tensor) -> Tensor:
        drawn = torch.rand(number, device=matrix.device)
        return (drawn > rate).to(drawn.dtype)
