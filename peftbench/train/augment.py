"""Augmentation of whole batches on the device, from random numbers drawn beforehand for every sample of an epoch.

A sample's numbers depend on (seed, epoch, place in the split) only, so neither batch size nor order changes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from peftbench.foundation.seeding import stream
from peftbench.train.colours import change_colours, distort, random_colours, random_distortions
from peftbench.train.options import CUT_WHILE_READ, TrainSpec

Draws = dict[str, Tensor]

_ATTEMPTS = 10
_SEEDS = 2**62


@dataclass(frozen=True)
class Augment:
    """What is done to the training images; `kind` is one of `train.options.AUGMENTS`, crop_flip being the padded crop.

    `contrast` is the rrc_flip of contrastive learning, which also changes colours (SupCon, arXiv:2004.11362).
    `window_flip` cuts a random square out of the resized picture, which happens where pictures are read: only its
    places are drawn here, and of `whole_rrc_flip`, `jitter_flip`, `scales_flip` and the `rand_ops` of RandAugment only
    numbers to start chance from. `scale_crop_flip` zooms by a factor from `zoom` and cuts a random window, the
    augmentation of segmentation; `scale_rotate_flip` zooms and turns about the middle, by up to `rotation` degrees,
    that of several tasks at once (ASTMT's and MTI-Net's code). Maps move with their images (`train.moved_maps`). Two
    numbers of `zoom` are a range, more of them all there is to choose from. Below 1 `cat_max_ratio` is what no class
    may fill of a window; up to ten others are drawn (mmsegmentation). Without `mirrors` nothing is flipped, for
    data whose labels know left from right. With `draw_frames` readers are told which moments of a clip to take.
    """

    kind: str = "none"
    crop_padding: int = 4
    erasing: float = 0.0
    zoom: tuple[float, ...] = (0.5, 2.0)
    rotation: float = 20.0
    photometric: bool = False
    window: int | None = None
    mirrors: bool = True
    draw_frames: bool = False
    cat_max_ratio: float = 1.0
    rand_ops: int = 0

    @classmethod
    def of(cls, train: TrainSpec, window: int | None = None, mirrors: bool = True) -> Augment:
        return cls(
            train.augment,
            train.crop_padding,
            train.erasing,
            tuple(train.zoom),
            train.rotation,
            train.photometric,
            window,
            mirrors,
            train.draw_frames,
            train.cat_max_ratio,
            train.rand_ops,
        )

    @property
    def active(self) -> bool:
        moves = self.kind not in ("none", *(() if self.mirrors else ("flip",)))
        return moves or self.erasing > 0 or self.photometric or self.draw_frames or self.rand_ops > 0

    @property
    def while_read(self) -> str:
        """The option that changes pictures where they are read; empty where none does."""
        if self.kind in CUT_WHILE_READ:
            return f"train.augment={self.kind}"
        return f"train.rand_ops={self.rand_ops}" if self.rand_ops else ""

    @property
    def on_host(self) -> bool:
        """Whether the host steers it, sample by sample."""
        return self.kind == "contrast"

    def draw(self, num_samples: int, size: tuple[int, int], seed: int, epoch: int, frames: int = 1) -> Draws:
        """Random numbers of one epoch: name -> tensor whose row i belongs to sample i; empty for no augmentation."""
        draws: Draws = {}
        if self.draw_frames:
            generator = stream(seed, "augment", epoch, "moment")
            draws["moment"] = torch.rand(num_samples, frames, generator=generator, dtype=torch.float64)
        if self.kind != "none" and self.mirrors:
            draws["flip"] = torch.rand(num_samples, generator=stream(seed, "augment", epoch, "flip")) < 0.5
        if self.kind == "crop_flip":
            generator = stream(seed, "augment", epoch, "crop")
            draws["shift"] = torch.randint(2 * self.crop_padding + 1, (num_samples, 2), generator=generator)
        if self.kind == "window_flip":
            generator = stream(seed, "augment", epoch, "place")
            draws["place"] = torch.rand(num_samples, 2, generator=generator, dtype=torch.float64)
        elif self.kind in CUT_WHILE_READ:
            draws["cut"] = torch.randint(_SEEDS, (num_samples,), generator=stream(seed, "augment", epoch, "cut"))
        if self.rand_ops:
            draws["ops"] = torch.randint(_SEEDS, (num_samples,), generator=stream(seed, "augment", epoch, "ops"))
        if self.kind in ("rrc_flip", "contrast"):
            generator = stream(seed, "augment", epoch, "resized_crop")
            draws["box"] = random_boxes(num_samples, size, (0.08, 1.0), (3 / 4, 4 / 3), generator, whole=True)
        if self.kind == "scale_crop_flip":
            generator = stream(seed, "augment", epoch, "window")
            uniform = torch.rand(num_samples, 3, generator=generator)
            draws["zoom"] = self._zooms(uniform[:, 0])
            draws["window"] = uniform[:, 1:]
            if self.cat_max_ratio < 1:
                others = torch.rand(num_samples, _ATTEMPTS, 2, generator=stream(seed, "augment", epoch, "windows"))
                draws["windows"] = torch.cat([uniform[:, None, 1:], others], dim=1)
        if self.kind == "scale_rotate_flip":
            generator = stream(seed, "augment", epoch, "turn")
            uniform = torch.rand(num_samples, 2, generator=generator)
            draws["zoom"] = self._zooms(uniform[:, 0])
            draws["angle"] = math.radians(self.rotation) * (2 * uniform[:, 1] - 1)
        if self.photometric:
            draws |= random_distortions(num_samples, stream(seed, "augment", epoch, "photometric"))
        if self.kind == "contrast":
            draws |= random_colours(num_samples, stream(seed, "augment", epoch, "colours"))
        if self.erasing > 0:
            generator = stream(seed, "augment", epoch, "erasing")
            boxes = random_boxes(num_samples, size, (0.02, 1 / 3), (0.3, 1 / 0.3), generator, whole=False)
            erased = torch.rand(num_samples, generator=generator) < self.erasing
            draws["erase"] = boxes * erased[:, None]
        return draws

    def _zooms(self, uniform: Tensor) -> Tensor:
        if len(self.zoom) == 2:
            return self.zoom[0] + (self.zoom[1] - self.zoom[0]) * uniform
        return torch.tensor(self.zoom)[(uniform * len(self.zoom)).long()]

    def geometry(self, images: Tensor, draws: Draws) -> Tensor:
        """Crop, flip and colours of images [batch, channels, height, width] in 0..1, before normalisation.

        Padding is black.
        """
        if "contrast_last" in draws:
            images = distort(images, draws)
        if "shift" in draws:
            images = padded_crop(images, draws["shift"], self.crop_padding)
        if "box" in draws:
            images = resized_crop(images, draws["box"])
        if "flip" in draws:
            images = flip(images, draws["flip"])
        return change_colours(images, draws) if "grey" in draws else images

    def normalised(self, images: Tensor, draws: Draws) -> Tensor:
        """What is done behind normalisation, where 0 is the mean colour: zoomed windows and turned pictures, whose
        outside is 0, and erasing.

        Random erasing (arXiv:1708.04896) sets a rectangle to 0.
        """
        if "angle" in draws:
            images = turned(images, draws["zoom"], draws["angle"])
        elif "zoom" in draws:
            images = zoomed_window(images, draws["zoom"], draws["window"], self.window)
        return erase(images, draws["erase"]) if "erase" in draws else images


def random_boxes(
    num_samples: int,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
    *,
    whole: bool,
) -> Tensor:
    """Boxes [num_samples, 4] of (top, left, height, width) in pixels, inside an image of `size` (height, width).

    The share of the area is uniform in `scale`, width / height log-uniform in `ratio` (Inception crop,
    arXiv:1409.4842). Each sample takes the first of ten attempts that fits; if none does it gets the whole image, or
    an empty box when `whole` is false.
    """
    height, width = size
    uniform = torch.rand(4, num_samples, _ATTEMPTS, generator=generator, dtype=torch.float64)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * uniform[0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * uniform[1])
    box_width = torch.sqrt(area * aspect).round().long()
    box_height = torch.sqrt(area / aspect).round().long()
    fits = (box_width >= 1) & (box_width <= width) & (box_height >= 1) & (box_height <= height)
    top = (uniform[2] * (height - box_height + 1)).floor().long()
    left = (uniform[3] * (width - box_width + 1)).floor().long()
    boxes = torch.stack([top, left, box_height, box_width], dim=-1)
    first = fits.int().argmax(dim=1)
    chosen = boxes[torch.arange(num_samples), first]
    fallback = torch.tensor([0, 0, height, width] if whole else [0, 0, 0, 0])
    return torch.where(fits.any(dim=1, keepdim=True), chosen, fallback)


def flip(images: Tensor, flags: Tensor) -> Tensor:
    """Mirrors left and right those images [batch, channels, height, width] whose flag [batch] is true."""
    return torch.where(flags[:, None, None, None], images.flip(-1), images)


def padded_crop(images: Tensor, shift: Tensor, padding: int) -> Tensor:
    """Pads with zeros on every side, then cuts out the old size at `shift` [batch, 2] (top, left), 0..2 * padding."""
    batch, channels, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    rows = shift[:, :1] + torch.arange(height, device=images.device)
    columns = shift[:, 1:] + torch.arange(width, device=images.device)
    sample = torch.arange(batch, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def resized_crop(images: Tensor, boxes: Tensor) -> Tensor:
    """Cuts boxes [batch, 4] (top, left, height, width) and resizes them, bilinearly, to the size of the images."""
    height, width = images.shape[-2:]
    boxes = boxes.to(images.dtype)
    rows = _sample_points(boxes[:, 0], boxes[:, 2], height)
    columns = _sample_points(boxes[:, 1], boxes[:, 3], width)
    grid = torch.stack(torch.broadcast_tensors(columns[:, None, :], rows[:, :, None]), dim=-1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _sample_points(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Where `size` output pixels look along one axis [batch, size], in the -1..1 units of grid_sample."""
    centres = (torch.arange(size, device=start.device, dtype=start.dtype) + 0.5) / size
    points = start[:, None] + length[:, None] * centres - 0.5
    # Without the clamp the outermost pixels would mix in colours from outside the crop.
    points = points.clamp(min=start[:, None], max=(start + length - 1)[:, None])
    return (2 * points + 1) / size - 1


