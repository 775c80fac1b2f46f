"""Clips from files: which frames are taken, small videos made here, the forms of lists, and what is wrong named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from peftbench.config.protocol import ProtocolSpec
from peftbench.data.clips import decode
from peftbench.data.clips.listings import Clip
from peftbench.data.clips.sampling import dense_frames, drawn_dense_frames, uniform_frames
from peftbench.data.pixels.cache import load_split
from peftbench.data.pixels.transform import ImageTransform
from peftbench.data.sources.clips import ClipFiles, ClipFileSplit, Taken
from peftbench.data.sources.moving_shapes import MovingShapes
from peftbench.foundation.errors import BadInput, ConfigError, MissingInput
from peftbench.train.batches import training_batches
from peftbench.train.options import TrainSpec


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("num_frames", "expected"),
    [
        (30, [2, 5, 9, 12, 16, 20, 23, 27]),
        (16, [1, 3, 5, 7, 8, 10, 12, 14]),
        (5, [0, 0, 1, 2, 2, 2, 3, 4]),
        (1, [0] * 8),
    ],
)
def test_uniform_frames_are_the_middles_of_segments(num_frames: int, expected: list[int]) -> None:
    assert uniform_frames(num_frames, 8) == expected


def test_drawn_uniform_frames_reach_both_ends_of_their_segments() -> None:
    # segments of 30 frames: bounds 0 4 7 11 14 18 22 25 29
    assert uniform_frames(30, 8, [0.0] * 8) == [0, 4, 7, 11, 14, 18, 22, 25]
    assert uniform_frames(30, 8, [0.999] * 8) == [4, 7, 11, 14, 18, 22, 25, 29]


def test_dense_frames_of_three_views_span_the_video() -> None:
    views = [dense_frames(300, 8, 16, view, 3) for view in range(3)]
    assert [view[0] for view in views] == [0, 94, 187] and views[2][-1] == 299
    assert dense_frames(300, 8, 16) == [93 + 16 * i for i in range(8)]
    assert dense_frames(20, 8, 4) == [0, 4, 8, 12, 16, 19, 19, 19], "padded by the last frame"


def test_drawn_dense_frames_start_anywhere_or_keep_the_last_of_the_stride() -> None:
    assert drawn_dense_frames(300, 8, 16, 0.0) == [16 * i for i in range(8)]
    assert drawn_dense_frames(300, 8, 16, 0.9999)[0] == 300 - 16 * 7 - 1
    assert drawn_dense_frames(20, 8, 4, 0.5) == [0, 4, 8, 12, 16, 16, 16, 16]
    assert drawn_dense_frames(29, 8, 4, 0.5) == [4 * i for i in range(8)]


def video(path: Path, shades: list[int], size: int = 32) -> Path:
    """A small mp4 whose frame `i` is grey of `shades[i]`."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = size
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for shade in shades:
            picture = np.full((size, size, 3), shade, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def frame_folder(path: Path, shades: list[int]) -> None:
    path.mkdir(parents=True)
    for number, shade in enumerate(shades, 1):
        Image.new("L", (8, 8), shade).save(path / f"img_{number:05}.png")


def shades_of(frames: list[Image.Image]) -> list[float]:
    return [float(np.asarray(frame).mean()) for frame in frames]


RAMP = list(range(20, 220, 10))


def test_frames_of_a_video_come_in_their_order(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", RAMP)
    seen = []

    def choose(num_frames: int) -> list[int]:
        seen.append(num_frames)
        return [0, 7, 7, 19]

    found = decode.video_frames(path, choose)
    assert seen == [20] and shades_of(found) == pytest.approx([20, 90, 90, 210], abs=4)


def test_videos_that_are_no_good_are_named(tmp_path: Path) -> None:
    whole = video(tmp_path / "a.mp4", RAMP).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    (tmp_path / "text.mp4").write_text("this is no video")
    for name in ("cut.mp4", "text.mp4"):
        with pytest.raises(BadInput, match=rf"{name}: the video cannot be decoded \(.*\); it is corrupt or cut short"):
            decode.video_frames(tmp_path / name, lambda n: [0])
    with pytest.raises(BadInput, match=r"none\.mp4: there is no such video"):
        decode.video_frames(tmp_path / "none.mp4", lambda n: [0])


def test_without_a_decoder_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(MissingInput, match=r"need PyAV.*pip install 'peftbench\[video\]'"):
        ClipFiles(root=str(tmp_path)).open()


def class_folders(root: Path) -> None:
    for part, count in (("train", 3), ("test", 2)):
        for name, shades in (("down", RAMP[::-1]), ("up", RAMP)):
            for number in range(count):
                video(root / part / name / f"{number}.mp4", [shade + number for shade in shades])


def test_class_folders_of_videos(tmp_path: Path) -> None:
    class_folders(tmp_path / "own")
    spec = ClipFiles(root=str(tmp_path / "own"), frames=4)
    source = spec.open()
    assert (spec.label, spec.group, spec.clip_length) == ("own_t4", "video", 4)
    assert source.class_names == ("down", "up") and source.test == "own:4" and source.mirrors
    train = source.split("trainval")
    assert len(train) == 6 and train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert shades_of(train.read_clip(3)) == pytest.approx([RAMP[i] for i in (2, 7, 12, 16)], abs=4)
    split = load_split(source, "test", ImageTransform(16), tmp_path / "pixels")
    assert split.images.shape[:4] == (4, 4, 16, 16)
    before = spec.revision()
    video(tmp_path / "own" / "test" / "up" / "0.mp4", RAMP[::-1])
    assert ClipFiles(root=str(tmp_path / "own"), frames=4).revision() != before


def test_lists_of_frame_folders_and_videos(tmp_path: Path) -> None:
    frame_folder(tmp_path / "frames" / "a clip", list(range(12)))
    frame_folder(tmp_path / "frames" / "b", list(range(100, 130)))
    video(tmp_path / "c.mp4", RAMP)
    (tmp_path / "train.txt").write_text("frames/a clip 12 0\nc.mp4 1\n")
    (tmp_path / "test.txt").write_text("frames/b 30 1\n")
    (tmp_path / "names.txt").write_text("still\nmoving\n")
    options: dict[str, Any] = {
        "root": str(tmp_path),
        "train_list": str(tmp_path / "train.txt"),
        "test_list": str(tmp_path / "test.txt"),
        "class_list": str(tmp_path / "names.txt"),
        "template": "img_{:05}.png",
        "mirrors": False,
    }
    source = ClipFiles(**options).open()
    assert source.class_names == ("still", "moving") and not source.mirrors
    assert shades_of(source.split("test").read_clip(0)) == [100 + i for i in (2, 5, 9, 12, 16, 20, 23, 27)]
    assert len(source.split("trainval").read_clip(1)) == 8
    digests = {
        ClipFiles(**options, **more).open().split("test").content_digest()
        for more in ({}, {"sampling": "dense", "stride": 2}, {"frames": 4})
    }
    assert len(digests) == 3, "other frames of the same files are other pixels"
    dense = ClipFiles(**options, sampling="dense", stride=2)
    assert shades_of(dense.open().split("test").read_clip(0)) == [107 + 2 * i for i in range(8)]
    assert dense.label.endswith("_t8s2")
    (tmp_path / "frames" / "b" / "img_00030.png").unlink()
    with pytest.raises(BadInput, match=r"1 of 1 clips are missing: frames/b/img_00030\.png \(the last of 30 listed"):
        ClipFiles(**options).open()


def test_training_can_take_other_frames_in_every_epoch(tmp_path: Path) -> None:
    lists = {}
    for part, offset in (("train", 0), ("test", 100)):
        for label in (0, 1):
            frame_folder(tmp_path / f"{part}{label}", [offset + number for number in range(40)])
        (tmp_path / f"{part}.txt").write_text(f"{part}0 40 0\n{part}1 40 1\n")
        lists[f"{part}_list"] = str(tmp_path / f"{part}.txt")
    source = ClipFiles(root=str(tmp_path), template="img_{:05}.png", **lists).open()
    streamed = load_split(source, "trainval", ImageTransform(8), tmp_path, stream_above=-1)
    train = TrainSpec(batch_size=2, draw_frames=True)

    def taken(seed: int, epoch: int, size: int = 2) -> np.ndarray:
        options = replace(train, batch_size=size)
        batches = training_batches(streamed.inputs, streamed.targets, options, num_classes=2, seed=seed, device="cpu")
        found = {
            int(i): clip
            for batch in batches.epoch(epoch)
            for i, clip in zip(batch["index"], batch["image"], strict=True)
        }
        return np.stack([np.rint(255 * found[i][:, 0, 0, 0].numpy()) for i in (0, 1)])

    first = taken(0, 0)
    assert (
        (taken(0, 0, size=1) == first).all() and not (taken(0, 1) == first).all() and not (taken(1, 0) == first).all()
    )
    # one frame of each of eight segments of 40 frames: bounds 0 5 10 15 20 24 29 34 39
    bounds = np.array([0, 5, 10, 15, 20, 24, 29, 34, 39])
    assert (first >= bounds[:-1]).all() and (first <= bounds[1:]).all() and not (first[0] == first[1]).all()
    kept = load_split(source, "trainval", ImageTransform(8), tmp_path)
    drawn = load_split(MovingShapes().open(), "val200", ImageTransform(32), tmp_path, stream_above=-1)
    for split in (kept, drawn):
        with pytest.raises(ConfigError, match=r"train\.draw_frames=true takes other frames of files"):
            training_batches(split.inputs, split.targets, train, num_classes=8, seed=0, device="cpu")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("a.mp4", "line 1: no label at the end of 'a.mp4'"),
        ("folder 1", "line 1: neither a video file nor a folder with its number of frames"),
        ("../a.mp4 1", r"line 1: the path must stay inside the dataset's folder, got '\.\./a\.mp4'"),
        ("", "no clip is listed"),
    ],
)
def test_lines_of_a_list_that_are_no_good_are_named(tmp_path: Path, line: str, problem: str) -> None:
    (tmp_path / "list.txt").write_text(line + "\n")
    lists = {"train_list": str(tmp_path / "list.txt"), "test_list": str(tmp_path / "list.txt")}
    with pytest.raises(BadInput, match=rf"list\.txt: {problem}"):
        ClipFiles(root=str(tmp_path), **lists).open()


