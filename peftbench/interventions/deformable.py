"""Attention that reads values at a few learnt places around each query (Deformable DETR, arXiv:2010.04159)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from peftbench.foundation.exact import exact

Size = tuple[int, int]


class DeformableAttention(nn.Module):
    """Every head of a query looks at `num_points` places of each level's map, bilinearly, and weighs what it finds.

    queries [batch, number, width] at `places` [number, 2] (x, y in 0..1), values [batch, sum of h w, width], whose
    levels have `sizes` -> [batch, number, width]. Values have `ratio` of the width. At the start the points of a head
    lie on a ray of its own and all weigh the same; zeros lie outside of a map.
    """

    def __init__(self, width: int, num_heads: int, num_levels: int, num_points: int, ratio: float) -> None:
        super().__init__()
        inside = int(width * ratio)
        self.shape = num_heads, num_levels, num_points
        self.offsets = nn.Linear(width, num_heads * num_levels * num_points * 2)
        self.weights = nn.Linear(width, num_heads * num_levels * num_points)
        self.value, self.output = nn.Linear(width, inside), nn.Linear(inside, width)

    def reset(self, sizes: Sequence[int] | None = None) -> None:
        """The paper's start; on levels of fewer cells a side (`sizes`) than twice the points, rays are shortened."""
        heads, levels, points = self.shape
        angles = torch.arange(heads) * (2 * math.pi / heads)
        rays = torch.stack([angles.cos(), angles.sin()], dim=-1)
        rays = rays / rays.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, points + 1)[:, None] * rays[:, None, None].expand(-1, levels, -1, -1)
        if sizes is not None:
            steps = steps * torch.tensor([min(1.0, size / (2 * points)) for size in sizes])[:, None, None]
        with torch.no_grad():
            self.offsets.bias.copy_(steps.reshape(-1))
        for linear in (self.value, self.output):
            nn.init.xavier_uniform_(linear.weight)
        for tensor in (self.offsets.weight, self.weights.weight, self.weights.bias, self.value.bias, self.output.bias):
            nn.init.zeros_(tensor)

    def forward(self, queries: Tensor, places: Tensor, values: Tensor, sizes: Sequence[Size]) -> Tensor:
        batch, number = queries.shape[:2]
        heads, levels, points = self.shape
        maps = self.value(values).unflatten(2, (heads, -1)).transpose(1, 2).flatten(0, 1)
        offsets = self.offsets(queries).view(batch, number, heads, levels, points, 2)
        weights = self.weights(queries).view(batch, number, heads, -1).softmax(dim=-1).view_as(offsets[..., 0])
        found = torch.zeros((), device=queries.device)
        for level, part in enumerate(maps.split([height * width for height, width in sizes], dim=1)):
            height, width = sizes[level]
            x, y = offsets[:, :, :, level].unbind(-1)
            where = places[:, None, None] + torch.stack([x / width, y / height], dim=-1)
            seen = sampled(part, (height, width), where.transpose(1, 2).flatten(0, 1).flatten(1, 2))
            share = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)
            found = found + (seen.unflatten(1, (number, points)) * share[..., None]).sum(dim=2)
        result: Tensor = self.output(found.unflatten(0, (batch, heads)).transpose(1, 2).flatten(2).to(queries.dtype))
        return result


def sampled(values: Tensor, size: Size, where: Tensor) -> Tensor:
    """Values [maps, h w, channels] at `where` [maps, points, 2] (x, y in 0..1 over the map), bilinear, 0 outside.

    What `grid_sample` gives with zero padding and unaligned corners; by plain indexing, whose backward pass is
    deterministic on every device.
    """
    height, width = size
    x, y = exact(where[..., 0]) * width - 0.5, exact(where[..., 1]) * height - 0.5
    left, top = x.floor(), y.floor()
    row = torch.arange(values.shape[0], device=values.device)[:, None]
    found = torch.zeros((), device=values.device)
    for column, line in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
        inside = (column >= 0) & (column < width) & (line >= 0) & (line < height)
        share = (1 - (x - column).abs()) * (1 - (y - line).abs()) * inside
        index = (line.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()
        found = found + share[..., None] * exact(values[row, index])
    return found


def centres(size: Size, device: torch.device) -> Tensor:
    """The middle of every cell of a grid, row by row: (x, y) in 0..1, [h w, 2]."""
    height, width = size
    y, x = torch.meshgrid(
        (torch.arange(height, device=device) + 0.5) / height,
        (torch.arange(width, device=device) + 0.5) / width,
        indexing="ij",
    )
    return torch.stack([x, y], dim=-1).flatten(0, 1)
