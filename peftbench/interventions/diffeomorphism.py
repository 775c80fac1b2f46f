"""Monotone maps of [0, 1] onto itself: flows along a velocity that is linear within each of some equal cells (CPAB).

Freifeld et al., PAMI 2017; in one dimension with closed-form integration Martinez et al., ICML 2022 (DIFW).
"""

from __future__ import annotations

import torch
from torch import Tensor

# slopes below this are taken for constant velocity
FLAT = 1e-6


def velocity(theta: Tensor) -> Tensor:
    """Velocities [cells + 1] at the ends of the cells from theta [cells - 1]; zero at both ends of the interval.

    v_j = (j / n) sum_{k >= j} theta_k / k for cells n: theta_k weighs a field that rises linearly to 1 / n at k / n and
    falls to zero within the next cell, DIFW's default basis ("rref", each column divided by its largest entry).
    """
    number = len(theta) + 1
    k = torch.arange(1, number, dtype=theta.dtype, device=theta.device)
    inside = (theta / k).flip(0).cumsum(0).flip(0) * k / number
    edge = inside.new_zeros(1)
    return torch.cat([edge, inside, edge])


def flow(x: Tensor, v: Tensor) -> Tensor:
    """Where points x [number] in [0, 1] are after one unit of time along `v`, exactly: cell by cell.

    Differentiable in v. In a cell with slope a a point at velocity u moves by u (exp(a t) - 1) / a in time t, and it
    reaches an end where the velocity is w after log(w / u) / a.
    """
    cells = len(v) - 1
    cell = (x.detach() * cells).long().clamp(0, cells - 1)
    left = torch.ones_like(x)
    for _ in range(cells):
        start, stop = v[cell], v[cell + 1]
        slope = (stop - start) * cells
        speed = start + slope * (x - cell.to(x.dtype) / cells)
        ahead = speed > 0
        end = torch.where(ahead, stop, start)
        goal = (cell + ahead.long()).to(x.dtype) / cells
        flat = slope.abs() < FLAT
        safe = torch.where(flat, torch.ones_like(slope), slope)
        moved = x + torch.where(flat, speed * left, speed * torch.expm1(safe * left) / safe)
        leaves = torch.where(ahead, moved > goal, moved < goal) & (speed != 0)
        if finished(leaves):
            return moved
        steady = ~leaves | flat
        ratio = torch.where(steady, torch.ones_like(end), end / torch.where(steady, torch.ones_like(speed), speed))
        pace = torch.where(leaves, speed, torch.ones_like(speed))
        needed = torch.where(flat, (goal - x) / pace, ratio.log() / safe)
        # a point that stays is done: no time is left to it
        x = torch.where(leaves, goal, moved)
        left = torch.where(leaves, (left - needed).clamp(min=0), torch.zeros_like(left))
        step = ahead.long() * 2 - 1
        cell = torch.where(leaves, cell + step, cell).clamp(0, cells - 1)
    return x


def finished(leaves: Tensor) -> bool:
    """Whether no point goes on to the next cell, where that is at hand: not in a trace, nor on a GPU."""
    return leaves.device.type == "cpu" and not torch.compiler.is_compiling() and not leaves.any()


def warped(values: Tensor, theta: Tensor) -> Tensor:
    """values [..., number], even samples over [0, 1], read linearly where their places flow to; theta [cells - 1]."""
    last = values.shape[-1] - 1
    places = torch.linspace(0, 1, last + 1, dtype=theta.dtype, device=theta.device)
    at = flow(places, velocity(theta)) * last
    lower = at.detach().floor().long().clamp(0, last)
    share = at - lower
    return values[..., lower] * (1 - share) + values[..., (lower + 1).clamp(max=last)] * share
