"""What is done to pictures while they are read in training: the papers' crops, and RandAugment alike on all frames."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from PIL import Image
from timm.data.auto_augment import rand_augment_transform

from peftbench.cells.rand_augment import RandAugment
from peftbench.data.pixels.changes import Changes, inception_box, tsn_box
from peftbench.data.pixels.stream import StreamedImages
from peftbench.data.pixels.transform import ImageTransform
from peftbench.data.splits import ArraySplit

BILINEAR = ImageTransform(16, "crop", "bilinear")


def chance(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(chance(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(340, 256), (180, 320), (256, 256)])
def test_tsn_s_boxes_are_ten_shapes_at_thirteen_places(size):
    width, height = size
    short = min(size)
    sides = [short, int(0.875 * short), int(0.75 * short), int(0.66 * short)]
    expected = set()
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 2), (3, 3)):
        right, down = (width - sides[i]) // 4, (height - sides[j]) // 4
        ends = [(0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 4), (2, 0)]
        for across, along in (*ends, (1, 1), (3, 1), (1, 3), (3, 3)):
            left, top = across * right, along * down
            expected.add((left, top, left + sides[i], top + sides[j]))
    randomness = chance(0)
    assert {tsn_box(size, 224, randomness) for _ in range(6000)} == expected


def test_tsn_s_sides_close_to_the_size_are_the_size():
    boxes = [tsn_box((300, 226), 224, chance(seed)) for seed in range(300)]
    heights = {bottom - top for _, top, _, bottom in boxes}
    assert heights == {224, int(226 * 0.875), int(226 * 0.75), int(226 * 0.66)}
    # a picture smaller than that is not left
    assert all(max(tsn_box((222, 222), 224, chance(seed))) <= 222 for seed in range(99))


def test_inception_s_boxes_lie_inside_and_have_the_shares_and_shapes():
    shares = []
    for seed in range(500):
        left, top, right, bottom = inception_box((400, 300), 224, chance(seed))
        assert 0 <= left < right <= 400 and 0 <= top < bottom <= 300
        shares.append((right - left) * (bottom - top) / (400 * 300))
        assert 0.74 < (right - left) / (bottom - top) < 1.35
    assert 0.075 < min(shares) < 0.15 and 0.75 < max(shares) <= 1.0
    # of what no attempt fits, the middle
    assert inception_box((1000, 10), 224, chance(0)) == (493, 0, 506, 10)
    assert inception_box((10, 1000), 224, chance(0)) == (0, 493, 10, 506)


def test_jitter_cuts_a_square_of_the_size_where_the_short_side_is_in_range():
    image = picture(40, 24)
    changes, found = Changes("jitter_flip", (1.0, 1.25)), set()
    whole = {short: BILINEAR.resampled(image, math.floor(short * 40 / 24), short) for short in range(16, 21)}
    for seed in range(60):
        cut = changes.look(BILINEAR, cut=seed)(image)
        places = [
            (short, top, left)
            for short, pixels in whole.items()
            for top in range(short - 15)
            for left in range(pixels.shape[1] - 15)
            if np.array_equal(pixels[top : top + 16, left : left + 16], cut)
        ]
        assert len(places) == 1
        found.add(places[0][0])
    assert found == {16, 17, 18, 19, 20}


@pytest.mark.parametrize("kind", ["whole_rrc_flip", "scales_flip"])
def test_boxes_are_brought_to_the_size(kind):
    image = picture(40, 24)
    box = (inception_box if kind == "whole_rrc_flip" else tsn_box)(image.size, 16, chance(5))
    expected = np.asarray(image.crop(box).resize((16, 16), Image.Resampling.BILINEAR))
    assert np.array_equal(Changes(kind).look(BILINEAR, cut=5)(image), expected)
    grey = Changes(kind).look(BILINEAR, cut=5)(image.convert("L"))
    assert grey.shape == (16, 16, 1)


def test_randaugment_is_timm_s_and_leaves_the_global_generators_alone():
    transform = ImageTransform(24, "crop", "bicubic")
    image = picture(24, 24)
    policy = rand_augment_transform(
        "rand-m6-n3-mstd0.5-inc1", {"img_mean": (128, 128, 128), "interpolation": Image.Resampling.BICUBIC}
    )
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()
    changed = [Changes(operations=RandAugment(3, 6)).look(transform, ops=seed)(image) for seed in range(40)]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    for seed, pixels in enumerate(changed):
        random.seed(seed)
        np.random.seed(seed)
        assert np.array_equal(pixels, np.asarray(policy(image)))
    assert sum(not np.array_equal(pixels, np.asarray(image)) for pixels in changed) > 25


def test_the_strongest_operations_end_well():
    looks = [Changes(operations=RandAugment(15, 10)).look(BILINEAR, ops=seed) for seed in range(60)]
    assert len({look(picture(16, 16)).tobytes() for look in looks}) > 30


def test_all_frames_of_a_clip_are_changed_alike():
    class Clip(ArraySplit):
        frames = 3

        def read_clip(self, index, moments=None):
            return [self.read(index)] * 3

    images = np.stack([np.asarray(picture(40, 24, seed)) for seed in range(4)])
    reader = StreamedImages(
        Clip(images, np.zeros(4, np.int64)), BILINEAR, Changes("scales_flip", operations=RandAugment(4))
    )
    drawn = {"cut": np.array([3, 3, 4, 5]), "ops": np.array([7, 8, 7, 2**61])}
    clips = reader.read(np.array([0, 0, 1, 2]), drawn)
    assert clips.shape == (4, 3, 16, 16, 3)
    assert all(np.array_equal(clip[0], frame) for clip in clips for frame in clip)
    assert not np.array_equal(clips[0], clips[1])
    alone = reader.read(np.array([1]), {name: values[2:3] for name, values in drawn.items()})
    assert np.array_equal(alone[0], clips[2])


def test_without_numbers_nothing_is_changed():
    image = picture(40, 24)
    for kind in ("none", "whole_rrc_flip", "jitter_flip", "scales_flip"):
        assert np.array_equal(Changes(kind, operations=RandAugment(4)).look(BILINEAR)(image), BILINEAR.apply(image))
