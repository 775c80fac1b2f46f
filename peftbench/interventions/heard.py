"""Modules that say a number about each training pass, which an objective adds to the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Heard(nn.Module):
    """Base of such modules: what they `say` in a training pass goes into the list `heard`, once somebody `listens`.

    The list is opened ahead of a pass, and `take` closes it (`heard_in`). Nothing is said where `speaks` is false.
    """

    heard: list[Tensor] | None

    def __init__(self) -> None:
        super().__init__()
        self.heard, self.listens = None, False

    @property
    def speaks(self) -> bool:
        return self.training and self.listens

    def say(self, number: Tensor) -> None:
        """A block that is computed again has to do the same as before, though nobody hears it then."""
        if self.heard is not None:
            self.heard.append(number)

    def take(self) -> Tensor:
        """The mean over the passes since `heard` was opened."""
        assert self.heard, "a module speaks in a training pass, to one that listens"
        said, self.heard = torch.stack(self.heard).mean(), None
        return said


def heard_in(run: Callable[[], Tensor], groups: Sequence[Sequence[Heard]]) -> tuple[Tensor, Tensor]:
    """What a training pass gives, and what modules said in it: of each group the mean over its modules, [groups]."""
    for group in groups:
        for module in group:
            module.heard = []
    result = run()
    return result, torch.stack([torch.stack([module.take() for module in group]).mean() for group in groups])
