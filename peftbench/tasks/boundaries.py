"""Boundaries: where neighbouring pixels differ, and how well predicted ones lie on the true ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# CamVid's and the Berkeley benchmark's share of the diagonal
SHARE = 0.0075


def tolerance(size: Sequence[int]) -> int:
    """How many pixels a predicted boundary may lie beside a true one: 0.75 % of the diagonal, at least one."""
    return max(1, round(SHARE * math.hypot(*size)))


def boundaries(classes: Tensor, known: Tensor) -> Tensor:
    """Pixels [batch, height, width] whose right or lower neighbour has another class; both have to be known."""
    found = torch.zeros_like(known)
    found[:, :, :-1] |= (classes[:, :, :-1] != classes[:, :, 1:]) & known[:, :, :-1] & known[:, :, 1:]
    found[:, :-1] |= (classes[:, :-1] != classes[:, 1:]) & known[:, :-1] & known[:, 1:]
    return found


def widened(pixels: Tensor, distance: int) -> Tensor:
    """Everything at most `distance` pixels away from the marked ones: bool [batch, height, width]."""
    offsets = torch.arange(-distance, distance + 1, device=pixels.device)
    disc = (offsets[:, None] ** 2 + offsets[None] ** 2 <= distance**2).float()
    return F.conv2d(pixels[:, None].float(), disc[None, None], padding=distance)[:, 0] > 0.5


def matched(predicted: Tensor, true: Tensor, distance: int) -> Tensor:
    """Counts [4]: predicted pixels near a true one, predicted ones, true pixels near a predicted one, true ones."""
    hits, found = predicted & widened(true, distance), true & widened(predicted, distance)
    return torch.stack([hits.sum(), predicted.sum(), found.sum(), true.sum()])


def f_measure(counts: np.ndarray) -> np.ndarray:
    """F of counts [..., 4] as `matched` gives them: harmonic mean of precision and recall, 0 where nothing matches."""
    precision = counts[..., 0] / np.maximum(counts[..., 1], 1)
    recall = counts[..., 2] / np.maximum(counts[..., 3], 1)
    both: np.ndarray = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return both