def test_a_clip_in_two_parts_is_refused(tmp_path: Path) -> None:
    frame_folder(tmp_path / "a", [1, 2])
    frame_folder(tmp_path / "b", [1, 2])
    (tmp_path / "train.txt").write_text("a 2 0\nb 2 1\n")
    (tmp_path / "test.txt").write_text("a 2 0\nb 2 1\n")
    lists = {"train_list": str(tmp_path / "train.txt"), "test_list": str(tmp_path / "test.txt")}
    with pytest.raises(BadInput, match="a is listed in both train and test"):
        ClipFiles(root=str(tmp_path), template="img_{:05}.png", **lists).open()


def test_options_that_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.template must name one file a frame"):
        ClipFiles(template="frame.jpg")
    with pytest.raises(ConfigError, match=r"dataset\.train_list and dataset\.test_list go together"):
        ClipFiles(train_list="a.txt")
    with pytest.raises(MissingInput, match=r"set dataset\.root=.*moving_shapes needs no files"):
        ClipFiles().open()
    with pytest.raises(BadInput, match="no train/ and test/ with class folders of videos"):
        ClipFiles(root=str(tmp_path)).open()


def test_the_lists_of_ucf101_and_hmdb51(tmp_path: Path) -> None:
    for name in ("Archery/v_Archery_g08_c01", "Bowling/v_Bowling_g01_c01", "Archery/v_Archery_g02_c01"):
        video(tmp_path / "ucf" / f"{name}.avi", RAMP[:4])
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Archery\n2 Bowling\n")
    (lists / "trainlist01.txt").write_text("Archery/v_Archery_g08_c01.avi 1\nBowling/v_Bowling_g01_c01.avi 2\n")
    (lists / "testlist01.txt").write_text("Archery/v_Archery_g02_c01.avi\n")
    spec = ClipFiles(root=str(tmp_path / "ucf"), form="ucf101", lists=str(lists))
    source = spec.open()
    assert spec.label == "ucf101_split1" and source.class_names == ("Archery", "Bowling")
    assert source.split("trainval").labels.tolist() == [0, 1] and source.split("test").labels.tolist() == [0]
    assert source.test == "official:1"
    own = tmp_path / "hmdb"
    for name in ("brush_hair/a.avi", "brush_hair/b.avi", "wave/c.avi", "wave/d.avi"):
        video(own / name, RAMP[:4])
    (lists / "brush_hair_test_split2.txt").write_text("a.avi 1 \nb.avi 2 \nunused.avi 0 \n")
    (lists / "wave_test_split2.txt").write_text("c.avi 2 \nd.avi 1 \n")
    source = ClipFiles(root=str(own), form="hmdb51", lists=str(lists), split=2).open()
    assert source.class_names == ("brush_hair", "wave")
    assert source.split("trainval").labels.tolist() == source.split("test").labels.tolist() == [0, 1]


