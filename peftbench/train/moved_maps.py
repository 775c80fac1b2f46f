"""Maps that move with their images: the same crop, zoom and flip, from the same draws, each pixel the nearest one's."""

from __future__ import annotations

import torch
from torch import Tensor

from peftbench.foundation.maps import UNKNOWN
from peftbench.train.augment import Augment, Draws, turned_points, window_points

# what a map of numbers says where nothing is known
NAN = float("nan")


def moved(name: str, values: Tensor, draws: Draws, augment: Augment) -> Tensor:
    """Maps [batch, (channels,) height, width] as `augment` moves their images; unknown where it looks outside.

    A zoomed picture shows things nearer, so `depth` is divided by the zoom (MTI-Net's and MTLoRA's rule, which holds
    for perspective cameras). A mirrored picture shows mirrored `normals`: their x changes sign; in a turned one they
    turn as far (x to the right, y down).
    """
    unknown = NAN if values.is_floating_point() else UNKNOWN
    height, width = values.shape[-2:]
    if "shift" in draws:
        rows, columns = (
            draws["shift"][:, axis, None] - augment.crop_padding + torch.arange(size, device=values.device)
            for axis, size in enumerate((height, width))
        )
        values = _taken(values, rows, columns, unknown)
    if "box" in draws:
        rows, columns = (
            draws["box"][:, axis, None]
            + ((torch.arange(size, device=values.device) + 0.5) * draws["box"][:, axis + 2, None] / size).floor().long()
            for axis, size in enumerate((height, width))
        )
        values = _taken(values, rows, columns, unknown)
    if "flip" in draws:
        mirrored = values.flip(-1)
        if name == "normals":
            mirrored = torch.cat([-mirrored[:, :1], mirrored[:, 1:]], dim=1)
        values = torch.where(draws["flip"].view(-1, *[1] * (values.ndim - 1)), mirrored, values)
    if "angle" in draws:
        down, right = turned_points(draws["zoom"], draws["angle"], (height, width))
        values = _at(values, (down + 0.5).floor().long(), (right + 0.5).floor().long(), unknown)
        if name == "normals":
            values = _pointing(values, draws["angle"][:, None, None])
    elif "zoom" in draws:
        rows, columns = (
            (window_points(draws["zoom"], draws["window"][:, axis], size, augment.window) + 0.5).floor().long()
            for axis, size in enumerate((height, width))
        )
        values = _taken(values, rows, columns, unknown)
    if "zoom" in draws and name == "depth":
        values = values / draws["zoom"][:, None, None]
    return values


def varied_windows(classes: Tensor, draws: Draws, augment: Augment) -> Draws:
    """`draws` with the first of their `windows` in which no class fills `cat_max_ratio` of the known pixels.

    Where none is such a window it is the last one. classes: integers [batch, height, width].
    """
    *first, _ = draws["windows"].unbind(dim=1)
    shown = (moved("class_map", classes, {**draws, "window": place}, augment) for place in first)
    fits = torch.stack([_is_varied(each, augment.cat_max_ratio) for each in shown])
    chosen = (fits.cumsum(dim=0) == 0).sum(dim=0)
    return {**draws, "window": draws["windows"][torch.arange(len(chosen), device=chosen.device), chosen]}


def _is_varied(classes: Tensor, most: float) -> Tensor:
    ordered = classes.flatten(1).sort(dim=1).values
    each = torch.arange(UNKNOWN, device=classes.device, dtype=classes.dtype).expand(len(ordered), -1).contiguous()
    counts = torch.searchsorted(ordered, each, right=True) - torch.searchsorted(ordered, each)
    return counts.amax(dim=1) < most * counts.sum(dim=1)


def _pointing(normals: Tensor, angle: Tensor) -> Tensor:
    """Normals [batch, 3, height, width] turned left in the plane of the picture."""
    right, down, away = normals.unbind(dim=1)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    return torch.stack([cosine * right + sine * down, cosine * down - sine * right, away], dim=1)


def _taken(values: Tensor, rows: Tensor, columns: Tensor, unknown: float) -> Tensor:
    """The pixels at `rows` [batch, height] and `columns` [batch, width] of each map, `unknown` outside of it."""
    return _at(values, rows[:, :, None], columns[:, None, :], unknown)


def _at(values: Tensor, rows: Tensor, columns: Tensor, unknown: float) -> Tensor:
    """The pixels of each map at `rows` and `columns`, together [batch, height, width]; `unknown` outside of it."""
    height, width = values.shape[-2:]
    stacked = values if values.ndim == 4 else values[:, None]
    sample = torch.arange(len(values), device=values.device)[:, None, None]
    # the samples' axis, rows and columns are indexed together, so that channels come last
    found = stacked[sample, :, rows.clamp(0, height - 1), columns.clamp(0, width - 1)]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    found = found.masked_fill(~inside[..., None], unknown).movedim(-1, 1)
    return found if values.ndim == 4 else found[:, 0]
