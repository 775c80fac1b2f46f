"""The pixel cache: built once, never half-read, rebuilt when damaged, safe between processes and on a full disk."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from peftbench.cli.commands import data as data_command
from peftbench.data.base import Source
from peftbench.data.pixels import cache
from peftbench.data.pixels.cache import default_cache_dir, load_split
from peftbench.data.pixels.entry import listed, prune
from peftbench.data.pixels.transform import ImageTransform
from peftbench.data.raw import RawSplit
from peftbench.data.splits import ArraySplit
from peftbench.foundation.errors import BadInput, PeftbenchError

TRANSFORM = ImageTransform(8)


@dataclass(frozen=True)
class OneSplit(Source):
    raw: RawSplit

    def split(self, name: str) -> RawSplit:
        return self.raw


def source_of(images: np.ndarray, labels: np.ndarray | None = None) -> OneSplit:
    labels = np.arange(len(images)) % 3 if labels is None else labels
    return OneSplit(("a", "b", "c"), "embedded", "original", "embedded:1", (), CountingSplit(images, labels))


class CountingSplit(ArraySplit):
    reads = 0

    def read(self, index: int) -> Image.Image:
        self.reads += 1
        return super().read(index)


def noise(num_images: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (num_images, *shape), dtype=np.uint8)


def load(source: Source, folder: Path, transform: ImageTransform = TRANSFORM):
    return load_split(source, "train800", transform, folder)


def pixel_file(folder: Path) -> Path:
    [path] = (folder / "images").glob("*.bin")
    return path


def test_pixels_are_the_transformed_images_in_order(tmp_path):
    images = noise(600, 5, 7, 3)  # more than two chunks
    split = load(source_of(images), tmp_path)
    expected = [np.asarray(Image.fromarray(image).resize((8, 8), Image.Resampling.BICUBIC)) for image in images]
    assert np.array_equal(split.images, np.stack(expected))
    assert split.labels.tolist() == [index % 3 for index in range(600)]
    assert split.labels.dtype == np.int64


def test_a_second_load_decodes_nothing(tmp_path):
    first = load(source_of(noise(5, 4, 4, 3)), tmp_path)
    source = source_of(noise(5, 4, 4, 3))
    second = load(source, tmp_path)
    assert source.raw.reads == 0
    assert np.array_equal(first.images, second.images)
    assert first.digest == second.digest


def test_the_array_cannot_be_written(tmp_path):
    split = load(source_of(noise(3, 4, 4, 3)), tmp_path)
    for array in (split.images, split.labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_other_content_or_transform_is_another_entry_and_other_labels_are_not(tmp_path):
    images = noise(3, 4, 4, 3)
    first = load(source_of(images), tmp_path)
    relabelled = source_of(images, np.array([2, 2, 2]))
    second = load(relabelled, tmp_path)
    assert relabelled.raw.reads == 0
    assert second.labels.tolist() == [2, 2, 2]
    assert first.digest != second.digest
    assert not np.array_equal(load(source_of(noise(3, 4, 4, 3, seed=1)), tmp_path).images, first.images)
    assert load(source_of(images), tmp_path, ImageTransform(6)).images.shape == (3, 6, 6, 3)
    assert len(list((tmp_path / "images").glob("*.bin"))) == 3


def test_grey_images_take_one_channel(tmp_path):
    grey = noise(4, 6, 6)
    as_grey = load(source_of(grey), tmp_path)
    as_rgb = load(source_of(np.repeat(grey[..., None], 3, -1)), tmp_path)
    assert as_grey.images.shape == as_rgb.images.shape == (4, 8, 8, 1)
    assert np.array_equal(as_grey.images, as_rgb.images)


def test_one_late_colour_image_gives_three_channels_to_all(tmp_path):
    images = np.repeat(noise(300, 6, 6, 1), 3, -1)
    images[299] = noise(1, 6, 6, 3)[0]
    steps: list[int] = []

    @contextmanager
    def progress(title, total):
        assert total == 300
        yield steps.append

    split = load_split(source_of(images), "test", TRANSFORM, tmp_path, progress)
    assert split.images.shape == (300, 8, 8, 3)
    assert np.array_equal(split.images[0], np.repeat(split.images[0][..., :1], 3, -1))
    assert not (split.images[299] == split.images[299][..., :1]).all()
    assert sum(steps) == 300


@pytest.mark.parametrize("damage", ["truncate", "flip", "header", "no header", "shape", "no pixels"])
def test_a_damaged_entry_is_rebuilt_silently(tmp_path, damage):
    images = noise(4, 4, 4, 3)
    good = np.array(load(source_of(images), tmp_path).images)
    pixels = pixel_file(tmp_path)
    header = pixels.with_suffix(".json")
    if damage == "truncate":
        os.truncate(pixels, 100)
    elif damage == "flip":
        data = bytearray(pixels.read_bytes())
        data[50] ^= 1
        pixels.write_bytes(bytes(data))
    elif damage == "header":
        header.write_text('{"shape": [4')
    elif damage == "no header":
        header.unlink()
    elif damage == "shape":
        header.write_text(json.dumps(json.loads(header.read_text()) | {"shape": [400, 8, 8, 3]}))
    else:
        pixels.unlink()
    source = source_of(images)
    assert np.array_equal(load(source, tmp_path).images, good)
    assert source.raw.reads > 0
    assert np.array_equal(load(source_of(images), tmp_path).images, good)


def test_leftovers_of_a_killed_builder_are_ignored_and_removed(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / f"{'a' * 64}.bin.tmp").write_bytes(b"half")
    load(source_of(noise(2, 4, 4, 3)), tmp_path)
    assert not list(folder.glob("*.tmp"))


_SLOW_BUILDER = """
import sys, time
from pathlib import Path
import numpy as np
sys.path.insert(0, {tests!r})
from test_cache import CountingSplit, OneSplit, TRANSFORM, load_split, noise
class Slow(CountingSplit):
    def read(self, index):
        if index == 300:
            print("writing", flush=True)
            time.sleep(60)
        return super().read(index)
