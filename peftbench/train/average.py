"""A mean over epochs of what training made (PromptSRC, arXiv:2307.06948)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def epoch_weights(mean: float, std: float, epochs: int) -> list[float]:
    """Of epochs 1 .. `epochs`: proportional to exp(-(e - mean)^2 / (2 std^2)), with the sum 1."""
    squares = [((epoch - mean) / std) ** 2 / 2 for epoch in range(1, epochs + 1)]
    nearest = min(squares)
    heights = [math.exp(nearest - square) for square in squares]
    return [height / sum(heights) for height in heights]


class EpochAverage:
    """The weighted mean of `tensors` as they are behind each epoch."""

    def __init__(self, tensors: Sequence[Tensor], weights: Sequence[float]) -> None:
        self._tensors, self._weights = tensors, weights
        self._sums = [torch.zeros_like(tensor) for tensor in tensors]

    @torch.no_grad()
    def add(self, epoch: int) -> None:
        """Count the tensors as they are behind epoch `epoch`, from 0."""
        for total, tensor in zip(self._sums, self._tensors, strict=True):
            total += self._weights[epoch] * tensor

    @torch.no_grad()
    def take(self) -> None:
        """Put the mean into the tensors."""
        for total, tensor in zip(self._sums, self._tensors, strict=True):
            tensor.copy_(total)
