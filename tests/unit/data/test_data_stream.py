"""Streaming: the same batches as from the cache, whatever the number of worker processes."""

import numpy as np
import pytest
import torch
from PIL import Image

from peftbench.cells.rand_augment import RandAugment
from peftbench.data.base import Source
from peftbench.data.pixels.cache import load_split
from peftbench.data.pixels.changes import Changes
from peftbench.data.pixels.stream import StreamedImages
from peftbench.data.pixels.transform import ImageTransform
from peftbench.data.raw import RawSplit
from peftbench.data.sources.scenes import Scenes
from peftbench.data.splits import ArraySplit
from peftbench.foundation.errors import BadInput, ConfigError
from peftbench.train.augment import Augment
from peftbench.train.batches import Batches
from peftbench.train.mixing import Mix
from peftbench.train.options import CUT_WHILE_READ

TRANSFORM = ImageTransform(16, "crop", "bilinear", crop_pct=0.8)


class One(Source):
    def __init__(self, raw: RawSplit) -> None:
        super().__init__(("a", "b"), "embedded", "original", "embedded:1", ())
        object.__setattr__(self, "raw", raw)

    def split(self, name: str) -> RawSplit:
        return self.raw


def raw(num: int = 30) -> ArraySplit:
    images = np.random.RandomState(0).randint(0, 256, (num, 24, 40, 3), dtype=np.uint8)
    return ArraySplit(images, np.arange(num) % 2)


def batches(images, workers: int, kind: str, ops: int = 0, **options):
    return Batches(
        {"image": images},
        {"label": np.arange(30) % 2},
        batch_size=8,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.2, 0.2),
        seed=3,
        shuffle=True,
        augment=Augment(kind, erasing=0.5, rand_ops=ops),
        workers=workers,
        **options,
    )


def drawn(made: Batches, epochs=(0, 1)) -> list[dict[str, torch.Tensor]]:
    return [batch for epoch in epochs for batch in made.epoch(epoch)]


def same(first, second) -> bool:
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("ops", [0, 3])
@pytest.mark.parametrize("kind", ["flip", "crop_flip", "rrc_flip", *CUT_WHILE_READ])
def test_the_number_of_workers_changes_no_bit(kind, ops):
    mix, reader = (
        Mix(2, mixup=0.8),
        StreamedImages(raw(), TRANSFORM, Changes(kind, operations=RandAugment(ops) if ops else None)),
    )
    alone, two = (drawn(batches(reader, workers, kind, ops, mix=mix)) for workers in (0, 2))
    assert same(alone, two)
    assert not torch.equal(alone[0]["image"], alone[len(alone) // 2]["image"]), "another epoch, other images"


def test_a_stream_gives_what_the_cache_gives(tmp_path):
    source = One(raw())
    cached = load_split(source, "train800", TRANSFORM, tmp_path)
    streamed = load_split(source, "train800", TRANSFORM, tmp_path, stream_above=30 * 16 * 16 * 3 - 1)
    assert isinstance(cached.images, np.ndarray)
    assert isinstance(streamed.images, StreamedImages)
    assert (cached.digest, cached.labels.tolist()) == (streamed.digest, streamed.labels.tolist())
    assert same(drawn(batches(cached.images, 0, "rrc_flip")), drawn(batches(streamed.images, 0, "rrc_flip")))
    fits = load_split(source, "train800", TRANSFORM, tmp_path, stream_above=30 * 16 * 16 * 3)
    assert isinstance(fits.images, np.ndarray)


def test_grey_images_stream_as_three_equal_channels(tmp_path):
    grey = ArraySplit(np.random.RandomState(1).randint(0, 256, (30, 20, 20), dtype=np.uint8), np.arange(30) % 2)
    cached, streamed = (load_split(One(grey), "test", TRANSFORM, tmp_path, stream_above=limit) for limit in (None, 0))
    assert cached.images.shape[-1] == 1
    assert same(drawn(batches(cached.images, 0, "flip")), drawn(batches(streamed.images, 0, "flip")))


def test_reading_ahead_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    drawn(batches(StreamedImages(raw(), TRANSFORM), 2, "flip"))
    assert torch.equal(before, torch.get_rng_state())


def test_a_window_is_a_part_of_the_resized_picture():
    split = raw(6)
    places = np.array([[0.0, 0.0], [0.999, 0.999], [0.5, 0.25], [0.0, 0.999], [0.3, 0.3], [0.9, 0.1]])
    windows = StreamedImages(split, TRANSFORM).read(np.arange(6), {"place": places})
    for i, (down, across) in enumerate(places):
        # short side 24 -> 16 / 0.8 = 20
        whole = np.asarray(Image.fromarray(split.images[i]).resize((33, 20), Image.Resampling.BILINEAR))
        top, left = int(down * 5), int(across * 18)
        assert np.array_equal(windows[i], whole[top : top + 16, left : left + 16])


@pytest.mark.parametrize("kind", CUT_WHILE_READ)
def test_what_is_cut_while_reading_needs_a_stream(kind):
    with pytest.raises(ConfigError, match=rf"train\.augment={kind} changes pictures while they are read"):
        batches(np.zeros((30, 16, 16, 3), np.uint8), 0, kind)


def test_randaugment_needs_a_stream():
    with pytest.raises(ConfigError, match=r"train\.rand_ops=2 changes pictures while they are read"):
        batches(np.zeros((30, 16, 16, 3), np.uint8), 0, "flip", 2)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_ends_in_its_own_one_line_error(workers):
    class Broken(ArraySplit):
        def read(self, index: int) -> Image.Image:
            if index == 17:
                raise BadInput("17.jpg: the image cannot be decoded")
            return super().read(index)

    broken = Broken(raw().images, raw().labels)
    with pytest.raises(BadInput, match=r"^17\.jpg: the image cannot be decoded$"):
        drawn(batches(StreamedImages(broken, TRANSFORM), workers, "flip"))


def test_maps_are_not_left_behind(tmp_path):
    with pytest.raises(ConfigError, match=r"leave their maps behind; set train\.augment=scale_crop_flip"):
        load_split(Scenes().open(), "train", ImageTransform(32), tmp_path, stream_above=-1)
