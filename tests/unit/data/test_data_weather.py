"""Corruptions that move pixels or lay something over them, against their definitions computed by other means."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from peftbench.data.corruptions import corrupted
from peftbench.data.spatter import distances, edges, equalised, spatter
from peftbench.data.weather import affinely_moved, fog, in_motion, plasma, snow

GENERATOR = np.random.default_rng


def noise(*shape: int) -> NDArray[np.uint8]:
    return GENERATOR(3).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("angle", [0.0, 30.0, -45.0, -100.0])
def test_motion_is_a_mean_of_the_pixels_ahead_by_half_a_gaussian(angle: float) -> None:
    image = noise(7, 9)
    blurred = in_motion(image, 3, 1.5, angle)
    weights = [math.exp(-(step**2) / 4.5) for step in range(7)]
    for row in range(7):
        for column in range(9):
            total = 0.0
            for step, weight in enumerate(weights):
                # to the nearest pixel, of two the one behind
                right = math.ceil(step * math.cos(math.radians(angle)) - 0.5)
                below = math.ceil(step * math.sin(math.radians(angle)) - 0.5)
                total += weight * int(image[min(max(row + below, 0), 6), min(max(column + right, 0), 8)])
            assert int(blurred[row, column]) == math.floor(total / sum(weights) + 0.5 / 257)


def test_glass_takes_one_pixel_after_the_other_from_near_by() -> None:
    """At severity 1 of 32 px the blurs are too small to change anything, so that the moves alone are seen."""
    image = noise(32, 32, 3)
    expected = image.copy()
    moves = iter(GENERATOR(1).integers(-1, 1, size=(900, 2)))
    for row in range(31, 1, -1):
        for column in range(31, 1, -1):
            across, down = next(moves)
            expected[row, column] = expected[row + down, column + across]
    np.testing.assert_array_equal(corrupted(image, "glass_blur", 1, GENERATOR(1)), expected)
    assert (expected != image).any(axis=2).mean() > 0.5


def test_clouds_are_means_of_neighbours_and_draws() -> None:
    """Of four points a side: the first corner is 0, and all other points are known by their neighbours and draws."""
    draws = GENERATOR(2)
    w, v = 100.0, 100.0 / 3
    f = np.zeros((4, 4))
    f[2, 2] = w * draws.uniform(-w, w, (1, 1))[0, 0]
    f[0, 2] = f[2, 2] / 2 + w * draws.uniform(-w, w, (1, 1))[0, 0]
    f[2, 0] = f[2, 2] / 2 + w * draws.uniform(-w, w, (1, 1))[0, 0]
    finer = [v * draws.uniform(-v, v, (2, 2)) for _ in range(3)]
    for i in range(2):
        for j in range(2):
            corners = sum(f[2 * (i + a) % 4, 2 * (j + b) % 4] for a in (0, 1) for b in (0, 1))
            f[2 * i + 1, 2 * j + 1] = corners / 4 + finer[0][i, j]
    for number, (down, right) in ((1, (0, 1)), (2, (1, 0))):
        for i in range(2):
            for j in range(2):
                row, column = 2 * i + down, 2 * j + right
                around = ((1, 0), (-1, 0), (0, 1), (0, -1))
                f[row, column] = sum(f[(row + a) % 4, (column + b) % 4] for a, b in around) / 4
                f[row, column] += finer[number][i, j]
    np.testing.assert_allclose(plasma(3, 3, GENERATOR(2)), (f - f.min()) / (f.max() - f.min()), atol=1e-12)


def test_fog_keeps_the_brightest_value_below_itself() -> None:
    x = np.full((32, 32, 3), 0.5)
    foggy = fog(x, (1.5, 2), GENERATOR(0))
    assert foggy.max() == pytest.approx(0.5) and foggy.min() == pytest.approx(0.5 * 0.5 / 2)


def test_an_affine_map_moves_three_points_and_mirrors_beyond_the_border() -> None:
    x = GENERATOR(0).random((9, 11, 3)).astype(np.float32)
    before = np.array([[0, 0], [4, 0], [0, 4]], np.float32)
    # two columns to the right and one row down: the first columns mirror at the border
    moved = affinely_moved(x, before, before + np.array([2, 1], np.float32))
    expected = np.pad(x, ((1, 0), (2, 0), (0, 0)), mode="reflect")[:9, :11]
    np.testing.assert_array_equal(moved, expected)
    half = affinely_moved(x, before, before + np.array([-0.5, 0], np.float32))
    np.testing.assert_allclose(half[:, :-1], (x[:, :-1] + x[:, 1:]) / 2, atol=1e-6)


def test_snow_falls_twice_and_whitens() -> None:
    x = np.full((32, 32, 3), 0.2)
    covered = snow(x, (0.1, 0.2, 1, 0.5, 10, 4, 0.9), GENERATOR(0))
    flakes = covered - (0.9 * 0.2 + 0.1 * (0.2 * 1.5 + 0.5))
    np.testing.assert_allclose(flakes, np.rot90(flakes, 2), atol=1e-6)
    assert flakes.min() == pytest.approx(0, abs=1e-6) and flakes.max() > 0.1


def test_edges_surround_a_bright_square_and_leave_out_weak_slopes() -> None:
    picture = np.zeros((20, 20), np.uint8)
    picture[5:15, 5:15] = 200
    found = edges(picture, 50, 150)
    assert found.any() and not found[7:13, 7:13].any() and not found[:3].any() and not found[17:].any()
    np.testing.assert_array_equal(found[8:12].any(axis=0).nonzero()[0].size, 2)
    # a slope of 8 steps of 4 grey levels: |dx| is 4 * 8 = 32, below the lower limit
    slope = np.tile((np.arange(20) * 4).astype(np.uint8), (20, 1))
    assert not edges(slope, 50, 150).any()
    # 15 levels make 60 to 120: weak, and without a strong neighbour
    weak = np.zeros((20, 20), np.uint8)
    weak[:, 10:] = 30
    assert not edges(weak, 50, 150).any()
    weak[:, 10:] = 40
    assert edges(weak, 50, 150)[:, 8:12].any(axis=1).all()


def test_distances_go_by_steps_diagonals_and_knights_moves() -> None:
    marked = np.zeros((9, 9), bool)
    marked[4, 4] = True
    found = distances(marked)
    assert found[4, 4] == 0 and found[4, 7] == 3 and found[7, 7] == pytest.approx(3 * 1.4, abs=1e-4)
    assert found[5, 6] == pytest.approx(2.1969, abs=1e-4) and found[2, 7] == pytest.approx(2.1969 + 1.4, abs=1e-4)


def test_equalised_values_have_their_share() -> None:
    picture = np.repeat(np.array([10, 20, 30, 40], np.uint8), 4).reshape(4, 4)
    np.testing.assert_array_equal(np.unique(equalised(picture)), [0, 85, 170, 255])
    np.testing.assert_array_equal(equalised(np.full((4, 4), 7, np.uint8)), np.full((4, 4), 7))


def test_mud_covers_and_water_brightens() -> None:
    x = np.full((64, 64, 3), 0.5)
    muddy = spatter(x, (0.65, 0.1, 0.5, 0.68, 0.6, 1), GENERATOR(0))
    covered = muddy[..., 2] < 0.2
    assert covered.any() and (muddy >= np.array([63, 42, 20]) / 255 - 1e-6).all() and (muddy <= 0.5 + 1e-6).all()
    wet = spatter(x, (0.65, 0.3, 2, 0.68, 0.5, 0), GENERATOR(0))
    brighter = wet - 0.5
    assert brighter.min() >= 0 and brighter.max() == pytest.approx(0.5 * 238 / 255, abs=1e-5)
    # pale turquoise: red is least
    np.testing.assert_allclose(brighter[..., 0] * 238, brighter[..., 1] * 175, atol=1e-3)
    assert (spatter(x, (0.0, 0.1, 2, 0.68, 0.5, 0), GENERATOR(0)) == x.astype(np.float32)).all(), "no drop, no change"
