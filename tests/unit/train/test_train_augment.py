from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.train.augment import Augment, erase, flip, padded_crop, random_boxes, resized_crop
from peftbench.train.mixing import Mix
from peftbench.train.options import TrainSpec


def images(batch: int = 4, height: int = 6, width: int = 6) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_flip_mirrors_only_the_flagged_images() -> None:
    x = images(2)
    flipped = flip(x, torch.tensor([True, False]))
    for column in range(6):
        assert torch.equal(flipped[0, :, :, column], x[0, :, :, 5 - column])
    assert torch.equal(flipped[1], x[1])


@settings(max_examples=30, deadline=None)
@given(data=st.data(), padding=st.integers(1, 5), height=st.integers(1, 7), width=st.integers(1, 7))
def test_padded_crop_cuts_a_window_out_of_the_padded_image(
    data: st.DataObject, padding: int, height: int, width: int
) -> None:
    x = images(3, height, width)
    corner = st.integers(0, 2 * padding)
    shift = torch.tensor([[data.draw(corner), data.draw(corner)] for _ in range(3)])
    cropped = padded_crop(x, shift, padding)
    for i, (top, left) in enumerate(shift.tolist()):
        canvas = torch.zeros(3, height + 2 * padding, width + 2 * padding)
        canvas[:, padding : padding + height, padding : padding + width] = x[i]
        assert torch.equal(cropped[i], canvas[:, top : top + height, left : left + width])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), height=st.integers(2, 12), width=st.integers(2, 12))
def test_resized_crop_equals_cutting_and_bilinear_resizing(seed: int, height: int, width: int) -> None:
    x = images(3, height, width)
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(3, (height, width), (0.08, 1.0), (3 / 4, 4 / 3), generator, whole=True)
    cropped = resized_crop(x, boxes)
    for i, (top, left, box_height, box_width) in enumerate(boxes.tolist()):
        part = x[i : i + 1, :, top : top + box_height, left : left + box_width]
        expected = F.interpolate(part, size=(height, width), mode="bilinear", align_corners=False)
        torch.testing.assert_close(cropped[i : i + 1], expected, atol=1e-5, rtol=0)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), height=st.integers(1, 40), width=st.integers(1, 40), whole=st.booleans())
