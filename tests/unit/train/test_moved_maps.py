"""Maps go where their images go, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine

from peftbench.foundation.errors import ConfigError
from peftbench.foundation.maps import BOXES
from peftbench.train.augment import Augment, turned
from peftbench.train.batches import Batches
from peftbench.train.mixing import Mix
from peftbench.train.moved_maps import NAN, UNKNOWN, moved, varied_windows
from peftbench.train.options import TrainSpec

SIZE = 48


def stripes(num: int = 6) -> np.ndarray:
    """Class maps of large fields: four quarters, whose sizes differ from sample to sample."""
    maps = np.zeros((num, SIZE, SIZE), np.uint8)
    for index in range(num):
        maps[index, :, 16 + index % 4 :] += 1
        maps[index, 12 + index % 5 :] += 2
    return maps


def batch_of(augment: Augment | None, **targets: np.ndarray) -> dict[str, torch.Tensor]:
    """One batch whose image is 60 x its class at every pixel."""
    pixels = np.repeat(60 * stripes()[..., None], 3, axis=-1)
    targets = {"class_map": stripes(), **targets}
    return next(Batches({"image": pixels}, targets, batch_size=6, augment=augment, seed=4).epoch(2))


@pytest.mark.parametrize("kind", ["flip", "crop_flip", "scale_crop_flip", "scale_rotate_flip", "rrc_flip"])
def test_images_and_class_maps_move_together(kind: str) -> None:
    batch = batch_of(Augment(kind))
    shown, truth = batch["image"][:, 0] * 255 / 60, batch["class_map"]
    plain = batch_of(None)
    assert not torch.equal(truth, plain["class_map"]) and truth.dtype == torch.int64
    known = truth != UNKNOWN
    assert (~known).any() == (kind in ("crop_flip", "scale_crop_flip", "scale_rotate_flip"))
    # bilinear pictures and nearest classes differ on the seams alone
    agree = (shown - truth).abs()[known] < 0.5
    assert agree.float().mean() > (0.999 if kind in ("flip", "crop_flip") else 0.9)
    outside = shown[~known]
    assert outside.abs().max() < 1.6 if len(outside) else True


def test_a_zoom_of_one_and_two_is_exact() -> None:
    maps = torch.from_numpy(stripes()).long()
    draws = {"zoom": torch.ones(6), "window": torch.rand(6, 2)}
    augment = Augment("scale_crop_flip")
    assert torch.equal(moved("class_map", maps, draws, augment), maps)
    twice = moved("class_map", maps, {"zoom": 2 * torch.ones(6), "window": torch.ones(6, 2)}, augment)
    assert torch.equal(twice, maps[:, 24:, 24:].repeat_interleave(2, 1).repeat_interleave(2, 2))
    half = moved("class_map", maps, {"zoom": torch.full((6,), 0.5), "window": torch.zeros(6, 2)}, augment)
    assert torch.equal(half[:, :24, :24], maps[:, 1::2, 1::2])
    assert (half[:, 24:] == UNKNOWN).all() and (half[:, :, 24:] == UNKNOWN).all()


def test_images_turn_as_torchvision_turns_them() -> None:
    images = torch.rand(2, 3, 20, 31, generator=torch.Generator().manual_seed(0))
    found = turned(images, torch.tensor([1.0, 0.8]), torch.deg2rad(torch.tensor([17.0, -33.0])))
    for index, (angle, zoom) in enumerate([(17.0, 1.0), (-33.0, 0.8)]):
        # torchvision turns to the right where y points down
        wanted = affine(images[index : index + 1], -angle, [0, 0], zoom, [0.0, 0.0], InterpolationMode.BILINEAR)
        torch.testing.assert_close(found[index], wanted[0], atol=2e-5, rtol=0)


def test_maps_turn_left_by_a_quarter_and_normals_turn_with_them() -> None:
    draws = {"zoom": torch.tensor([1.0, 2.0]), "angle": torch.full((2,), math.pi / 2)}
    augment = Augment("scale_rotate_flip")
    maps = torch.from_numpy(stripes(2)).long()
    left = maps.rot90(1, (-2, -1))
    found = moved("class_map", maps, draws, augment)
    assert torch.equal(found[0], left[0])
    assert torch.equal(found[1], left[1, 12:36, 12:36].repeat_interleave(2, 0).repeat_interleave(2, 1))
    depth = torch.rand(2, SIZE, SIZE)
    assert torch.equal(moved("depth", depth, draws, augment)[0], depth[0].rot90(1, (-2, -1)))
    nearer = depth[1].rot90(1, (-2, -1))[12:36, 12:36] / 2
    assert torch.equal(moved("depth", depth, draws, augment)[1, ::2, ::2], nearer)
    # what pointed to the right points up, what pointed down to the right
    right, down = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    for before, after in ((right, -down), (down, right), (torch.tensor([0.0, 0, -1]), torch.tensor([0.0, 0, -1]))):
        normals = before[None, :, None, None].expand(2, 3, SIZE, SIZE)
        said = moved("normals", normals, draws, augment)
        torch.testing.assert_close(said, after[None, :, None, None].expand_as(said), atol=1e-6, rtol=0)


def test_normals_of_a_turned_surface_are_the_turned_normals() -> None:
    """A bump's slopes, taken from its depth before and after a turn by 20 degrees."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 200), torch.linspace(-1, 1, 200), indexing="ij")
    angle = torch.deg2rad(torch.tensor([20.0]))
    draws = {"zoom": torch.ones(1), "angle": angle}
    cosine, sine = torch.cos(angle), torch.sin(angle)
    before = torch.exp(-3 * (x - 0.2) ** 2 - 5 * (y + 0.1) ** 2)
    turned_x, turned_y = cosine * x - sine * y, sine * x + cosine * y
    after = torch.exp(-3 * (turned_x - 0.2) ** 2 - 5 * (turned_y + 0.1) ** 2)
    found = moved("normals", normals_of(before)[None], draws, Augment("scale_rotate_flip"))[0]
    inside = (x**2 + y**2 < 0.8) & ~found.isnan().any(dim=0)
    cosines = (found * normals_of(after)).sum(dim=0)[inside]
    # the nearest pixel lies up to 0.7 px aside, where the surface looks a few degrees elsewhere
    assert inside.sum() > 20_000 and cosines.min() > math.cos(math.radians(4))