def zoomed_window(images: Tensor, zoom: Tensor, place: Tensor, window: int | None = None) -> Tensor:
    """A random window of images zoomed by `zoom` [batch], of `window` px or their size; bilinear, 0 outside."""
    height, width = images.shape[-2:]
    rows, columns = (window_points(zoom, place[:, axis], size, window) for axis, size in enumerate((height, width)))
    axes = (2 * columns[:, None, :] + 1) / width - 1, (2 * rows[:, :, None] + 1) / height - 1
    grid = torch.stack(torch.broadcast_tensors(*axes), dim=-1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def window_points(zoom: Tensor, place: Tensor, size: int, window: int | None = None) -> Tensor:
    """Where the pixels of a window look along one axis of `size` px [batch, window or size], in pixels of the image.

    `place` in 0..1 says where the window lies in the zoomed image, or the image in the window where it is smaller.
    """
    window = window or size
    start = place * (size * zoom - window)
    centres = torch.arange(window, device=zoom.device, dtype=zoom.dtype) + 0.5
    return (start[:, None] + centres) / zoom[:, None] - 0.5


def turned(images: Tensor, zoom: Tensor, angle: Tensor) -> Tensor:
    """Images zoomed by `zoom` [batch] and turned left by `angle` [batch] (radians) about the middle; 0 outside."""
    height, width = images.shape[-2:]
    rows, columns = turned_points(zoom, angle, (height, width))
    grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], dim=-1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def turned_points(zoom: Tensor, angle: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Rows and columns [batch, height, width], in pixels of the image, where the pixels of a turned image look."""
    middle = [(side - 1) / 2 for side in size]
    down, right = (
        torch.arange(side, device=zoom.device, dtype=zoom.dtype) - half for side, half in zip(size, middle, strict=True)
    )
    cosine, sine = ((part / zoom)[:, None, None] for part in (torch.cos(angle), torch.sin(angle)))
    rows = sine * right + cosine * down[:, None] + middle[0]
    return rows, cosine * right - sine * down[:, None] + middle[1]


def erase(images: Tensor, boxes: Tensor) -> Tensor:
    """Sets to 0 the boxes [batch, 4] (top, left, height, width); an empty box erases nothing."""
    height, width = images.shape[-2:]
    top, left, box_height, box_width = (boxes[:, i, None] for i in range(4))
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    in_rows = (rows >= top) & (rows < top + box_height)
    in_columns = (columns >= left) & (columns < left + box_width)
    return images.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0.0)
