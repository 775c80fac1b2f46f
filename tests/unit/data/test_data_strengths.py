"""Strengths of corruptions: which published set an image takes, and the numbers of the set of 64 px."""

from __future__ import annotations

import pytest

from peftbench.data.strengths import CORRUPTIONS, FROST, IMAGENET_C, SEVERITIES, SIZES, published_size, strength_of

# as the authors' script for Tiny-ImageNet-C writes them; elastic transform in shares of 64 px, zoom as ends of a range
OF_64 = {
    "gaussian_noise": [0.04, 0.08, 0.12, 0.15, 0.18],
    "shot_noise": [250, 100, 50, 30, 15],
    "impulse_noise": [0.01, 0.02, 0.05, 0.08, 0.14],
    "speckle_noise": [0.15, 0.2, 0.25, 0.3, 0.35],
    "gaussian_blur": [0.5, 0.75, 1, 1.25, 1.5],
    "glass_blur": [(0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)],
    "defocus_blur": [(0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)],
    "motion_blur": [(10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)],
    "zoom_blur": [(end, 0.01) for end in (1.06, 1.11, 1.16, 1.21, 1.26)],
    "fog": [(0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)],
    "frost": [(*each, 0.3) for each in ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55))],
    "snow": [
        (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
    ],
    "spatter": [
        (0.62, 0.1, 0.7, 0.7, 0.6, 0),
        (0.65, 0.1, 0.8, 0.7, 0.6, 0),
        (0.65, 0.3, 1, 0.69, 0.6, 0),
        (0.65, 0.1, 0.7, 0.68, 0.6, 1),
        (0.65, 0.1, 0.5, 0.67, 0.6, 1),
    ],
    "contrast": [0.4, 0.3, 0.2, 0.1, 0.05],
    "brightness": [0.1, 0.2, 0.3, 0.4, 0.5],
    "saturate": [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)],
    "jpeg_compression": [65, 58, 50, 40, 25],
    "pixelate": [0.9, 0.8, 0.7, 0.6, 0.5],
    "elastic_transform": [
        (0, 0, 64 * 0.08),
        (64 * 0.05, 64 * 0.3, 64 * 0.06),
        (64 * 0.1, 64 * 0.08, 64 * 0.06),
        (64 * 0.1, 64 * 0.03, 64 * 0.03),
        (64 * 0.16, 64 * 0.03, 64 * 0.02),
    ],
}


@pytest.mark.parametrize("name", [*CORRUPTIONS, FROST])
def test_strengths_of_64_pixels_are_the_authors(name: str) -> None:
    assert [strength_of(name, severity, 64) for severity in SEVERITIES] == OF_64[name]


def test_the_nearest_published_size_in_ratio_is_taken() -> None:
    # sqrt(32 * 64) = 45.3, sqrt(64 * 224) = 119.7
    sides = {1: 32, 16: 32, 32: 32, 45: 32, 46: 64, 64: 64, 96: 64, 119: 64, 120: 224, 224: 224, 1024: 224}
    assert {side: published_size(side) for side in sides} == sides


def test_every_corruption_has_five_strengths_for_each_size() -> None:
    for name in (*CORRUPTIONS, FROST):
        assert len({str([strength_of(name, severity, size) for severity in SEVERITIES]) for size in SIZES}) >= 2
    assert len(CORRUPTIONS) == 18 and len(IMAGENET_C) == 15 and set(IMAGENET_C) <= {*CORRUPTIONS, FROST}
