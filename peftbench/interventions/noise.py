"""Noise on what a method adds, and stochastic depth with one draw for two copies of an image: for training in pairs."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from peftbench.interventions.base import Intervention, innermost


class Noise:
    """A forward hook: in training, what a wrapper adds to its frozen `base` is multiplied by N(1, sigma^2).

    One number for each image and channel. Of a module that is no wrapper the whole output is.
    """

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not module.training:
            return output
        wraps = isinstance(module, Intervention)
        frozen: Any = innermost(module)
        channel = 1 if wraps and isinstance(frozen, nn.Conv2d) else output.ndim - 1
        dims = [1] * output.ndim
        dims[0], dims[channel] = len(output), output.shape[channel]
        noise = 1 + self.sigma * torch.randn(dims, dtype=output.dtype, device=output.device)
        if not wraps:
            return output * noise
        base: Tensor = frozen(*inputs)
        return base + (output - base) * noise


def add_noise(module: nn.Module, sigma: float) -> None:
    """`module` with noise of that deviation in training; none for 0."""
    if sigma:
        module.register_forward_hook(Noise(sigma))


def changes_linear(module: nn.Module) -> bool:
    """Whether `module` is a method's wrapper, or several around each other, of a frozen linear map or convolution."""
    return isinstance(module, Intervention) and isinstance(innermost(module), (nn.Linear, nn.Conv2d))


class SharedDropPath(DropPath):
    """Stochastic depth with one draw for both copies of an image, [x; x] on the batch axis, or for `copies` = 1.

    What is kept is divided by the mean of the draw and not by its expectation (PACE, arXiv:2409.17137, released code).
    """

    copies = 2

    def forward(self, x: Tensor) -> Tensor:
        if not self.drop_prob or not self.training:
            return x
        # drawn for all and divided twice, as released, so that a seed gives the same to the last digit
        keep = 1 - self.drop_prob
        drawn = x.new_empty((len(x), *[1] * (x.ndim - 1))).bernoulli_(keep)
        if keep > 0 and self.scale_by_keep:
            drawn.div_(keep)
        mask = torch.cat([drawn[: len(x) // self.copies]] * self.copies)
        return x * (mask / (mask.mean() + 1e-12))


def share_draws(root: nn.Module) -> None:
    """Every stochastic depth below `root` draws once for the two copies of a batch [x; x]."""
    for parent in list(root.modules()):
        for name, child in parent.named_children():
            if type(child) is DropPath:
                setattr(parent, name, SharedDropPath(child.drop_prob, child.scale_by_keep))


def set_copies(root: nn.Module, copies: int) -> None:
    """How many copies of each image the next batches hold, for the stochastic depth below `root` that shares draws."""
    for module in root.modules():
        if isinstance(module, SharedDropPath):
            module.copies = copies
