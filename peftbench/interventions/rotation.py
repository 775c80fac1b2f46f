"""Orthogonal matrices made of numbers without constraint: R = (I + Q)(I - Q)^-1 of a skew-symmetric Q (Cayley)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from peftbench.foundation.errors import NotApplicable


def skew(values: Tensor, size: int) -> Tensor:
    """Q [..., size, size] = U - U^T with U the strict upper triangle, row by row from [..., size (size-1) / 2]."""
    rows, columns = torch.triu_indices(size, size, 1, device=values.device)
    upper = values.new_zeros(*values.shape[:-1], size, size)
    upper[..., rows, columns] = values
    return upper - upper.transpose(-2, -1)


def cayley(q: Tensor) -> Tensor:
    """(I + Q)(I - Q)^-1 of skew-symmetric matrices [..., size, size]; with -Q in place of Q its transpose."""
    identity = torch.eye(q.shape[-1], dtype=q.dtype, device=q.device).expand_as(q)
    # I - Q is never singular, so nothing is checked, for which the host would have to wait
    rotation: Tensor = torch.linalg.solve_ex(identity - q, identity + q, left=False).result
    return rotation


def cayley_series(q: Tensor) -> Tensor:
    """I + 2 Q + 2 Q^2 + 2 Q^3 + Q^4, near `cayley` for small Q only (OFTv2, arXiv:2506.19847, with five terms)."""
    square = q @ q
    cube = square @ q
    return torch.eye(q.shape[-1], dtype=q.dtype, device=q.device) + 2 * (q + square + cube) + cube @ q


def into_ball(values: Tensor, radius: float) -> Tensor:
    """Triangles [..., size (size - 1) / 2]; those of a Q with a Frobenius norm above `radius` are scaled down to it.

    Those that were scaled down already stay as they are to the bit, so that a pass may be computed again.
    """
    norm = math.sqrt(2) * values.norm(dim=-1, keepdim=True)
    # their norm may be above by rounding
    within = norm <= radius * (1 + 64 * torch.finfo(values.dtype).eps)
    return torch.where(within, values, values * (radius / norm))


def check_block_dropout(share: float, number: int) -> None:
    """Raises `NotApplicable` for a share of so many blocks that holds none of them."""
    if share and not int(share * number):
        raise NotApplicable(
            f"method.block_dropout={share:g} of {number} blocks is none; set {1 / number:.3g} or more, "
            "or a smaller method.block_size"
        )


def drawn_blocks(number: int, share: float, device: torch.device) -> Tensor:
    """Which int(share * number) of the blocks a draw on the device picks: bool [number]."""
    return torch.rand(number, device=device).argsort() < int(share * number)


def unturned(rotations: Tensor, chosen: Tensor) -> Tensor:
    """`rotations` [..., size, size] with the identity where `chosen` bool [...] says so."""
    identity = torch.eye(rotations.shape[-1], dtype=rotations.dtype, device=rotations.device)
    return torch.where(chosen[..., None, None], identity, rotations)


def largest_block(width: int, most: int, multiple: int = 1, even: bool = False) -> int:
    """The largest size up to `most` that cuts `width` into a multiple of `multiple` blocks; 0 if there is none."""
    sizes = range(min(most, width), 0, -1)
    return next((size for size in sizes if width % (size * multiple) == 0 and not (even and size % 2)), 0)