def normals_of(depth: torch.Tensor) -> torch.Tensor:
    slope_y, slope_x = torch.gradient(depth, spacing=2 / 199)
    normals = torch.stack([slope_x, slope_y, -torch.ones_like(depth)])
    return normals / normals.norm(dim=0)


def test_a_turn_is_drawn_within_its_range_and_a_zoom_from_a_list() -> None:
    augment = Augment.of(TrainSpec(augment="scale_rotate_flip", zoom=[1.0, 1.2, 1.5], rotation=20.0))
    draws = augment.draw(4000, (SIZE, SIZE), 0, 1)
    assert set(draws) == {"flip", "zoom", "angle"}
    assert {round(value, 6) for value in draws["zoom"].tolist()} == {1.0, 1.2, 1.5}
    shares = [(draws["zoom"] == torch.tensor(value)).float().mean() for value in (1.0, 1.2, 1.5)]
    assert all(abs(share - 1 / 3) < 0.03 for share in shares)
    degrees = torch.rad2deg(draws["angle"])
    assert -20 <= degrees.min() < -19.9 and 19.9 < degrees.max() <= 20 and degrees.mean().abs() < 0.6
    still = Augment.of(TrainSpec(augment="scale_rotate_flip", zoom=[1.0, 1.0], rotation=0.0))
    assert (still.draw(4, (SIZE, SIZE), 0, 1)["angle"] == 0).all()


def test_a_window_that_one_class_fills_is_drawn_again() -> None:
    """As mmsegmentation's loop does it, sample by sample: the first of ten that is varied enough, else the eleventh."""
    maps = torch.from_numpy(stripes()).long()
    maps[1, 20:] = UNKNOWN
    maps[2] = 3
    augment = Augment.of(TrainSpec(augment="scale_crop_flip", zoom=[1.5, 4.0], cat_max_ratio=0.6))
    draws = augment.draw(6, (SIZE, SIZE), 0, 1)
    assert draws["windows"].shape == (6, 11, 2) and torch.equal(draws["windows"][:, 0], draws["window"])
    found, again = varied_windows(maps, draws, augment)["window"], []
    for index in range(6):
        for attempt in range(11):
            place = draws["windows"][index, attempt]
            row = {"flip": draws["flip"][[index]], "zoom": draws["zoom"][[index]], "window": place[None]}
            labels, counts = moved("class_map", maps[[index]], row, augment).unique(return_counts=True)
            counts = counts[labels != UNKNOWN]
            if len(counts) > 1 and counts.max() / counts.sum() < 0.6:
                break
        assert torch.equal(found[index], place)
        again.append(attempt)
    assert again[2] == 10 and 0 in again and any(0 < attempt < 10 for attempt in again)


def test_windows_of_images_and_maps_are_the_chosen_ones() -> None:
    augment = Augment.of(TrainSpec(augment="scale_crop_flip", zoom=[1.5, 4.0], cat_max_ratio=0.6))
    batch = batch_of(augment)
    assert ((batch["image"][:, 0] * 255 / 60 - batch["class_map"]).abs() < 0.5).float().mean() > 0.9
    shares = [values.unique(return_counts=True)[1].max() / SIZE**2 for values in batch["class_map"]]
    plain = [
        values.unique(return_counts=True)[1].max() / SIZE**2
        for values in batch_of(Augment.of(TrainSpec(augment="scale_crop_flip", zoom=[1.5, 4.0])))["class_map"]
    ]
    assert sum(share < 0.6 for share in shares) > sum(share < 0.6 for share in plain)
    with pytest.raises(ConfigError, match="this task reads none; leave it at 1"):
        Batches({"image": np.zeros((2, 8, 8, 3), np.uint8)}, {}, batch_size=2, augment=augment)
    with pytest.raises(ConfigError, match=r"chooses among windows; set train\.augment=scale_crop_flip"):
        TrainSpec(cat_max_ratio=0.75)


