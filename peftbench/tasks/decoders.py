"""Decoders: feature maps at several blocks -> one map of scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LinearDecoder(nn.Module):
    """Maps side by side, batch norm, one 1 x 1 convolution (DINOv2's linear evaluation, arXiv:2304.07193, app. B).

    [batch, channels_i, h_i, w_i] each -> [batch, outputs, h_0, w_0]. With S channels in all S (2 + outputs) + outputs
    parameters.
    """

    def __init__(self, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(sum(widths))
        self.classifier = nn.Conv2d(sum(widths), outputs, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        scores: Tensor = self.classifier(self.norm(side_by_side(maps)))
        return scores


class FCNDecoder(nn.Module):
    """Maps side by side, `num_convs` times 3 x 3 convolution, batch norm, relu, then dropout and a 1 x 1 convolution.

    FCN (arXiv:1411.4038) as mmsegmentation's auxiliary head: convolutions without bias, dropout 0.1. With S channels in
    all and c inside 9 S c + 2 c + (n - 1) (9 c^2 + 2 c) + (c + 1) outputs parameters.
    """

    def __init__(self, widths: Sequence[int], outputs: int, channels: int = 256, num_convs: int = 1) -> None:
        super().__init__()
        sizes = [sum(widths), *[channels] * num_convs]
        convs = [
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in pairwise(sizes)
        ]
        self.convs = nn.Sequential(*convs)
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(channels, outputs, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        scores: Tensor = self.classifier(self.dropout(self.convs(side_by_side(maps))))
        return scores


def side_by_side(maps: Sequence[Tensor]) -> Tensor:
    """All channels at the first map's size, the others resampled bilinearly."""
    size = maps[0].shape[2:]
    resized = [m if m.shape[2:] == size else F.interpolate(m, size, mode="bilinear") for m in maps]
    return torch.cat(resized, dim=1)


DECODERS: dict[str, Callable[[Sequence[int], int], nn.Module]] = {"linear": LinearDecoder, "fcn": FCNDecoder}
