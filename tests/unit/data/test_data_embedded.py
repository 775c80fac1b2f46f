"""Datasets that need no files: the digits of scikit-learn and the drawn shapes."""

import subprocess
import sys

import numpy as np
import pytest

from peftbench.data.base import DATASETS, GROUPS, SPLITS
from peftbench.data.sources.digits import Digits
from peftbench.data.sources.shapes import CLASSES, Shapes, draw
from peftbench.foundation.errors import ConfigError
from peftbench.foundation.spec import build

EMBEDDED = [Digits(), *(Shapes(task=task) for task in CLASSES)]


@pytest.mark.parametrize("spec", EMBEDDED, ids=lambda spec: spec.label)
def test_counts_labels_and_disjoint_splits(spec):
    source = spec.open()
    splits = {name: source.split(name) for name in SPLITS}
    num_test = 797 if spec.label == "digits" else 1_000
    assert [len(splits[name]) for name in SPLITS] == [800, 200, 1_000, num_test]
    for split in splits.values():
        assert split.labels.dtype == np.int64
        assert len(split) == len(split.labels)
    assert set(splits["train800"].labels) == set(range(source.num_classes))
    assert splits["train800val200"].labels.tolist() == [*splits["train800"].labels, *splits["val200"].labels]
    assert np.array_equal(splits["train800val200"].read(810), splits["val200"].read(10))
    assert len({split.content_digest() for split in splits.values()}) == len(SPLITS)
    assert spec.group in GROUPS
    assert source.test.endswith(f":{num_test}")


def test_digits_are_all_of_scikit_learns_images_each_once():
    from sklearn.datasets import load_digits

    source = Digits().open()
    served = [
        (np.asarray(split.read(i)).tobytes(), label)
        for split in map(source.split, ("train800val200", "test"))
        for i, label in enumerate(split.labels)
    ]
    images, labels = load_digits(return_X_y=True)
    original = [
        (np.rint(image * 255 / 16).astype(np.uint8).tobytes(), label)
        for image, label in zip(images, labels, strict=True)
    ]
    assert sorted(served) == sorted(original)


def test_seed_changes_the_split_and_the_revision():
    first, second = Digits(seed=0), Digits(seed=1)
    assert first.revision() != second.revision()
    assert first.open().split("test").content_digest() != second.open().split("test").content_digest()
    assert first.open().split("test").content_digest() == Digits(seed=0).open().split("test").content_digest()


@pytest.mark.parametrize("task", CLASSES)
def test_a_shape_image_depends_on_task_seed_and_index_only(task):
    split = Shapes(task=task).open().split("val200")
    forwards = [np.asarray(split.read(index)) for index in range(12)]
    backwards = [np.asarray(split.read(index)) for index in reversed(range(12))]
    assert all(np.array_equal(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))
    assert forwards[0].shape == (64, 64, 3)
    assert len({image.tobytes() for image in forwards}) == 12
    other = Shapes(task=task, seed=1).open().split("val200")
    assert not np.array_equal(np.asarray(other.read(0)), forwards[0])
    assert other.content_digest() != split.content_digest()


@pytest.mark.parametrize("task", CLASSES)
def test_classes_are_balanced(task):
    labels = Shapes(task=task).open().split("test").labels
    counts = np.bincount(labels, minlength=len(CLASSES[task]))
    assert counts.max() - counts.min() <= 1


# Mean of each quarter of the image, per channel: moves when the drawing changes, not with the last bit of a sine.
GOLDEN = {
    "location": [202.82, 93.54, 95.72, 200.26, 137.06, 144.54, 199.09, 139.54, 148.46, 208.89, 115.88, 114.99],
    "orientation": [100.87, 104.75, 47.16, 123.37, 93.6, 41.78, 106.33, 97.02, 43.35, 110.89, 89.17, 38.52],
    "count": [62.19, 178.32, 71.27, 63.32, 176.71, 74.7, 61.08, 183.61, 75.61, 55.57, 183.32, 60.7],
}


@pytest.mark.parametrize("task", CLASSES)
def test_the_drawing_of_this_version_has_not_changed(task):
    image = draw(task, 0, 5, 5).astype(float)
    quarters = image.reshape(2, 32, 2, 32, 3).mean((1, 3)).ravel()
    assert np.abs(quarters - GOLDEN[task]).max() < 0.05, "the drawing changed: raise shapes.VERSION and renew GOLDEN"


def test_wrong_options_are_named():
    with pytest.raises(ConfigError, match=r"dataset\.task cannot be 'locaton'; did you mean 'location'"):
        build(Shapes, {"task": "locaton"})
    with pytest.raises(ConfigError, match=r"dataset\.seed must be at least 0, got -1"):
        build(Digits, {"seed": -1})


def test_registry_knows_every_kind_and_data_needs_no_torch():
    code = (
        "import sys; from peftbench.data.base import DATASETS; import peftbench.data.pixels.cache; "
        "print(*DATASETS.names()); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kinds = ["asked_shapes", "camera_motion", "captioned_shapes", "captions", "clips", "coco", "coop", "csv", "digits"]
    kinds += [
        "domain_shapes",
        "domains",
        "fewshot",
        "fgvc",
        "folder",
        "hf",
        "masks",
        "moving_shapes",
        "named_shapes",
        "questions",
        "scenes",
    ]
    kinds += ["shapes", "torchvision", "vtab", "vtab_folder", "vtab_hub", "vtab_original"]
    assert done.stdout.split() == kinds == DATASETS.names()
