"""Batches blended with themselves: mixup and CutMix."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from peftbench.foundation.seeding import stream
from peftbench.train.augment import Draws
from peftbench.train.options import TrainSpec


@dataclass(frozen=True)
class Mix:
    """Mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899): each batch is blended with itself in another order.

    When both are on, each mixed batch takes one of the two with equal chance.
    """

    num_classes: int
    mixup: float = 0.0
    cutmix: float = 0.0
    prob: float = 1.0

    @classmethod
    def of(cls, train: TrainSpec, num_classes: int) -> Mix | None:
        """The mixing a configuration asks for; None when it asks for none."""
        if (train.mixup == 0 and train.cutmix == 0) or train.mix_prob == 0:
            return None
        return cls(num_classes, train.mixup, train.cutmix, train.mix_prob)

    def draw(self, num_samples: int, size: tuple[int, int], seed: int, epoch: int, step: int) -> Draws:
        """How one batch of images of `size` (height, width) is mixed.

        `partner` [num_samples]: the order it is blended with. `shares` [4]: of image and partner in the picture, and in
        the target. `box` [4]: (top, bottom, left, right) of the rectangle that is all partner.
        """
        generator = stream(seed, "mix", epoch, step)
        mixes, picks_cutmix, row, column = torch.rand(4, generator=generator).tolist()
        partner = torch.randperm(num_samples, generator=generator)
        picture, target, box = 1.0, 1.0, (0, 0, 0, 0)
        if mixes < self.prob:
            cut = self.cutmix > 0 and (self.mixup == 0 or picks_cutmix < 0.5)
            target = _beta(self.cutmix if cut else self.mixup, generator)
            if cut:
                box, target = _rectangle(target, size, (row, column))
            else:
                picture = target
        shares = torch.tensor([picture, 1 - picture, target, 1 - target], dtype=torch.float64).float()
        return {"partner": partner, "shares": shares, "box": torch.tensor(box)}

    def blend(self, images: Tensor, labels: Tensor, mixing: Draws) -> tuple[Tensor, Tensor]:
        """Mixed images and soft targets [batch, num_classes] whose rows sum to 1, from what `draw` gave."""
        partners = images[mixing["partner"]]
        shares = mixing["shares"].unbind()
        if self.mixup > 0:
            images = images * shares[0] + partners * shares[1]
        if self.cutmix > 0:
            top, bottom, left, right = mixing["box"].unbind()
            rows, columns = (torch.arange(side, device=images.device) for side in images.shape[-2:])
            inside = ((rows >= top) & (rows < bottom))[:, None] & (columns >= left) & (columns < right)
            images = torch.where(inside, partners, images)
        targets = (labels[:, None] == torch.arange(self.num_classes, device=labels.device)).float()
        return images, targets * shares[2] + targets[mixing["partner"]] * shares[3]


def _beta(alpha: float, generator: torch.Generator) -> float:
    """One draw from Beta(alpha, alpha)."""
    # torch._standard_gamma is the only gamma sampler of torch that takes a generator.
    first, second = torch._standard_gamma(torch.full((2,), alpha, dtype=torch.float64), generator=generator).tolist()
    # Both underflow to 0 only for a tiny alpha, where Beta is a fair coin between 0 and 1.
    return first / (first + second) if first + second > 0 else float(torch.rand((), generator=generator) < 0.5)


def _rectangle(
    keep: float, size: tuple[int, int], centre: tuple[float, float]
) -> tuple[tuple[int, int, int, int], float]:
    """(top, bottom, left, right) of about `1 - keep` of the area, and the share that it really leaves."""
    height, width = size
    half = math.sqrt(1 - keep) / 2
    top, bottom = (round(min(max(centre[0] + side * half, 0.0), 1.0) * height) for side in (-1, 1))
    left, right = (round(min(max(centre[1] + side * half, 0.0), 1.0) * width) for side in (-1, 1))
    return (top, bottom, left, right), 1 - (bottom - top) * (right - left) / (height * width)
