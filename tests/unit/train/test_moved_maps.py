"""Maps go where their images go, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from peftbench.foundation.errors import ConfigError
from peftbench.train.augment import Augment, Mix
from peftbench.train.batches import Batches
from peftbench.train.moved_maps import NAN, UNKNOWN, moved
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


@pytest.mark.parametrize("kind", ["flip", "crop_flip", "scale_crop_flip", "rrc_flip"])
def test_images_and_class_maps_move_together(kind: str) -> None:
    batch = batch_of(Augment(kind))
    shown, truth = batch["image"][:, 0] * 255 / 60, batch["class_map"]
    plain = batch_of(None)
    assert not torch.equal(truth, plain["class_map"]) and truth.dtype == torch.int64
    known = truth != UNKNOWN
    assert (~known).any() == (kind in ("crop_flip", "scale_crop_flip"))
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
