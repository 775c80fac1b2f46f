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


# mmsegmentation's photometric distortion: each of the four happens to half of the images. Its hue of up to 18 is one
# of OpenCV's 8-bit pictures, whose whole circle is 180.
DISTORTIONS = {"brightness": 32 / 255, "contrast": 0.5, "saturation": 0.5, "hue": 18 / 180}


def random_distortions(num_samples: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draws of `distort`: one amount [num] a distortion, which does nothing to about half of the samples.

    Brightness is added, contrast and saturation multiply (0.5 to 1.5), hue turns the colour circle. `contrast_last`
    [num]: whether contrast comes behind saturation and hue.
    """
    uniform = torch.rand(num_samples, 9, generator=generator)
    draws = {}
    for number, (name, most) in enumerate(DISTORTIONS.items()):
        amount = (2 * uniform[:, 2 * number] - 1) * most
        draws[name] = torch.where(uniform[:, 2 * number + 1] < 0.5, amount, torch.zeros(()))
    draws["contrast_last"] = uniform[:, 8] < 0.5
    return draws


def distort(images: Tensor, draws: dict[str, Tensor]) -> Tensor:
    """Images [batch, 1 or 3, height, width] in 0..1 -> [batch, 3, ...], changed as `random_distortions` drew."""
    brightness, contrast, saturation, hue = (draws[name][:, None, None, None] for name in DISTORTIONS)
    last = draws["contrast_last"][:, None, None, None]
    images = (images.expand(-1, 3, -1, -1) + brightness).clamp(0, 1)
    stretched = (images * (1 + contrast)).clamp(0, 1)
    images = _turned(torch.where(last, images, stretched), 1 + saturation, hue)
    return torch.where(last, (images * (1 + contrast)).clamp(0, 1), images)


def _turned(images: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Saturation multiplied and hue turned by a share of the circle, in hue, saturation and value."""
    value, low = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    spread = value - low
    safe = torch.where(spread > 0, spread, torch.ones_like(spread))
    red, green, blue = images.split(1, dim=1)
    sixth = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixth = torch.where(spread > 0, sixth, torch.zeros_like(sixth)) + 6 * hue
    share = torch.where(
        value > 0, spread / torch.where(value > 0, value, torch.ones_like(value)), torch.zeros_like(value)
    )
    share = (share * saturation).clamp(0, 1)
    # a channel falls from the value by its distance from the hue (Smith 1978, in one formula)
    place = (5 - 2 * torch.arange(3, device=images.device).view(1, 3, 1, 1) + sixth) % 6
    return value - value * share * torch.minimum(place, 4 - place).clamp(0, 1)
