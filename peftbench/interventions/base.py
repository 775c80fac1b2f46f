"""Base of the wrappers, and folding: turning a wrapped module back into a plain one with the same function."""

from __future__ import annotations

import torch
from torch import nn


class Intervention(nn.Module):
    """A wrapper around one module of the network."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def folded(self) -> nn.Module | None:
        """A module without wrapper computing the same function, or None where the algebra does not allow it.

        Called on `base` modules that are already folded. Must leave the original tensors of `base` as they are.
        """
        return None


def innermost(module: nn.Module) -> nn.Module:
    """The network's own module that `module` wraps, through any number of wrappers; `module` itself if it is none."""
    while isinstance(module, Intervention):
        module = module.base
    return module


@torch.no_grad()
def fold_all(root: nn.Module) -> list[Intervention]:
    """Replace every wrapper below `root` that can be folded, innermost first. Returns the wrappers that remain."""
    remaining: list[Intervention] = []
    for name, child in list(root.named_children()):
        remaining += fold_all(child)
        if isinstance(child, Intervention):
            training = child.training
            # as in evaluation, without dropout
            plain = child.eval().folded()
            if plain is None:
                remaining.append(child)
                child.train(training)
            else:
                setattr(root, name, plain.train(training))
    return remaining
