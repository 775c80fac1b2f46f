"""Tokens as feature maps: how convolutions see a token sequence, whatever prefix tokens it carries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from peftbench.backbones.base import BackboneShape
from peftbench.foundation.errors import NotApplicable


@dataclass(frozen=True)
class TokenGrid:
    """Where the patches lie in a token sequence: behind `num_prefix` tokens, row by row on a grid of `size`.

    Of tubelets there is such a grid for each of the `times`, one after the other.
    """

    num_prefix: int
    size: tuple[int, int]
    times: int = 1

    @classmethod
    def of(cls, shape: BackboneShape) -> TokenGrid:
        """Raises `NotApplicable` where one sequence holds several grids; `of_times` takes them one by one."""
        if shape.times > 1:
            raise NotApplicable(
                "a method that reads tokens as one feature map; a clip's tubelets are one for each time"
            )
        return cls.of_times(shape)

    @classmethod
    def of_times(cls, shape: BackboneShape) -> TokenGrid:
        """The same for what only goes through `apply`, which takes every time step as a map of its own.

        Raises `NotApplicable` for words, which lie on no grid.
        """
        if shape.family == "text":
            raise NotApplicable("a convolution over patches has none to work on in a tower that reads words")
        return cls(shape.num_prefix_tokens, shape.grid, shape.times)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [batch, prefix + patches, width] -> prefix [batch, prefix, width], map [batch, width, rows, columns].

        Maps that already have the layout [batch, height, width, channels] come back without prefix.
        """
        if x.ndim == 4:
            return x[:, :0, 0], x.permute(0, 3, 1, 2)
        return x[:, : self.num_prefix], x[:, self.num_prefix :].transpose(1, 2).unflatten(2, self.size)

    def apply(self, operation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """`operation`, which keeps height and width, on the map of the patches; input and output have one layout.

        Maps of a clip, [batch, times, height, width, channels], are taken time by time.

        Every prefix token (class, registers) is a 1 x 1 map of its own, so that of a convolution only the centre acts.
        """
        if x.ndim == 5:
            return self.apply(operation, x.flatten(0, 1)).unflatten(0, x.shape[:2])
        if self.times > 1 and x.ndim == 3:
            steps = x.unflatten(1, (self.times, -1)).flatten(0, 1)
            one = TokenGrid(0, self.size)
            return one.apply(operation, steps).unflatten(0, (x.shape[0], self.times)).flatten(1, 2)
        prefix, maps = self.split(x)
        maps = operation(maps)
        if x.ndim == 4:
            return maps.permute(0, 2, 3, 1)
        patches = maps.flatten(2).transpose(1, 2)
        if not self.num_prefix:
            return patches
        single = operation(prefix.flatten(0, 1)[:, :, None, None])
        return torch.cat([single.view(*prefix.shape[:2], -1), patches], dim=1)
