"""Random changes of colour, sample by sample: the colour part of the augmentation of contrastive learning."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms import functional as F

# brightness, contrast, saturation (each a factor in 1 - s .. 1 + s) and hue (a turn in -s .. s of the colour circle)
STRENGTHS = (0.4, 0.4, 0.4, 0.1)
CHANGES = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
CHANGE_RATE, GREY_RATE = 0.8, 0.2


def random_colours(num_samples: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draws of `change_colours`: `colour` [num, 4] the four amounts, `colour_order` [num, 4], and the flags [num]
    `recoloured` and `grey`."""
    uniform = torch.rand(num_samples, 10, generator=generator)
    amounts = (2 * uniform[:, :4] - 1) * torch.tensor(STRENGTHS) + torch.tensor([1.0, 1.0, 1.0, 0.0])
    return {
        "colour": amounts,
        "colour_order": uniform[:, 4:8].argsort(dim=1),
        "recoloured": uniform[:, 8] < CHANGE_RATE,
        "grey": uniform[:, 9] < GREY_RATE,
    }


def change_colours(images: Tensor, draws: dict[str, Tensor]) -> Tensor:
    """Images [batch, 1 or 3, height, width] in 0..1 -> the same as colour images, changed as `random_colours` drew."""
    amounts, orders = draws["colour"].tolist(), draws["colour_order"].tolist()
    recoloured, grey = draws["recoloured"].tolist(), draws["grey"].tolist()
    changed = []
    for index, image in enumerate(images.expand(-1, 3, -1, -1)):
        for change in orders[index] if recoloured[index] else ():
            image = CHANGES[change](image, amounts[index][change])
        changed.append(F.rgb_to_grayscale(image, num_output_channels=3) if grey[index] else image)
    return torch.stack(changed)
