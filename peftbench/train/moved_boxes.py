"""Boxes that move with their images: the same crop, zoom and flip, from the same draws."""

from __future__ import annotations

import torch
from torch import Tensor

from peftbench.train.augment import Augment, Draws

# of what is cut off at a border, sides of at least so many pixels stay
LEAST_SIDE = 1.0


def moved_boxes(boxes: Tensor, draws: Draws, augment: Augment, image_size: tuple[int, int]) -> Tensor:
    """Boxes [batch, most, 6] (`foundation.maps`) of images of `image_size` (height, width), as `augment` moves those.

    What reaches over the border is cut off; a box of which less than a pixel is left, across or down, becomes zeros.
    """
    across, down = boxes[..., 0:3:2], boxes[..., 1:4:2]
    height, width = image_size
    if "shift" in draws:
        top, left = (draws["shift"][:, axis, None, None] - augment.crop_padding for axis in (0, 1))
        across, down = (across - left).clamp(0, width), (down - top).clamp(0, height)
    if "box" in draws:
        top, left, tall, wide = (draws["box"][:, place, None, None] for place in range(4))
        across, down = ((across - left) * width / wide).clamp(0, width), ((down - top) * height / tall).clamp(0, height)
    if "flip" in draws:
        across = torch.where(draws["flip"][:, None, None], (width - across).flip(-1), across)
    if "zoom" in draws:
        zoom, rows, columns = draws["zoom"][:, None, None], augment.window or height, augment.window or width
        top, left = (
            draws["window"][:, axis, None, None] * (size * zoom - window)
            for axis, (size, window) in enumerate(((height, rows), (width, columns)))
        )
        across, down = (across * zoom - left).clamp(0, columns), (down * zoom - top).clamp(0, rows)
    kept = ((across[..., 1] - across[..., 0]) >= LEAST_SIDE) & ((down[..., 1] - down[..., 0]) >= LEAST_SIDE)
    sides = torch.stack([across[..., 0], down[..., 0], across[..., 1], down[..., 1]], dim=-1)
    return torch.where(kept[..., None], torch.cat([sides, boxes[..., 4:]], dim=-1), torch.zeros_like(boxes))
