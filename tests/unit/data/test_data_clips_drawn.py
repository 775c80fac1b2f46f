"""Drawn clips: the recipe to the bit, classes that only order tells, and clips in cache, batches and stream."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

from peftbench.data.base import DatasetSpec
from peftbench.data.fewshot.draw import few_shot
from peftbench.data.pixels.cache import load_split
from peftbench.data.pixels.transform import ImageTransform
from peftbench.data.raw import ClipSplit, RawSplit
from peftbench.data.sources import camera_motion, moving_shapes
from peftbench.data.sources.camera_motion import CameraMotion
from peftbench.data.sources.moving_shapes import MovingShapes
from peftbench.data.splits import joined
from peftbench.foundation.errors import BadInput, ConfigError, MissingInput
from peftbench.train.batches import Batches


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("label", "size", "frames", "expected"),
    [(0, 32, 8, "70de8690572ee788"), (5, 32, 8, "9f08a5ac9d969485"), (7, 48, 5, "322a884354cd3ef8")],
)
def test_golden_moving_shapes(label: int, size: int, frames: int, expected: str) -> None:
    assert digest(moving_shapes.clip(0, 3, label, size, frames)) == expected


@pytest.mark.parametrize("frames", [5, 8, 9])
def test_the_frames_of_a_clip_are_the_same_for_every_class_in_another_order(frames: int) -> None:
    """So nothing that forgets the order can tell the class: not a mean of pixels, not a mean of any features."""
    for index in range(4):
        clips = [moving_shapes.clip(0, index, label, frames=frames) for label in range(8)]
        frames_of = [sorted(frame.tobytes() for frame in clip) for clip in clips]
        assert all(found == frames_of[0] for found in frames_of)
        assert len({clip.tobytes() for clip in clips}) == 8


@pytest.mark.slow
def test_a_mean_over_frames_is_at_chance() -> None:
    clips = np.stack([moving_shapes.clip(0, index, index % 8) for index in range(800)])
    means, labels = clips.mean(1).reshape(800, -1) / 255, np.arange(800) % 8
    probe = LogisticRegression(C=0.01, max_iter=50).fit(means[:400], labels[:400])
    # chance is 1/8; 400 clips spread by 0.017
    assert probe.score(means[400:], labels[400:]) < 0.125 + 3.5 * 0.017


def test_the_gliding_shape_goes_where_the_class_says() -> None:
    """The places on the tracks: steps of the class along one, each place once on both, and one pairing for all."""
    hops = np.random.RandomState(0).permutation(8)
    pairs = set()
    for label, name in enumerate(moving_shapes.CLASSES):
        row, column = moving_shapes._orders(label, 2, hops)
        glide = row if name.startswith(("right", "left")) else column
        step = (1 if name.endswith("slow") else 3) * (-1 if name.startswith(("left", "up")) else 1)
        assert ((np.diff(glide) - step) % 8 == 0).all() and sorted(row) == sorted(column) == list(range(8))
        pairs.add(tuple(sorted(zip(row.tolist(), column.tolist(), strict=True))))
    assert len(pairs) == 1
    drawn = [moving_shapes._hops(np.random.RandomState(seed), 5) for seed in range(60)]
    steps = [{int(step) % 5 for step in np.diff([*hops, hops[0]])} for hops in drawn]
    assert min(map(len, steps)) > 1, "the other shape never glides as well"
    assert [moving_shapes.fast_step(n) for n in (5, 7, 8, 9, 10, 12, 16)] == [2, 2, 3, 2, 3, 5, 3]


def test_frames_that_leave_no_second_speed_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.frames=6 leaves no second speed"):
        MovingShapes(frames=6)


def test_opposite_motions_of_the_camera_are_one_sequence_read_both_ways() -> None:
    album = camera_motion._Album(tuple(CameraMotion()._pictures()))
    for label in range(0, 8, 2):
        there, back = (camera_motion.clip(album, 0, 1, label + way) for way in (0, 1))
        assert (there == back[::-1]).all() and not (there == back).all()


def test_what_each_motion_of_the_camera_does() -> None:
    def moved(name: str) -> np.ndarray:
        path = camera_motion.poses(np.random.RandomState(1), camera_motion.CLASSES.index(name), 8)
        return np.array([[getattr(path[-1], key) - getattr(path[0], key) for key in ("x", "y", "scale", "turn")]])[0]

    still = moved("rest")
    assert np.abs(still[:2]).max() < 0.06 and not still[2:].any()
    signs = {"pan_right": (0, 1), "pan_left": (0, -1), "pan_down": (1, 1), "pan_up": (1, -1), "zoom_in": (2, -1)}
    signs |= {"zoom_out": (2, 1), "turn_right": (3, 1), "turn_left": (3, -1)}
    for name, (axis, sign) in signs.items():
        change = moved(name)
        assert sign * change[axis] > 0.15
        assert np.abs(np.delete(change, axis)).max() < 0.06


def test_a_window_turns_and_scales_about_its_middle() -> None:
    ramp = np.repeat(np.arange(40.0)[None, :, None], 40, 0).repeat(3, 2)  # grows to the right
    level = camera_motion._window(ramp, 4, 20.0, 20.0, 1.0, 0.0)
    assert level[0, :, 0].tolist() == [18, 18, 20, 20] or level[0, :, 0].tolist() == [18, 19, 20, 21]
    quarter = camera_motion._window(ramp, 4, 20.0, 20.0, 1.0, np.pi / 2)
    assert (quarter[:, 0, 0] == quarter[0, 0, 0] - np.arange(4)).all(), "clockwise: its right side points down"
    wide = camera_motion._window(ramp, 4, 20.0, 20.0, 2.0, 0.0)
    assert int(wide[0, 3, 0]) - int(wide[0, 0, 0]) == 6


# means of quarters of two frames, a channel each
CAMERA = [
    *(214.61, 216.74, 221.04, 234.7, 236.95, 242.47, 176.42, 180.79, 179.38, 190.67, 202.02, 206.98),
    *(225.36, 230.26, 237.91, 233.91, 235.38, 239.81, 182.13, 180.04, 176.86, 185.31, 197.65, 201.86),
]


def test_golden_camera_motion() -> None:
    """Quarters of two frames to half a grey level: decoding and resizing a JPEG may differ in a last bit elsewhere."""
    album = camera_motion._Album(tuple(CameraMotion()._pictures()))
    clip = camera_motion.clip(album, 0, 5, 6)[[0, 7]].astype(float)
    quarters = clip.reshape(2, 2, 16, 2, 16, 3).mean((2, 4)).ravel()
    assert np.abs(quarters - CAMERA).max() < 0.5, "the drawing changed: raise camera_motion.VERSION and renew CAMERA"


def test_own_pictures_of_test_clips_are_in_no_training_clip(tmp_path: Path) -> None:
    for number in range(10):
        Image.new("RGB", (80, 60), (20 * number, 10, 10)).save(tmp_path / f"{number}.png")
    source = CameraMotion(root=str(tmp_path)).open()
    seen = {
        part: {int(np.asarray(source.split(part).read(index))[..., 0].mean() / 20 + 0.5) for index in range(100)}
        for part in ("train800val200", "test")
    }
    assert seen["test"] == {4, 9} and seen["train800val200"] == {0, 1, 2, 3, 5, 6, 7, 8}
    before = CameraMotion(root=str(tmp_path)).revision()
    Image.new("RGB", (80, 60)).save(tmp_path / "9.png")
    assert CameraMotion(root=str(tmp_path)).revision() != before


def test_a_folder_of_pictures_that_is_no_good_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"there is no such folder; set it to a folder of pictures"):
        CameraMotion(root=str(tmp_path / "none")).open()
    with pytest.raises(BadInput, match=r"0 pictures; put two or more there"):
        CameraMotion(root=str(tmp_path)).open()
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"[ab]\.png: the image cannot be decoded"):
        CameraMotion(root=str(tmp_path)).open().split("test").read(0)


SETS: list[DatasetSpec] = [MovingShapes(), CameraMotion()]


@pytest.mark.parametrize("spec", SETS, ids=lambda spec: spec.name)
def test_a_clip_depends_on_seed_and_index_only(spec: DatasetSpec) -> None:
    split = spec.open().split("val200")
    forwards = [stacked(split, index) for index in range(6)]
    assert all((stacked(split, index) == forwards[index]).all() for index in reversed(range(6)))
    assert forwards[0].shape == (8, 32, 32, 3) and len({clip.tobytes() for clip in forwards}) == 6
    other = type(spec)(seed=1).open().split("val200")  # type: ignore[call-arg]
    assert not (stacked(other, 0) == forwards[0]).all() and other.content_digest() != split.content_digest()
    assert np.bincount(spec.open().split("test").labels).min() >= 1000 // len(spec.open().class_names)
    assert (np.asarray(split.read(2)) == forwards[2][4]).all(), "as an image, the frame in the middle"


def stacked(split: RawSplit, index: int) -> np.ndarray:
    return np.stack([np.asarray(frame) for frame in split.read_clip(index)])


def test_clips_go_through_cache_stream_and_batches_alike(tmp_path: Path) -> None:
    source, transform = MovingShapes().open(), ImageTransform(16)
    kept = load_split(source, "val200", transform, tmp_path)
    streamed = load_split(source, "val200", transform, tmp_path, stream_above=0)
    assert kept.images.shape == streamed.images.shape == (200, 8, 16, 16, 3)
    rows = np.array([7, 150])
    assert not isinstance(streamed.images, np.ndarray) and isinstance(kept.images, np.ndarray)
    assert (streamed.images.read(rows) == kept.images[rows]).all()
    assert (kept.images[7] == np.stack([transform.apply(f) for f in source.split("val200").read_clip(7)])).all()
    batches = Batches(kept.inputs, kept.targets, batch_size=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    first = next(iter(batches.epoch(0)))
    assert first["image"].shape == (64, 8, 3, 16, 16)
    torch.testing.assert_close(first["image"][7, 3], torch.tensor(kept.images[7, 3]).permute(2, 0, 1) / 127.5 - 1)


def test_parts_of_clips_are_clips() -> None:
    whole = MovingShapes().open().split("val200")
    assert isinstance(whole, ClipSplit)
    taken = whole.take(np.array([3, 8]))
    both = joined(taken, whole.take(np.array([1])))
    assert taken.frames == both.frames == 8 and len(both) == 3
    assert (stacked(both, 1) == stacked(whole, 8)).all() and (stacked(both, 2) == stacked(whole, 1)).all()
    drawn = few_shot(MovingShapes().open(), 2, 0, "few-shot:test").split("fewshot")
    assert drawn.frames == 8 and np.bincount(drawn.labels).tolist() == [2] * 8


def test_the_digest_holds_size_frames_and_seed() -> None:
    specs = [MovingShapes(), MovingShapes(size=48), MovingShapes(frames=5), MovingShapes(seed=2)]
    assert len({spec.revision() for spec in specs}) == 4
    assert [spec.label for spec in specs] == ["moving_shapes", "moving_shapes_48", "moving_shapes_t5", "moving_shapes"]
    assert [spec.clip_length for spec in specs] == [8, 8, 5, 8]
