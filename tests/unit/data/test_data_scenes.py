"""The drawn scenes are those of their recipe, to the bit."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from peftbench.data.pixels.cache import load_split
from peftbench.data.pixels.transform import ImageTransform
from peftbench.data.sources.scenes import CLASSES, IGNORED, Scene, Scenes, scene
from peftbench.foundation.errors import BadInput


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("size", "image", "class_map", "depth", "edges", "counts"),
    [
        (32, "637cf906adb1f7d8", "bfee34faaa5dff41", 553.02, 171, [638, 0, 169, 39, 177]),
        (64, "b58023c81f107a67", "849cfb6832c07e22", 2199.85, 354, [2521, 0, 680, 170, 724]),
    ],
)
def test_golden_scenes(size: int, image: str, class_map: str, depth: float, edges: int, counts: list[int]) -> None:
    drawn = scene(0, 0, size)
    assert (digest(drawn.image), digest(drawn.class_map)) == (image, class_map)
    assert drawn.depth.sum() == pytest.approx(depth, abs=0.01) and drawn.edges.sum() == edges
    assert [int((drawn.class_map == number).sum()) for number in range(5)] == counts
    np.testing.assert_allclose(np.linalg.norm(drawn.normals, axis=0), 1, atol=1e-5)


def test_one_normal_of_the_recipe() -> None:
    np.testing.assert_allclose(scene(0, 0).normals[:, 16, 16], (-0.2280, -0.1925, -0.9544), atol=1e-4)


@pytest.mark.slow
def test_a_split_holds_images_and_maps_in_step(tmp_path: Path) -> None:
    source = Scenes().open()
    split = load_split(source, "val200", ImageTransform(32), tmp_path)
    assert list(split.inputs) == ["image"] and tuple(split.targets) == source.targets
    assert split.images.shape == (200, 32, 32, 3) and split.targets["class_map"].shape == (200, 32, 32)
    drawn = scene(0, 807)
    assert (split.images[7] == drawn.image).all()
    for name in source.targets:
        values = split.targets[name]
        assert values.dtype == getattr(drawn, name).dtype and np.array_equal(values[7], getattr(drawn, name)), name
    assert split.targets["normals"].shape == (200, 3, 32, 32)
    again = load_split(source, "val200", ImageTransform(32), tmp_path, targets=("depth",))
    assert list(again.targets) == ["depth"] and again.digest == split.digest
    assert (again.targets["depth"] == split.targets["depth"]).all()
    other = load_split(Scenes(seed=1).open(), "val200", ImageTransform(32), tmp_path, targets=())
    assert other.digest != split.digest


def test_all_scenes_there_are_serve_protocols_of_whole_sets() -> None:
    source = Scenes().open()
    for whole, drawn in (("train", "train800"), ("val", "val200"), ("trainval", "train800val200")):
        assert whole in source.splits
        assert source.split(whole).content_digest() == source.split(drawn).content_digest()


def test_what_stands_out_are_the_solids() -> None:
    drawn = scene(0, 0)
    assert ((drawn.saliency == 1) == ((drawn.class_map > 0) & (drawn.class_map != IGNORED))).all()
    assert ((drawn.saliency == IGNORED) == (drawn.class_map == IGNORED)).all()


def test_maps_are_resized_by_the_nearest_pixel(tmp_path: Path) -> None:
    """Classes have no mean: a resized map holds no class that was not there."""
    split = load_split(Scenes().open(), "val200", ImageTransform(64), tmp_path, targets=("class_map",))
    maps = split.targets["class_map"]
    assert (maps[3] == scene(0, 803).class_map.repeat(2, 0).repeat(2, 1)).all()
    assert set(np.unique(maps)) <= {*range(len(CLASSES)), IGNORED}


def test_maps_cannot_be_drawn_by_class(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no class"):
        from peftbench.data.fewshot.draw import few_shot

        few_shot(Scenes().open(), 4, 0, "few-shot:test").split("fewshot")


def test_a_scene_is_drawn_once_for_the_image_and_all_its_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def counted(seed: int, index: int, size: int) -> Scene:
        drawn.append(index)
        return scene(seed, index, size)

    monkeypatch.setattr("peftbench.data.sources.scenes.scene", counted)
    split = Scenes().open().split("val200")
    expected = scene(0, 803, 32)
    assert (np.asarray(split.read(3)) == expected.image).all()
    for name in split.maps:
        np.testing.assert_array_equal(split.read_map(name, 3), getattr(expected, name))
    assert drawn == [803]
    # scenes too large to be kept are drawn again
    large = Scenes(size=256).open().split("test")
    large.read(999), large.read(999)
    assert drawn == [803, 1999, 1999]
