"""Corruptions against their definitions, computed by other means, and what is drawn for which image."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from peftbench.data.corruptions import CorruptedImages, corrupted, from_hsv, to_hsv
from peftbench.data.strengths import CORRUPTIONS, SEVERITIES

GENERATOR = np.random.default_rng


def picture(size: int = 32) -> NDArray[np.uint8]:
    """Smooth, with all hues, and a grey corner."""
    axis = np.linspace(0, 1, size)
    rows, columns = np.meshgrid(axis, axis, indexing="ij")
    image = np.stack([rows, columns, 1 - rows * columns], axis=-1)
    image[:4, :4] = 0.25
    return (255 * image).astype(np.uint8)


def test_hsv_is_that_of_the_standard_library_and_back() -> None:
    values = np.concatenate([np.random.default_rng(0).random((200, 3)), [[0, 0, 0], [0.3, 0.3, 0.3], [1, 0, 0]]])
    hue, saturation, value = to_hsv(values)
    expected = np.array([colorsys.rgb_to_hsv(*rgb) for rgb in values])
    np.testing.assert_allclose(np.stack([hue, saturation, value], axis=-1), expected, atol=1e-12)
    np.testing.assert_allclose(from_hsv(hue, saturation, value), values, atol=1e-12)


def test_contrast_and_brightness_by_hand() -> None:
    image = picture()
    x = image / 255
    expected = np.clip((x - x.mean(axis=(0, 1))) * 0.4 + x.mean(axis=(0, 1)), 0, 1)
    assert np.abs(corrupted(image, "contrast", 3, GENERATOR(0)) - np.floor(255 * expected)).max() <= 1
    brighter = [
        [colorsys.hsv_to_rgb(h, s, min(v + 0.3, 1)) for h, s, v in (colorsys.rgb_to_hsv(*p) for p in row)] for row in x
    ]
    assert np.abs(corrupted(image, "brightness", 5, GENERATOR(0)) - np.floor(255 * np.array(brighter))).max() <= 1


def test_defocus_is_a_correlation_with_a_disk() -> None:
    """At severity 5 of 32 px the disk of radius 1.5 has nine equal entries, softened so little that they stay so."""
    image = picture()
    padded = np.pad(image / 255, ((1, 1), (1, 1), (0, 0)), mode="reflect")
    mean = sum(padded[i : i + 32, j : j + 32] for i in range(3) for j in range(3)) / 9
    assert np.abs(corrupted(image, "defocus_blur", 5, GENERATOR(0)).astype(int) - np.floor(255 * mean)).max() <= 1


def test_noise_has_its_deviation_and_its_share() -> None:
    grey = np.full((160, 160, 3), 128, np.uint8)
    rms = {
        name: corrupted(grey, name, 1, GENERATOR(0)) / 255 - 128 / 255
        for name in ("gaussian_noise", "speckle_noise", "shot_noise")
    }
    assert rms["gaussian_noise"].std() == pytest.approx(0.08, rel=0.03)
    assert rms["speckle_noise"].std() == pytest.approx(0.15 * 128 / 255, rel=0.03)
    assert rms["shot_noise"].std() == pytest.approx((128 / 255 / 60) ** 0.5, rel=0.03)
    hit = corrupted(grey, "impulse_noise", 5, GENERATOR(0))
    assert (hit != 128).mean() == pytest.approx(0.27, abs=0.015)
    assert (hit == 255).sum() / (hit != 128).sum() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("size", "deviation"), [(32, 0.06), (45, 0.06), (46, 0.08), (119, 0.08), (120, 0.12)])
def test_images_have_the_strengths_of_the_nearest_published_size(size: int, deviation: float) -> None:
    grey = np.full((size, size + 30, 3), 128, np.uint8)
    found = corrupted(grey, "gaussian_noise", 2, GENERATOR(0)) / 255
    assert found.std() == pytest.approx(deviation, rel=0.05)


def test_images_of_64_pixels_are_as_in_tiny_imagenet_c(tmp_path) -> None:
    image = picture(64)
    x = image / 255
    middle = x.mean(axis=(0, 1))
    expected = np.floor(255 * np.clip((x - middle) * 0.2 + middle, 0, 1))
    assert np.abs(corrupted(image, "contrast", 3, GENERATOR(0)) - expected).max() <= 1
    # a disk of radius 1.5 has nine equal entries
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), mode="reflect")
    mean = sum(padded[i : i + 64, j : j + 64] for i in range(3) for j in range(3)) / 9
    assert np.abs(corrupted(image, "defocus_blur", 3, GENERATOR(0)).astype(int) - np.floor(255 * mean)).max() <= 1
    blocks = corrupted(image, "pixelate", 5, GENERATOR(0)).reshape(32, 2, 32, 2, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    Image.fromarray(image).save(tmp_path / "a.jpg", quality=25)
    np.testing.assert_array_equal(
        corrupted(image, "jpeg_compression", 5, GENERATOR(0)), np.asarray(Image.open(tmp_path / "a.jpg"))
    )


def test_pixelate_has_blocks_and_jpeg_its_quality(tmp_path) -> None:
    image = picture(224)
    coarse = corrupted(image, "pixelate", 5, GENERATOR(0))
    blocks = coarse.reshape(56, 4, 56, 4, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    Image.fromarray(image).save(tmp_path / "a.jpg", quality=7)
    np.testing.assert_array_equal(
        corrupted(image, "jpeg_compression", 5, GENERATOR(0)), np.asarray(Image.open(tmp_path / "a.jpg"))
    )


def test_zoom_blur_leaves_what_looks_alike_at_every_size() -> None:
    flat = np.full((32, 32, 3), 77, np.uint8)
    assert np.abs(corrupted(flat, "zoom_blur", 5, GENERATOR(0)).astype(int) - 77).max() <= 1


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_gets_worse_with_severity_and_changes_the_image(name: str) -> None:
    for size in (32, 64, 120):
        image = picture(size)
        distance = [
            np.abs(corrupted(image, name, severity, GENERATOR(0)).astype(int) - image).mean() for severity in SEVERITIES
        ]
        assert corrupted(image, name, 1, GENERATOR(0)).shape == image.shape
        # saturate first takes colour away and then adds it; elastic transform first moves far and then finely
        assert distance[0] > 0 and (distance[-1] > distance[0] or name in ("saturate", "elastic_transform"))


def test_what_an_image_gets_depends_on_its_place_alone() -> None:
    images = np.stack([picture()[..., :1]] * 3)
    reader = CorruptedImages(images, "gaussian_noise", 2)
    all_rows = reader.read(np.array([0, 1, 2]))
    assert all_rows.shape == reader.shape == (3, 32, 32, 3)
    np.testing.assert_array_equal(reader.read(np.array([2, 0])), all_rows[[2, 0]])
    assert not np.array_equal(all_rows[0], all_rows[1])
