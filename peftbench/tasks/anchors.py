"""Anchors, boxes as offsets from them, and what RetinaNet learns and says of them (arXiv:1708.02002), batch by batch.

Boxes are rows of `foundation.maps`; nothing here depends on how many of them an image has, so that a training step
waits for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou, sigmoid_focal_loss

from peftbench.foundation.exact import exact

OCTAVES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
# height : width
RATIOS = (0.5, 1.0, 2.0)
PER_PLACE = len(OCTAVES) * len(RATIOS)
FOREGROUND, BACKGROUND = 0.5, 0.4
# of what is said of an image: the least score, how many of the best are looked at, overlap of two of a class, how many
LEAST_SCORE, CANDIDATES, OVERLAP, MOST = 0.05, 1000, 0.5, 100
# the largest step from an anchor's side to a box's, as a logarithm
_FARTHEST = math.log(1000 / 16)


class Detections(NamedTuple):
    """What a model says of every anchor: `logits` [batch, anchors, classes], `offsets` [batch, anchors, 4].

    `anchors`: [anchors, 4], left, top, right, bottom in pixels of images of `size` (height, width).
    """

    logits: Tensor
    offsets: Tensor
    anchors: Tensor
    size: tuple[int, int]


def anchors_of(grids: Sequence[tuple[int, int]], size: tuple[int, int], scale: float, device: torch.device) -> Tensor:
    """Anchors [places * 9, 4] of an image of `size` in the order of the levels, their rows and their columns.

    Around the middle of every cell of a grid (rows, columns) three shapes in three sizes, of `scale` times the cell's
    side and a third and two thirds of an octave more.
    """
    found = []
    for rows, columns in grids:
        tall, wide = size[0] / rows, size[1] / columns
        y = (torch.arange(rows, device=device) + 0.5) * tall
        x = (torch.arange(columns, device=device) + 0.5) * wide
        side = scale * math.sqrt(tall * wide)
        for_each = [
            (octave * side / math.sqrt(ratio) / 2, octave * side * math.sqrt(ratio) / 2)
            for ratio in RATIOS
            for octave in OCTAVES
        ]
        boxes = [torch.stack(_around(x[None, :], y[:, None], *half), dim=-1) for half in for_each]
        found.append(torch.stack(boxes, dim=2).flatten(0, 2))
    return torch.cat(found)


def _around(x: Tensor, y: Tensor, across: float, down: float) -> tuple[Tensor, ...]:
    return torch.broadcast_tensors(x - across, y - down, x + across, y + down)


def offsets_of(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes [..., 4] seen from anchors [..., 4]: middle in sides of the anchor, logarithm of the sides' quotients."""
    middle, sides = _middle_and_sides(boxes)
    anchor_middle, anchor_sides = _middle_and_sides(anchors)
    return torch.cat([(middle - anchor_middle) / anchor_sides, (sides / anchor_sides).log()], dim=-1)


def boxes_at(offsets: Tensor, anchors: Tensor) -> Tensor:
    """The boxes that `offsets_of` gives those offsets."""
    anchor_middle, anchor_sides = _middle_and_sides(anchors)
    middle = anchor_middle + offsets[..., :2] * anchor_sides
    half = anchor_sides * offsets[..., 2:].clamp(max=_FARTHEST).exp() / 2
    return torch.cat([middle - half, middle + half], dim=-1)


def _middle_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[..., :2] + boxes[..., 2:4]) / 2, boxes[..., 2:4] - boxes[..., :2]


def matches(anchors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each anchor the number of its box, whether it stands for it, and whether it stands for nothing at all.

    int64, bool, bool [batch, anchors]. It stands for a box with an overlap of 0.5 (intersection over union), or as the
    best anchor that the box has; for nothing below 0.4 of all. Boxes [batch, most, 6] that are not asked for have none.
    """
    wanted = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1]) & (boxes[..., 5] == 0)
    overlap = box_iou(boxes[..., :4].flatten(0, 1), anchors).unflatten(0, boxes.shape[:2])
    overlap = torch.where(wanted[..., None], overlap, -1.0)
    best, number = overlap.max(dim=1)
    best_of_box = (overlap == overlap.amax(dim=2, keepdim=True)) & wanted[..., None]
    stands = (best >= FOREGROUND) | best_of_box.any(dim=1)
    return number, stands, (best < BACKGROUND) & ~stands


def detection_loss(said: Detections, boxes: Tensor) -> Tensor:
    """Focal loss of the classes and L1 of the offsets, by image [batch], each over the number of standing anchors."""
    anchors, logits = exact(said.anchors), exact(said.logits)
    number, stands, nothing = matches(anchors, boxes)
    own = boxes.gather(1, number[..., None].expand(-1, -1, boxes.shape[2]))
    classes = torch.arange(logits.shape[2], device=boxes.device)
    truth = ((own[..., 4:5] == classes) & stands[..., None]).to(logits.dtype)
    focal = sigmoid_focal_loss(logits, truth).sum(dim=2)
    # where no box is, the anchor itself: an offset of nothing has no logarithm
    wanted = offsets_of(torch.where(stands[..., None], own[..., :4], anchors), anchors)
    apart = (exact(said.offsets) - wanted).abs().sum(dim=2)
    total = torch.where(stands | nothing, focal, 0.0) + torch.where(stands, apart, 0.0)
    return total.sum(dim=1) / stands.sum(dim=1).clamp(min=1)


def detected(said: Detections) -> Tensor:
    """The best boxes of each image [batch, 100, 6]: left, top, right, bottom, class, score; zeros behind the last.

    Of the thousand best scores from 0.05 on, without those that overlap a better one of their class by more than half.
    """
    scores = exact(said.logits).sigmoid().flatten(1)
    batch, classes = len(scores), said.logits.shape[2]
    best, place = scores.topk(min(CANDIDATES, scores.shape[1]), dim=1)
    anchor = place // classes
    offsets = exact(said.offsets).gather(1, anchor[..., None].expand(-1, -1, 4))
    height, width = said.size
    boxes = boxes_at(offsets, exact(said.anchors)[anchor])
    sides = torch.stack([boxes[..., i].clamp(0, width if i % 2 == 0 else height) for i in range(4)], dim=-1)
    rows = torch.cat([sides, (place % classes)[..., None], best[..., None]], dim=-1)
    found = rows.new_zeros(batch, MOST, rows.shape[2])
    for image, of_image in enumerate(rows):
        seen = of_image[of_image[:, 5] > LEAST_SCORE]
        kept = batched_nms(seen[:, :4], seen[:, 5], seen[:, 4].long(), OVERLAP)[:MOST]
        found[image, : len(kept)] = seen[kept]
    return found