def test_the_lists_of_ssv2_and_kinetics(tmp_path: Path) -> None:
    videos, lists = tmp_path / "videos", tmp_path / "lists"
    lists.mkdir()
    for name in ("7", "8", "9"):
        video(tmp_path / f"{name}.mp4", RAMP[:4])
        videos.mkdir(exist_ok=True)
        (tmp_path / f"{name}.mp4").rename(videos / f"{name}.webm")
    (lists / "labels.json").write_text(json.dumps({"Pushing something left": "1", "Holding something": "0"}))
    rows = [{"id": "7", "template": "Holding [something]"}, {"id": "8", "template": "Pushing [something] left"}]
    (lists / "train.json").write_text(json.dumps(rows))
    (lists / "validation.json").write_text(json.dumps([{"id": "9", "template": "Pushing [something] left"}]))
    source = ClipFiles(root=str(videos), form="ssv2", lists=str(lists), mirrors=False).open()
    assert source.class_names == ("Holding something", "Pushing something left")
    assert source.split("trainval").labels.tolist() == [0, 1] and source.split("test").labels.tolist() == [1]
    head = "label,youtube_id,time_start,time_end,split\n"
    (lists / "train.csv").write_text(head + "abseiling,AAA,3,13,train\nzumba,BBB,0,10,train\nzumba,GONE,0,10,train\n")
    (lists / "val.csv").write_text(head + "zumba,CCC,1,11,val\n")
    kinetics = tmp_path / "k400"
    for name in ("train/abseiling/AAA_000003_000013", "train/BBB_000000_000010", "val/zumba/CCC_000001_000011"):
        video(kinetics / f"{name}.mp4", RAMP[:4])
    source = ClipFiles(root=str(kinetics), form="kinetics", lists=str(lists)).open()
    assert source.class_names == ("abseiling", "zumba") and source.split("trainval").labels.tolist() == [0, 1]
    assert source.test == "official-of-1:1"