def test_random_boxes_lie_inside_the_image(seed: int, height: int, width: int, whole: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(50, (height, width), (0.08, 1.0), (3 / 4, 4 / 3), generator, whole=whole)
    assert boxes.min() >= 0
    assert (boxes[:, 0] + boxes[:, 2]).max() <= height
    assert (boxes[:, 1] + boxes[:, 3]).max() <= width
    if whole:
        assert boxes[:, 2:].min() >= 1


def test_random_boxes_keep_to_the_asked_area_and_shape() -> None:
    boxes = random_boxes(2000, (200, 200), (0.1, 0.5), (0.5, 2.0), torch.Generator().manual_seed(0), whole=True)
    share = boxes[:, 2] * boxes[:, 3] / 200**2
    ratio = boxes[:, 3] / boxes[:, 2]
    assert 0.095 < share.min() < 0.12
    assert 0.48 < share.max() < 0.51
    assert abs(share.mean() - 0.3) < 0.01
    assert 0.48 < ratio.min() < 0.55
    assert 1.8 < ratio.max() < 2.1
    assert abs(ratio.log().mean()) < 0.03


def test_boxes_that_cannot_fit_fall_back() -> None:
    generator = torch.Generator().manual_seed(0)
    # 1 pixel high and 100 wide: no box of half the area has a width near its height
    whole = random_boxes(5, (1, 100), (0.5, 1.0), (3 / 4, 4 / 3), generator, whole=True)
    empty = random_boxes(5, (1, 100), (0.5, 1.0), (3 / 4, 4 / 3), generator, whole=False)
    assert whole.tolist() == [[0, 0, 1, 100]] * 5
    assert empty.tolist() == [[0, 0, 0, 0]] * 5


def test_erase_blanks_exactly_the_box() -> None:
    x = images(2) + 1
    erased = erase(x, torch.tensor([[1, 2, 3, 2], [0, 0, 0, 0]]))
    expected = x.clone()
    expected[0, :, 1:4, 2:4] = 0
    assert torch.equal(erased, expected)


def test_erasing_touches_about_the_asked_share_of_images() -> None:
    boxes = Augment("none", erasing=0.25).draw(4000, (32, 32), seed=0, epoch=0)["erase"]
    erased = (boxes[:, 2] > 0).float().mean()
    assert abs(erased - 0.25) < 0.03


@pytest.mark.parametrize("kind", ["flip", "crop_flip", "rrc_flip"])
def test_draws_change_with_the_epoch_and_the_seed_and_repeat_otherwise(kind: str) -> None:
    augment = Augment(kind, erasing=0.5)
    first = augment.draw(64, (16, 16), seed=1, epoch=2)
    assert first
    for name, draw in first.items():
        assert torch.equal(draw, augment.draw(64, (16, 16), seed=1, epoch=2)[name])
        assert not torch.equal(draw, augment.draw(64, (16, 16), seed=1, epoch=3)[name])
        assert not torch.equal(draw, augment.draw(64, (16, 16), seed=2, epoch=2)[name])


def test_erasing_leaves_the_other_draws_alone() -> None:
    plain = Augment("crop_flip").draw(32, (16, 16), seed=0, epoch=0)
    both = Augment("crop_flip", erasing=0.5).draw(32, (16, 16), seed=0, epoch=0)
    assert torch.equal(plain["flip"], both["flip"])
    assert torch.equal(plain["shift"], both["shift"])


def mixture(mix: Mix, images: torch.Tensor, labels: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One batch as `mix` draws and blends it."""
    return mix.blend(images, labels, mix.draw(len(labels), (images.shape[-2], images.shape[-1]), 0, 0, step))


@settings(max_examples=40, deadline=None)
@given(
    step=st.integers(0, 1000),
    mixup=st.sampled_from([0.0, 0.2, 1.0]),
    cutmix=st.sampled_from([1e-4, 0.5, 1.0]),
    prob=st.sampled_from([0.5, 1.0]),
)
def test_mixed_targets_sum_to_one(step: int, mixup: float, cutmix: float, prob: float) -> None:
    labels = torch.tensor([0, 1, 2, 1])
    mixed, targets = mixture(Mix(5, mixup, cutmix, prob), images(), labels, step)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(4))
    assert targets.min() >= 0
    assert mixed.shape == (4, 3, 6, 6)


@pytest.mark.parametrize("mix", [Mix(4, mixup=1.0), Mix(4, cutmix=1.0)])
def test_targets_hold_the_share_of_each_image_in_the_mixture(mix: Mix) -> None:
    # image i is the constant one-hot colour i, so the mean colour of a mixture shows what it is made of
    labels = torch.tensor([0, 1, 2])
    x = torch.eye(3)[:, :, None, None].expand(3, 3, 8, 8).contiguous()
    shares = []
    for step in range(20):
        mixed, targets = mixture(mix, x, labels, step)
        torch.testing.assert_close(mixed.mean(dim=(2, 3)), targets[:, :3])
        assert targets[:, 3].abs().max() == 0
        shares.append(targets.max().item())
    assert len(set(shares)) > 5
    assert torch.equal(x, torch.eye(3)[:, :, None, None].expand(3, 3, 8, 8))


def test_mix_probability_leaves_the_other_batches_whole() -> None:
    labels = torch.tensor([0, 1, 2, 3])
    mix = Mix(4, mixup=1.0, prob=0.3)
    whole = [torch.equal(mixture(mix, images(), labels, step)[0], images()) for step in range(400)]
    # a mixed batch is whole only when its partners are itself, one order in 24
    assert abs(sum(whole) / 400 - (0.7 + 0.3 / 24)) < 0.08


def test_mixing_is_off_unless_asked_for() -> None:
    assert Mix.of(TrainSpec(), 10) is None
    assert Mix.of(TrainSpec(mixup=0.2, mix_prob=0.0), 10) is None
    assert Mix.of(TrainSpec(cutmix=1.0), 10) == Mix(10, 0.0, 1.0, 1.0)
