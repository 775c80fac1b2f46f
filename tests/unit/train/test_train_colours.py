"""Colours change as drawn, sample by sample, and grey images stay grey."""

from __future__ import annotations

import torch
from torchvision.transforms import functional as F

from peftbench.train.augment import Augment
from peftbench.train.colours import DISTORTIONS, change_colours, distort, random_colours, random_distortions


def still(num: int) -> dict[str, torch.Tensor]:
    """Draws that change nothing."""
    return {
        "colour": torch.tensor([[1.0, 1.0, 1.0, 0.0]]).repeat(num, 1),
        "colour_order": torch.arange(4).repeat(num, 1),
        "recoloured": torch.ones(num, dtype=torch.bool),
        "grey": torch.zeros(num, dtype=torch.bool),
    }


def test_each_sample_changes_as_its_own_draw_says() -> None:
    images, draws = torch.rand(3, 3, 4, 4), still(3)
    draws["colour"][0, 0] = 0.5
    draws["grey"][1] = True
    changed = change_colours(images, draws)
    torch.testing.assert_close(changed[0], images[0] * 0.5)
    grey = (images[1] * torch.tensor([0.2989, 0.587, 0.114])[:, None, None]).sum(dim=0)
    torch.testing.assert_close(changed[1], grey.expand(3, -1, -1), atol=1e-4, rtol=0)
    torch.testing.assert_close(changed[2], images[2], atol=1e-5, rtol=0)


def test_the_order_of_changes_counts() -> None:
    images, draws = torch.rand(2, 3, 4, 4), still(2)
    draws["colour"][:, :2] = torch.tensor([1.4, 0.6])
    images[1] = images[0]
    draws["colour_order"][1] = torch.tensor([1, 0, 2, 3])
    changed = change_colours(images, draws)
    assert not torch.allclose(changed[0], changed[1])


def test_grey_images_become_colour_images_without_colour() -> None:
    draws = random_colours(8, torch.Generator().manual_seed(0))
    changed = change_colours(torch.rand(8, 1, 4, 4), draws)
    assert changed.shape == (8, 3, 4, 4)
    assert (changed - changed[:, :1]).abs().max() < 1e-3


def test_draws_have_the_rates_and_ranges_of_the_recipe() -> None:
    draws = random_colours(4000, torch.Generator().manual_seed(1))
    assert abs(draws["recoloured"].float().mean() - 0.8) < 0.03 and abs(draws["grey"].float().mean() - 0.2) < 0.03
    low, high = draws["colour"].min(dim=0).values, draws["colour"].max(dim=0).values
    torch.testing.assert_close(low, torch.tensor([0.6, 0.6, 0.6, -0.1]), atol=0.01, rtol=0)
    torch.testing.assert_close(high, torch.tensor([1.4, 1.4, 1.4, 0.1]), atol=0.01, rtol=0)
    assert sorted(draws["colour_order"][0].tolist()) == [0, 1, 2, 3]


def test_contrast_crops_flips_and_recolours_by_seed_and_sample() -> None:
    augment, images = Augment("contrast"), torch.rand(4, 3, 8, 8)
    draws = augment.draw(4, (8, 8), 0, 0)
    assert {"flip", "box", "colour", "grey"} <= draws.keys()
    changed = augment.geometry(images, draws)
    assert changed.shape == images.shape and not torch.equal(changed, images)
    again = augment.geometry(images[2:], {name: draw[2:] for name, draw in augment.draw(4, (8, 8), 0, 0).items()})
    assert torch.equal(again, changed[2:])


def test_distortions_are_those_of_hue_saturation_and_value() -> None:
    images = torch.rand(3, 3, 5, 5, generator=torch.Generator().manual_seed(2))
    nothing = {name: torch.zeros(3) for name in DISTORTIONS} | {"contrast_last": torch.tensor([True, False, True])}
    torch.testing.assert_close(distort(images, nothing), images, atol=1e-6, rtol=0)
    hue = distort(images, nothing | {"hue": torch.tensor([0.05, -0.05, 0.0])})
    for index, turn in enumerate((0.05, -0.05, 0.0)):
        torch.testing.assert_close(hue[index], F.adjust_hue(images[index], turn), atol=1e-5, rtol=0)
    grey = distort(images, nothing | {"saturation": torch.full((3,), -1.0)})
    torch.testing.assert_close(grey, images.amax(1, keepdim=True).expand_as(images), atol=1e-6, rtol=0)
    brighter = distort(images, nothing | {"brightness": torch.full((3,), 0.1)})
    torch.testing.assert_close(brighter, (images + 0.1).clamp(max=1), atol=1e-5, rtol=0)
    stretched = distort(images, nothing | {"contrast": torch.full((3,), 0.5)})
    torch.testing.assert_close(stretched, (1.5 * images).clamp(max=1), atol=1e-5, rtol=0)


def test_distortions_reach_as_far_as_mmsegmentations() -> None:
    """Up to 32 of 255, half, half, and 18 steps of two degrees, as a circle of hues has in a picture of 8 bits."""
    assert DISTORTIONS == {"brightness": 32 / 255, "contrast": 0.5, "saturation": 0.5, "hue": 36 / 360}


def test_each_distortion_spares_half_of_the_images() -> None:
    draws = random_distortions(4000, torch.Generator().manual_seed(0))
    for name, most in DISTORTIONS.items():
        assert 0.45 < (draws[name] == 0).float().mean() < 0.55
        assert draws[name].abs().max() <= most and draws[name].abs().max() > 0.95 * most