def test_boxes_are_not_turned() -> None:
    pixels, boxes = np.zeros((2, SIZE, SIZE, 3), np.uint8), np.zeros((2, 1, 6), np.float32)
    with pytest.raises(ConfigError, match=r"sides of boxes stay upright; set train\.augment=scale_crop_flip or flip"):
        Batches({"image": pixels}, {BOXES: boxes}, batch_size=2, augment=Augment("scale_rotate_flip"))


def test_depth_shrinks_by_the_zoom_and_mirrored_normals_point_the_other_way() -> None:
    depth, normals = torch.rand(2, SIZE, SIZE), torch.randn(2, 3, SIZE, SIZE)
    draws = {"zoom": torch.tensor([2.0, 0.5]), "window": torch.zeros(2, 2), "flip": torch.tensor([True, False])}
    augment = Augment("scale_crop_flip")
    near = moved("depth", depth, draws, augment)
    mirrored = depth[0].flip(-1)[:24, :24]
    assert torch.equal(near[0], mirrored.repeat_interleave(2, 0).repeat_interleave(2, 1) / 2)
    assert torch.equal(near[1, :24, :24], depth[1, 1::2, 1::2] * 2) and near[1, 24:].isnan().all()
    only_flip = {"flip": draws["flip"]}
    turned = moved("normals", normals, only_flip, augment)
    assert torch.equal(turned[1], normals[1])
    assert torch.equal(turned[0], normals[0].flip(-1) * torch.tensor([-1.0, 1, 1])[:, None, None])
    shifted = moved("normals", normals, {"shift": torch.tensor([[0, 8], [4, 4]])}, Augment("crop_flip", 4))
    assert torch.equal(shifted[1], normals[1])
    assert torch.equal(shifted[0, :, 4:, :44], normals[0, :, :44, 4:]) and shifted[0, :, :4].isnan().all()


def test_draws_depend_on_seed_epoch_and_place_alone() -> None:
    augment = Augment("scale_crop_flip", photometric=True)
    one, again, other = (augment.draw(9, (SIZE, SIZE), seed, epoch) for seed, epoch in ((1, 0), (1, 0), (1, 1)))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["zoom"], other["zoom"]) and not torch.equal(one["hue"], other["hue"])
    assert one["zoom"].min() >= 0.5 and one["zoom"].max() <= 2
    spared = Augment("scale_crop_flip").draw(9, (SIZE, SIZE), 1, 0)
    assert all(torch.equal(one[name], spared[name]) for name in spared), "colours have a stream of their own"


def test_what_maps_cannot_follow_is_refused_all_at_once() -> None:
    normals = np.ones((6, 3, SIZE, SIZE), np.float32)
    with pytest.raises(ConfigError, match=r"train\.augment=rrc_flip stretches images"):
        batch_of(Augment("rrc_flip"), normals=normals)
    with pytest.raises(ConfigError, match=r"no one zoom to divide their depth by; set train\.augment=scale_crop_flip"):
        batch_of(Augment("rrc_flip"), depth=normals[:, 0])
    train = TrainSpec(erasing=0.5, mixup=0.2)
    with pytest.raises(ConfigError) as caught:
        Batches(
            {"image": np.zeros((6, SIZE, SIZE, 3), np.uint8)},
            {"class_map": stripes()},
            batch_size=2,
            augment=Augment.of(train),
            mix=Mix.of(train, 4),
        )
    assert len(caught.value.problems) == 2 and "set train.mixup=0" in caught.value.problems[0]
    with pytest.raises(ConfigError, match=r"train\.zoom must hold two numbers"):
        TrainSpec(zoom=[2.0, 0.5])


def test_unknown_numbers_stay_unknown() -> None:
    depth = np.full((6, SIZE, SIZE), NAN, np.float32)
    assert batch_of(Augment("scale_crop_flip"), depth=depth)["depth"].isnan().all()


def test_windows_are_cut_out_of_a_larger_picture() -> None:
    """A zoom of one on a canvas twice as large: the window is a part of it, pixel by pixel."""
    maps = torch.from_numpy(stripes()).long()
    augment = Augment("scale_crop_flip", zoom=(1.0, 1.0), window=24)
    draws = {"zoom": torch.ones(6), "window": torch.tensor([[0.0, 0.5]]).repeat(6, 1)}
    assert torch.equal(moved("class_map", maps, draws, augment), maps[:, :24, 12:36])
    batch = batch_of(augment)
    assert batch["image"].shape == (6, 3, 24, 24) and batch["class_map"].shape == (6, 24, 24)
    agree = (batch["image"][:, 0] * 255 / 60 - batch["class_map"]).abs() < 0.5
    assert agree.float().mean() > 0.9