source = OneSplit(("a", "b", "c"), "embedded", "original", "embedded:1", (), Slow(noise(400, 4, 4, 3), np.zeros(400)))
load_split(source, "test", TRANSFORM, Path({folder!r}))
"""


def test_a_builder_killed_midway_leaves_nothing_that_is_read(tmp_path):
    code = _SLOW_BUILDER.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "writing"
        process.send_signal(signal.SIGKILL)
    assert list((tmp_path / "images").glob("*.tmp"))
    images = noise(400, 4, 4, 3)
    split = load(source_of(images), tmp_path)
    assert np.array_equal(
        split.images[0], np.asarray(Image.fromarray(images[0]).resize((8, 8), Image.Resampling.BICUBIC))
    )
    assert not list((tmp_path / "images").glob("*.tmp"))


def _build_and_count(folder: Path, start: float, results: multiprocessing.Queue) -> None:
    source = source_of(noise(300, 16, 16, 3))
    time.sleep(max(0.0, start - time.time()))
    split = load(source, folder)
    results.put((source.raw.reads, split.digest, int(split.images.astype(np.int64).sum())))


def test_two_processes_at_once_build_once_and_agree(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    start = time.time() + 0.2
    processes = [context.Process(target=_build_and_count, args=(tmp_path, start, results)) for _ in range(2)]
    for process in processes:
        process.start()
    (first_reads, *first), (second_reads, *second) = (results.get(timeout=30) for _ in processes)
    for process in processes:
        process.join()
    assert first == second
    assert min(first_reads, second_reads) == 0
    assert max(first_reads, second_reads) >= 300


def test_too_little_space_is_told_before_writing(tmp_path, monkeypatch):
    usage = cache.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda folder: usage._replace(free=1_000_000))
    with pytest.raises(PeftbenchError, match=r"19\.2 MB needed, 1\.0 MB free.*PEFTBENCH_CACHE"):
        load(source_of(noise(100, 4, 4, 3)), tmp_path, ImageTransform(253))
    assert not list((tmp_path / "images").glob("*.bin*"))


def test_a_disk_that_fills_up_keeps_nothing_half_written(tmp_path, monkeypatch):
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(PeftbenchError, match=r"disk filled up.*0\.2 MB needed.*PEFTBENCH_CACHE"):
        load(source_of(noise(1_000, 4, 4, 3)), tmp_path)
    assert not [path for path in (tmp_path / "images").iterdir() if path.suffix != ".lock"]
    monkeypatch.undo()
    assert load(source_of(noise(3, 4, 4, 3)), tmp_path).images.shape == (3, 8, 8, 3)


def test_a_cache_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PeftbenchError, match=r"cannot be used.*PEFTBENCH_CACHE"):
        load(source_of(noise(3, 4, 4, 3)), tmp_path / "file")


def test_an_undecodable_image_stops_the_build_and_leaves_nothing(tmp_path):
    class Broken(CountingSplit):
        def read(self, index: int) -> Image.Image:
            if index == 2:
                raise BadInput("c.jpg: the image cannot be decoded")
            return super().read(index)

    source = source_of(noise(1, 4, 4, 3))
    source = OneSplit(
        *(getattr(source, f) for f in ("class_names", "membership", "pixels", "test", "notes")),
        Broken(noise(4, 4, 4, 3), np.zeros(4)),
    )
    with pytest.raises(BadInput, match=r"c\.jpg"):
        load(source, tmp_path)
    assert not [path for path in (tmp_path / "images").iterdir() if path.suffix != ".lock"]


def test_the_default_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("PEFTBENCH_CACHE", "/somewhere/else")
    assert default_cache_dir() == Path("/somewhere/else")
    monkeypatch.delenv("PEFTBENCH_CACHE")
    monkeypatch.setenv("HOME", "/home/user")
    assert default_cache_dir() == Path("/home/user/.cache/peftbench")


def test_pruning_removes_what_nobody_reads_and_nothing_else(tmp_path):
    kept = load(source_of(noise(3, 4, 4, 3)), tmp_path)
    folder = tmp_path / "images"
    other = load(source_of(noise(3, 4, 4, 3, seed=1)), tmp_path)
    header = next(
        path for path in folder.glob("*.json") if np.memmap(path.with_suffix(".bin")).sum() == other.images.sum()
    )
    header.write_text(json.dumps(json.loads(header.read_text()) | {"pillow": "0.1"}))
    (folder / f"{'a' * 64}.bin.tmp").write_bytes(b"half")
    (folder / f"{'b' * 64}.bin").write_bytes(b"no header")
    (folder / f"{'c' * 64}.lock").write_bytes(b"")
    removed = prune(folder)
    assert sorted(entry.key[0] for entry in removed if not entry.about) == ["a", "b"]
    assert [entry.key for entry in removed if entry.about] == [header.stem]
    assert len(list(folder.iterdir())) == 3, "pixels, header and lock of the one that is still read"
    assert other.images.sum() > 0, "an array that is open stays valid"
    source = source_of(noise(3, 4, 4, 3))
    assert np.array_equal(load(source, tmp_path).images, kept.images)
    assert source.raw.reads == 0


def test_files_of_others_are_neither_listed_nor_removed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path))
    folder = tmp_path / "images"
    folder.mkdir()
    key = "d" * 64
    own = [
        "0001.jpg",
        "0001.json",
        "0002.json",
        "0001.bin",
        "list.lock",
        "half.bin.tmp",
        f"{key}.jpg",
        f"{key}.json.bak",
    ]
    for name in own:
        (folder / name).write_text('{"shapes": []}' if name == "0001.json" else "mine")
    for days in ([], ["--unused-days", "0"]):
        load(source_of(noise(3, 4, 4, 3)), tmp_path)  # sweeps what killed builders left
        (folder / f"{key}.bin").write_bytes(b"no header")
        assert [entry.key for entry in listed(folder) if not entry.about] == [key]
        assert data_command.main(["cache", "--prune", *days]) == 0
        assert f"removed {2 if days else 1} entries" in capsys.readouterr().out, "what was there and is gone"
        assert set(own) <= {path.name for path in folder.iterdir()}
        assert not (folder / f"{key}.bin").exists()
    assert sorted(path.name for path in folder.iterdir()) == sorted(own)
    assert prune(folder, unused_days=0) == []


def test_pruning_by_age_goes_by_the_last_use(tmp_path):
    for seed in (0, 1):
        load(source_of(noise(3, 4, 4, 3, seed=seed)), tmp_path)
    folder = tmp_path / "images"
    for path in folder.iterdir():
        os.utime(path, (time.time() - 10 * 86_400,) * 2)
    load(source_of(noise(3, 4, 4, 3)), tmp_path)  # used again
    assert len(prune(folder, unused_days=5)) == 1
    assert len(listed(folder)) == 1


def test_pruning_leaves_a_builder_alone(tmp_path):
    code = _SLOW_BUILDER.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "writing"
        assert prune(tmp_path / "images") == []
        assert list((tmp_path / "images").glob("*.tmp"))
        process.send_signal(signal.SIGKILL)
    assert len(prune(tmp_path / "images")) == 1
    assert list((tmp_path / "images").iterdir()) == []