def test_views_are_stretches_in_time_and_squares_along_the_longer_side(tmp_path: Path) -> None:
    """The protocol's views in order; each is cached apart, and the frames and columns are those of the view."""
    lines = []
    for number in range(2):
        folder = tmp_path / "frames" / str(number)
        folder.mkdir(parents=True)
        for moment in range(12):
            # 8 rows and 16 columns: the shade rises by 10 from frame to frame and by 5 from column to column
            pixels = (10 * moment + 5 * np.arange(16, dtype=np.uint8))[None].repeat(8, 0)
            Image.fromarray(pixels).save(folder / f"img_{moment + 1:05}.png")
        lines.append(f"{number} 12 {number}")
    lists = {}
    for part in ("train", "test"):
        (tmp_path / f"{part}.txt").write_text("\n".join(lines))
        lists[f"{part}_list"] = str(tmp_path / f"{part}.txt")
    spec = ClipFiles(root=str(tmp_path / "frames"), frames=3, sampling="dense", stride=2, **lists)
    spec = replace(spec, template="img_{:05}.png")
    assert [replace(spec.taken, view=view, views=3).chosen(12)[0] for view in range(3)] == [0, 4, 7]
    protocol = ProtocolSpec(resize="crop", views=3, crops=3)
    assert [(view.number, view.place) for view in protocol.test_views] == [
        (v, p) for v in range(3) for p in (0, 0.5, 1)
    ]
    split = ClipFileSplit(tmp_path / "frames", [Clip("0", 12, 0)], spec.taken)
    transform = ImageTransform(8, "crop")
    digests = set()
    for view in protocol.test_views:
        source = _Only(split)
        loaded = load_split(source, "test", transform, tmp_path / "cache", view=view)  # type: ignore[arg-type]
        digests.add((loaded.digest, view.place))
        first = {0: 0, 1: 4, 2: 7}[view.number]
        column = {0: 0, 0.5: 4, 1: 8}[view.place]
        shades = loaded.inputs["image"][0, :, 0, 0, 0]  # type: ignore[index]
        assert shades.tolist() == [10 * (first + 2 * step) + 5 * column for step in range(3)]
    assert len(digests) == 9
    assert ClipFileSplit(tmp_path, [], spec.taken).stretch(0, 1).taken == spec.taken


class _Only:
    """A source of one split."""

    splits = ("test",)

    def __init__(self, split: ClipFileSplit) -> None:
        self._split = split

    def split(self, name: str) -> ClipFileSplit:
        return self._split


def test_views_that_there_are_not_are_told() -> None:
    with pytest.raises(ConfigError, match=r"protocol\.views=3: dataset\.sampling=uniform spreads one clip"):
        ClipFileSplit(Path(), [], Taken(8, "uniform", 4, "{}", 1)).stretch(0, 3)
    with pytest.raises(ConfigError, match=r"protocol\.views=2: only clips from files"):
        MovingShapes().open().split("test").stretch(1, 2)
    with pytest.raises(ConfigError, match=r"protocol\.crops=3 cuts along .* needs protocol\.resize=crop"):
        ProtocolSpec(crops=3)
    assert "views" not in ProtocolSpec().identity() and ProtocolSpec(resize="crop", crops=3).identity()["crops"] == 3
