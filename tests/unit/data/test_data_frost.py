"""Frost: the piece of a photograph that is laid over an image, in which strength, and where photographs come from."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from peftbench.data import frost as module
from peftbench.data.corruptions import CorruptedImages, corrupted
from peftbench.data.frost import NAMES, frost_folder, frost_photos
from peftbench.foundation.errors import BadInput, MissingInput


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five photographs, of which each pixel tells its row, its column and its photograph."""
    rows, columns = np.meshgrid(np.arange(251), np.arange(247), indexing="ij")
    for number, name in enumerate(NAMES):
        picture = np.stack([rows, columns, np.full_like(rows, 50 * number)], axis=-1).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / name, **({"quality": 100, "subsampling": 0} if number > 2 else {}))
    return tmp_path


def laid_over_black(folder: Path, size: int, severity: int, draws: int) -> list[NDArray[np.uint8]]:
    photos, black = frost_photos(folder), np.zeros((size, size, 3), np.uint8)
    return [corrupted(black, "frost", severity, np.random.default_rng(draw), photos) for draw in range(draws)]


def test_large_images_get_a_piece_of_one_of_five_photographs(folder: Path) -> None:
    """ImageNet-C's severity 2: 0.8 x + 0.6 f, rounded down."""
    seen = set()
    for piece in laid_over_black(folder, 224, 2, 60):
        # JPEG moves values by a step or two
        top, left, number = (round(float(value) / 0.6) for value in piece[0, 0])
        number = round(number / 50)
        expected = [np.floor(0.6 * (start + np.arange(224))) for start in (top, left)]
        assert np.abs(piece[:, 0, 0] - expected[0]).max() <= 3 and np.abs(piece[0, :, 1] - expected[1]).max() <= 3
        assert 0 <= top <= 28 and 0 <= left <= 24
        seen.add(number)
    assert seen == {0, 1, 2, 3, 4}
    grey = np.full((224, 224, 3), 100, np.uint8)
    generators = np.random.default_rng(7), np.random.default_rng(7)
    both = corrupted(grey, "frost", 2, generators[0], frost_photos(folder)).astype(int)
    alone = corrupted(grey * 0, "frost", 2, generators[1], frost_photos(folder)).astype(int)
    assert np.isin(both - alone, (80, 81)).all()


def test_small_images_get_it_at_a_fifth_of_its_size(folder: Path) -> None:
    """CIFAR-10-C's severity 1: x + 0.2 f; OpenCV's linear interpolation falls on the middle of five pixels."""
    for piece in laid_over_black(folder, 32, 1, 10):
        steps = np.diff(piece[:, 0, 0].astype(int))
        assert set(steps.tolist()) <= {0, 1, 2} and steps.mean() == pytest.approx(0.2 * 5, abs=0.07)
    photo = frost_photos(folder)[0]
    fifth = module._between(photo, *(module._places(side, 0.2) for side in photo.shape[:2]))
    assert fifth.shape == (50, 49, 3)
    assert fifth[:3, 0, 0].tolist() == [2, 7, 12] and fifth[0, -1, 1] == 242


def test_images_of_64_pixels_get_it_at_three_tenths_of_its_size(folder: Path) -> None:
    """Tiny-ImageNet-C's severity 1: x + 0.3 f, every 10/3 pixels, of which OpenCV rounds the linear mean."""
    for piece in laid_over_black(folder, 64, 1, 10):
        steps = np.diff(piece[:, 0, 0].astype(int))
        assert set(steps.tolist()) <= {0, 1, 2} and steps.mean() == pytest.approx(0.3 / 0.3, abs=0.05)
    photo = frost_photos(folder)[0]
    found = module._between(photo, *(module._places(side, 0.3) for side in photo.shape[:2]))
    assert found.shape == (75, 74, 3)
    # row d lies at (d + 0.5) / 0.3 - 0.5: 1.17, 4.5, 7.83
    assert found[:3, 0, 0].tolist() == [1, 4, 8]


def test_an_image_larger_than_the_photographs_gets_an_enlarged_one(folder: Path) -> None:
    (piece,) = laid_over_black(folder, 300, 3, 1)
    assert piece.shape == (300, 300, 3) and piece.std() > 0


def test_the_same_image_gets_the_same_frost(folder: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3)).astype(np.uint8)
    frosted = CorruptedImages(images, "frost", 4, frost_photos(folder))
    rows = np.array([3, 1])
    np.testing.assert_array_equal(frosted.read(rows), frosted.read(np.arange(4))[rows])


def test_photographs_are_found_in_a_folder_or_in_the_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert frost_folder(folder) == folder
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(MissingInput, match="pip install --no-deps imagecorruptions"):
        frost_folder()
    shutil.copytree(folder, folder / "frost")
    monkeypatch.setattr(module, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(folder)]))
    assert frost_folder() == folder / "frost"


def test_missing_and_broken_photographs_are_named(folder: Path) -> None:
    (folder / NAMES[3]).write_text("no picture")
    with pytest.raises(BadInput, match=NAMES[3]):
        frost_photos(folder)
    (folder / NAMES[3]).unlink()
    with pytest.raises(MissingInput, match=f"has no {NAMES[3]}"):
        frost_photos(folder)
