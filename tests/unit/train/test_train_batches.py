from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.foundation.errors import BadInput, ConfigError
from peftbench.train.augment import Augment
from peftbench.train.batches import Batches, evaluation_batches, in_groups, training_batches
from peftbench.train.mixing import Mix
from peftbench.train.options import TrainSpec

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def split(num: int = 23, channels: int = 3, size: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (num, size, size, channels), dtype=np.uint8), rng.integers(0, 4, num)


def by_sample(batches: Batches, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of an epoch, put back into the order of the split."""
    parts = list(batches.epoch(epoch))
    index = torch.cat([part["index"] for part in parts])
    order = index.argsort()
    assert torch.equal(index[order], torch.arange(len(index)))
    return torch.cat([part["image"] for part in parts])[order], torch.cat([part["label"] for part in parts])[order]


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_scaled_and_normalised_per_channel(channels: int) -> None:
    images, labels = split(channels=channels)
    (batch,) = Batches({"image": images}, {"label": labels}, batch_size=23, mean=MEAN, std=STD).epoch(0)
    expected = (images.astype(np.float32) / np.float32(255) - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    assert batch["image"].dtype == torch.float32
    np.testing.assert_array_equal(batch["image"].numpy(), expected.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(batch["label"].numpy(), labels)


@settings(max_examples=30, deadline=None)
@given(num=st.integers(1, 40), batch_size=st.integers(1, 41), epoch=st.integers(0, 5), seed=st.integers(0, 5))
def test_every_sample_comes_exactly_once(num: int, batch_size: int, epoch: int, seed: int) -> None:
    images, labels = split(num)
    batches = Batches({"image": images}, {"label": labels}, batch_size=batch_size, seed=seed, shuffle=True)
    parts = list(batches.epoch(epoch))
    assert sorted(torch.cat([part["index"] for part in parts]).tolist()) == list(range(num))
    assert len(parts) == len(batches)
    for part in parts:
        np.testing.assert_array_equal(part["label"].numpy(), labels[part["index"].numpy()])


def test_order_changes_with_epoch_and_seed_but_not_with_batch_size() -> None:
    images, labels = split()

    def order(seed: int, epoch: int, batch_size: int) -> list[int]:
        batches = Batches({"image": images}, {"label": labels}, batch_size=batch_size, seed=seed, shuffle=True)
        return [i for batch in batches.epoch(epoch) for i in batch["index"].tolist()]

    assert order(0, 3, 4) == order(0, 3, 7) == order(0, 3, 23)
    assert len({tuple(order(seed, epoch, 4)) for seed in (0, 1) for epoch in (0, 1)}) == 4


@pytest.mark.parametrize("kind", ["flip", "crop_flip", "rrc_flip"])
def test_augmentation_of_a_sample_depends_on_neither_batch_size_nor_order(kind: str) -> None:
    images, labels = split()

    def batches(batch_size: int, shuffle: bool) -> Batches:
        augment = Augment(kind, crop_padding=2, erasing=0.5)
        return Batches(
            {"image": images},
            {"label": labels},
            batch_size=batch_size,
            mean=MEAN,
            std=STD,
            seed=5,
            shuffle=shuffle,
            augment=augment,
        )

    plain, _ = by_sample(Batches({"image": images}, {"label": labels}, batch_size=23, mean=MEAN, std=STD), 1)
    reference, _ = by_sample(batches(23, False), 1)
    assert not torch.equal(reference, plain)
    assert torch.equal(by_sample(batches(4, False), 1)[0], reference)
    assert torch.equal(by_sample(batches(5, True), 1)[0], reference)
    assert not torch.equal(by_sample(batches(23, False), 2)[0], reference)


def test_a_flip_gives_the_image_or_its_mirror() -> None:
    images, labels = split(200)
    augmented, _ = by_sample(Batches({"image": images}, {"label": labels}, batch_size=64, augment=Augment("flip")), 0)
    plain = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mirrored = (augmented == plain.flip(-1)).flatten(1).all(dim=1)
    assert torch.equal(augmented[~mirrored], plain[~mirrored])
    assert 70 < mirrored.sum() < 130


def test_reading_leaves_a_memory_mapped_cache_as_it_was(tmp_path: Path) -> None:
    images, labels = split()
    np.save(tmp_path / "images.npy", images)
    before = (tmp_path / "images.npy").read_bytes()
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r", allow_pickle=False)
    train = TrainSpec(batch_size=4, augment="crop_flip", mixup=0.5, cutmix=0.5)
    for batch in training_batches(
        {"image": mapped}, {"label": labels}, train, num_classes=4, seed=0, device="cpu"
    ).epoch(0):
        batch["image"].zero_()
    assert (tmp_path / "images.npy").read_bytes() == before


def test_the_last_short_batch_can_be_left_out() -> None:
    images, labels = split()
    sizes = [
        [
            len(batch["label"])
            for batch in Batches({"image": images}, {"label": labels}, batch_size=10, keep_last=keep).epoch(0)
        ]
        for keep in (True, False)
    ]
    assert sizes == [[10, 10, 3], [10, 10]]


def test_leaving_out_the_only_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train.keep_last_batch=false.*23 images.*batch size 64"):
        images, labels = split()
        Batches({"image": images}, {"label": labels}, batch_size=64, keep_last=False)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_features_are_handed_on_untouched(as_tensor: bool) -> None:
    features = np.random.default_rng(0).standard_normal((11, 6)).astype(np.float16)
    labels = np.arange(11)
    given_features: Any = torch.from_numpy(features) if as_tensor else features
    images, given_labels = by_sample(
        Batches({"image": given_features}, {"label": labels}, batch_size=4, shuffle=True, mean=MEAN, std=STD), 0
    )
    assert images.dtype == torch.float32
    np.testing.assert_array_equal(images.numpy(), features.astype(np.float32))
    np.testing.assert_array_equal(given_labels.numpy(), labels)


@pytest.mark.parametrize("options", [{"augment": Augment("flip")}, {"mix": Mix(3, mixup=0.2)}])
def test_augmenting_features_is_refused_rather_than_skipped(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="features cannot be augmented"):
        Batches({"image": np.zeros((4, 6), np.float32)}, {"label": np.zeros(4, np.int64)}, batch_size=2, **options)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (np.zeros((3, 8, 8, 3), np.uint8), np.zeros(4, np.int64), "got 3 images, 4 labels"),
        (np.zeros((0, 8, 8, 3), np.uint8), np.zeros(0, np.int64), "at least one sample"),
        (np.zeros((3, 3, 8, 8), np.uint8), np.zeros(3, np.int64), r"\[3, 3, 8, 8\]"),
        (np.zeros((3, 8), np.int32), np.zeros(3, np.int64), "int32"),
    ],
)
def test_arrays_of_another_kind_are_refused(images: np.ndarray, labels: np.ndarray, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Batches({"image": images}, {"label": labels}, batch_size=2)


def test_a_batch_is_a_mapping_of_inputs_and_targets() -> None:
    """Clips share one normalisation over time, token ids and maps are handed on, every input keeps its name."""
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (5, 4, 8, 6, 3), dtype=np.uint8)
    tokens, maps = rng.integers(0, 99, (5, 7)), rng.integers(0, 9, (5, 8, 6), dtype=np.uint8)
    batches = Batches({"image": clips, "text": tokens}, {"map": maps}, batch_size=2, mean=MEAN, std=STD, shuffle=True)
    for batch in batches.epoch(1):
        rows = batch["index"].numpy()
        assert list(batch) == ["image", "text", "map", "index"]
        frames = (torch.from_numpy(clips[rows]).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
        torch.testing.assert_close(batch["image"], frames.movedim(-1, -3))
        assert batch["map"].dtype == torch.int64 and (batch["map"].numpy() == maps[rows]).all()
        image, text = batches.inputs_of(batch)
        assert image is batch["image"] and (text.numpy() == tokens[rows]).all()


def test_augmentation_does_the_same_to_all_frames_of_a_clip() -> None:
    still = np.repeat(split(num=6)[0][:, None], 3, axis=1)
    augment = Augment("crop_flip", crop_padding=2, erasing=0.9)
    options: dict[str, Any] = {"batch_size": 6, "augment": augment, "seed": 1}
    clips = next(iter(Batches({"image": still}, {"label": np.arange(6)}, **options).epoch(0)))["image"]
    images = next(iter(Batches({"image": still[:, 0]}, {"label": np.arange(6)}, **options).epoch(0)))["image"]
    assert clips.shape[1] == 3 and all(torch.equal(clips[:, frame], images) for frame in range(3))


def test_what_knows_left_from_right_is_cropped_and_not_mirrored() -> None:
    train = TrainSpec(augment="crop_flip")
    draws = [Augment.of(train, mirrors=mirrors).draw(9, (8, 8), 0, 0) for mirrors in (True, False)]
    assert set(draws[0]) == {"flip", "shift"} and set(draws[1]) == {"shift"}
    assert torch.equal(draws[0]["shift"], draws[1]["shift"])
    assert not Augment("flip", mirrors=False).active


def test_shuffled_frames_are_those_of_the_clip_in_one_order_for_good() -> None:
    clips = np.arange(40 * 5, dtype=np.uint8).reshape(40, 5, 1, 1, 1).repeat(3, -1)
    inputs, targets = {"image": clips}, {"label": np.arange(40)}
    plain, shuffled, again = (
        torch.cat([batch["image"] for batch in Batches(inputs, targets, batch_size=size, **options).epoch(0)])[
            :, :, 0, 0, 0
        ]
        for size, options in ((7, {}), (7, {"shuffle_frames": True}), (40, {"shuffle_frames": True, "seed": 3}))
    )
    assert torch.equal(shuffled.sort(dim=1).values, plain) and torch.equal(shuffled, again)
    moved = (shuffled != plain).any(dim=1)
    assert moved.sum() > 35
    with pytest.raises(ValueError, match=r"only clips .* have frames to shuffle"):
        Batches({"image": clips[:, 0]}, targets, batch_size=7, shuffle_frames=True)


def test_training_batches_follow_the_options() -> None:
    images, labels = split()
    train = TrainSpec(batch_size=8, keep_last_batch=False, cutmix=1.0)
    parts = list(
        training_batches({"image": images}, {"label": labels}, train, num_classes=4, seed=0, device="cpu").epoch(0)
    )
    assert [len(part["label"]) for part in parts] == [8, 8]
    assert all(part["target"].shape == (8, 4) for part in parts)
    assert torch.cat([part["index"] for part in parts]).tolist() != list(range(16))


def test_evaluation_batches_are_plain_and_in_order() -> None:
    images, labels = split()
    train = TrainSpec(augment="rrc_flip", erasing=1.0, mixup=1.0, eval_batch_size=9, keep_last_batch=False)
    parts = list(evaluation_batches({"image": images}, {"label": labels}, train, device="cpu").epoch(0))
    assert torch.cat([part["index"] for part in parts]).tolist() == list(range(23))
    assert all("target" not in part for part in parts)
    plain = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(torch.cat([part["image"] for part in parts]), plain)


def test_groups_keep_the_order_and_a_short_rest() -> None:
    parts = [{"label": torch.tensor([i])} for i in range(5)]
    groups = [[int(batch["label"]) for batch in group] for group in in_groups(parts, 2)]
    assert groups == [[0, 1], [2, 3], [4]]
