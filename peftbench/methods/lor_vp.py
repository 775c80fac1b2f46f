"""LoR-VP (Jin et al., ICLR 2025, arXiv:2502.00896): a picture of low rank is added to every image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import Intervention
from peftbench.methods.base import METHODS, Method

CHANNELS = 3


class PixelPrompt(Intervention):
    """A patch embedding of images [batch, 3, height, width] with B A added to each channel of their pixels.

    `left` B [3, height, rank] is zero, `right` A [3, rank, width] of N(0, 0.01). Pixels are those of 0..1 ahead of
    normalisation, so that on normalised images the sum is divided by `std`. Images of another size get it resized.
    """

    std: Tensor

    def __init__(self, base: nn.Module, size: tuple[int, int], rank: int, std: Tensor) -> None:
        super().__init__(base)
        if not isinstance(base, nn.Conv2d) or base.in_channels != CHANNELS:
            raise NotApplicable(f"pixels of images enter no {type(base).__name__}, which is the embedding here")
        self.left = nn.Parameter(torch.zeros(CHANNELS, size[0], rank))
        self.right = nn.Parameter(torch.normal(0.0, 0.01, (CHANNELS, rank, size[1])))
        self.register_buffer("std", std, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        left: Tensor = self.left
        right: Tensor = self.right
        if (left.shape[1], right.shape[2]) != x.shape[2:]:
            # resizing is linear along each axis, and as a product its backward pass is deterministic on every device
            left = resizing(left.shape[1], x.shape[2], left) @ left
            right = right @ resizing(right.shape[2], x.shape[3], right).T
        prompt = (left @ right / self.std).unsqueeze(0)
        y: Tensor = self.base(x + prompt.to(x.dtype))
        return y


def resizing(old: int, new: int, like: Tensor) -> Tensor:
    """The matrix [new, old] that resizes an axis, bilinear and antialiased."""
    columns = torch.eye(old, dtype=like.dtype, device=like.device)[None, None]
    return F.interpolate(columns, size=(new, old), mode="bilinear", antialias=True)[0, 0]


@METHODS.add("lor_vp")
@dataclass(frozen=True)
class LoRVP(Method):
    """x' = x + B A on the pixels of every image, one B [height, rank] and A [rank, width] for each colour (section 3).

    3 rank (height + width) parameters, whatever the network; B is zero, so the function is unchanged at the start. The
    whole network is in the backward pass.
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "arXiv:2502.00896"
    size_option: ClassVar[str] = "rank"

    rank: int = option(4, ge=1)

    def attach(self, backbone: Backbone) -> None:
        (site,) = backbone.sites("embed")
        if not min(_size(backbone.shape)):
            raise NotApplicable(f"{self.name} trains a picture, and {backbone.shape.family} takes images of any size")
        std = torch.tensor(backbone.input_spec.std, device=backbone.device).view(-1, 1, 1)
        site.wrap(partial(PixelPrompt, size=_size(backbone.shape), rank=self.rank, std=std))

    def expected_params(self, shape: BackboneShape) -> int:
        return CHANNELS * self.rank * sum(_size(shape))


def _size(shape: BackboneShape) -> tuple[int, int]:
    """Height and width of the images that the patches cut up."""
    return shape.grid[0] * shape.patch_size, shape.grid[1] * shape.patch_size
