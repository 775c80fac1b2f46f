"""Clips as the loaders of released code take them: frames, squares and groups; and files and lists that are no good."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from peftbench.data.clips import decode
from peftbench.data.clips.listings import Clip, from_lists, hold_out
from peftbench.data.clips.sampling import SAMPLINGS, frames_for_evaluation, frames_for_training
from peftbench.data.fewshot.draw import few_shot
from peftbench.data.pixels.cache import load_split
from peftbench.data.pixels.stream import sample_pixels
from peftbench.data.pixels.transform import ImageTransform
from peftbench.data.raw import ClipSplit
from peftbench.data.sources.clips import ClipFiles
from peftbench.data.sources.moving_shapes import MovingShapes
from peftbench.data.verify import verify
from peftbench.foundation.errors import BadInput, ConfigError


@pytest.mark.parametrize(
    ("sampling", "starts", "single"), [("mmaction", [28, 86, 144], 86), ("videomae", [0, 80, 176], 80)]
)
def test_views_lie_where_the_loaders_put_them(sampling: str, starts: list[int], single: int) -> None:
    """mmaction2's SampleFrames: 173 starts in three parts. VideoMAE's: 19 of every 16th frame, 11 of them over."""
    found = [frames_for_evaluation(sampling, 300, 8, 16, view, 3) for view in range(3)]
    assert found == [[start + 16 * i for i in range(8)] for start in starts]
    assert frames_for_evaluation(sampling, 300, 8, 16) == [single + 16 * i for i in range(8)]


def test_short_videos_start_again_or_stay_at_their_last_frame() -> None:
    assert frames_for_evaluation("mmaction", 100, 8, 16, 2, 3) == [0, 16, 32, 48, 64, 80, 96, 12]
    assert frames_for_training("mmaction", 100, 8, 16, [0.9] * 8) == [0, 16, 32, 48, 64, 80, 96, 12]
    assert frames_for_evaluation("videomae", 20, 8, 4, 1, 3) == [0, 4, 8, 12, 16, 16, 16, 16]
    # its training loader does not step onto the last frame
    assert frames_for_training("videomae", 20, 8, 4, [0.9] * 8) == [0, 4, 8, 12, 16, 16, 16, 16]
    assert frames_for_training("videomae", 17, 8, 4, [0.9] * 8) == [0, 4, 8, 12, 12, 12, 12, 12]


@pytest.mark.parametrize("sampling", ["mmaction", "videomae"])
def test_training_starts_anywhere_a_whole_stretch_fits(sampling: str) -> None:
    firsts = [frames_for_training(sampling, 300, 8, 16, [draw] * 8) for draw in (0.0, 0.5, 0.9999)]
    assert firsts == [[start + 16 * i for i in range(8)] for start in (0, 86, 172)]


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("num_frames", [1, 2, 7, 40])
def test_every_frame_taken_is_one_of_the_video(sampling: str, num_frames: int) -> None:
    views = 1 if sampling == "uniform" else 4
    found = [frames_for_evaluation(sampling, num_frames, 8, 3, view, views) for view in range(views)]
    found += [frames_for_training(sampling, num_frames, 8, 3, [draw] * 8) for draw in (0.0, 0.999)]
    assert all(len(taken) == 8 and min(taken) >= 0 and max(taken) < num_frames for taken in found)


def test_ways_of_sampling_have_columns_of_their_own() -> None:
    labels = [ClipFiles(title="x", sampling=sampling).label for sampling in SAMPLINGS]
    assert labels == ["x", "x_t8s16", "x_t8s16_mmaction", "x_t8s16_videomae"]


class Few(ClipSplit):
    """One clip of given frames."""

    def __init__(self, frames: list[Image.Image]) -> None:
        self._shown, self.frames, self.labels = frames, len(frames), np.zeros(1, np.int64)

    def content_digest(self) -> str:
        return "few"

    def read_clip(self, index: int, moments: np.ndarray | None = None) -> list[Image.Image]:
        return self._shown


class Only:
    """A source of one split."""

    splits = ("test",)

    def __init__(self, split: ClipSplit) -> None:
        self._split = split

    def split(self, name: str) -> ClipSplit:
        return self._split


def test_the_middle_square_of_a_clip_leaves_half_a_pixel_out(tmp_path: Path) -> None:
    """margin // 2 as in all loaders of clips, where torchvision's centre crop rounds for images."""
    ramp = np.arange(19, dtype=np.uint8)[None].repeat(8, 0)
    wide = Image.fromarray(ramp)
    loaded = load_split(Only(Few([wide, wide])), "test", ImageTransform(8, "crop"), tmp_path)  # type: ignore[arg-type]
    assert loaded.inputs["image"][0, :, 0, 0, 0].tolist() == [5, 5]  # type: ignore[index]
    assert ImageTransform(8, "crop").apply(wide)[0, 0, 0] == 6
    assert ImageTransform(8, "crop", floors=True).key() != ImageTransform(8, "crop").key()
    assert ImageTransform(8, floors=True).key() == ImageTransform(8).key()


def test_grey_frames_among_coloured_ones_are_colour() -> None:
    grey, red = Image.new("L", (8, 8), 90), Image.new("RGB", (8, 8), (200, 0, 0))
    found = sample_pixels(Few([grey, red]), 0, ImageTransform(8))
    assert (
        found.shape == (2, 8, 8, 3) and found[0, 0, 0].tolist() == [90] * 3 and found[1, 0, 0].tolist() == [200, 0, 0]
    )
    assert sample_pixels(Few([grey, grey]), 0, ImageTransform(8)).shape == (2, 8, 8, 1)


def test_clips_of_one_recording_are_held_out_together() -> None:
    clips = [
        Clip(f"{label}/g{group}_c{n}", None, label, f"g{group}")
        for label in (0, 1)
        for group in range(20)
        for n in range(3)
    ]
    clips.append(Clip("2/only", None, 2, "g0"))
    kept, held = hold_out(clips, 10, seed=0)
    assert sorted([*kept, *held], key=clips.index) == clips and kept == tuple(clip for clip in clips if clip in kept)
    assert not {(clip.label, clip.group) for clip in kept} & {(clip.label, clip.group) for clip in held}
    assert np.bincount([clip.label for clip in held]).tolist() == [6, 6], (
        "two groups of three; the last one of a class stays"
    )
    assert {clip.group for clip in hold_out(clips, 10, seed=1)[1]} != {clip.group for clip in held}


def ucf101(lists: Path, lines: list[str]) -> ClipFiles:
    lists.mkdir(exist_ok=True)
    (lists / "classInd.txt").write_text("1 Archery\n2 Bowling\n")
    (lists / "trainlist01.txt").write_text("\n".join(lines))
    (lists / "testlist01.txt").write_text("Archery/v_Archery_g01_c01.avi\n")
    return ClipFiles(root=str(lists.parent), form="ucf101", lists=str(lists))


def test_validation_clips_of_ucf101_and_hmdb51_share_no_recording_with_training(tmp_path: Path) -> None:
    pytest.importorskip("av")
    lines = [
        f"{name}/v_{name}_g{group:02}_c{n:02}.avi {label}"
        for label, name in enumerate(("Archery", "Bowling"), 1)
        for group in range(8, 18)
        for n in range(1, 4)
    ]
    for line in [*lines, "Archery/v_Archery_g01_c01.avi"]:
        path = tmp_path / line.split()[0]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not read here")
    source = ucf101(tmp_path / "lists", lines).open()
    parts = {part: {clip.group for clip in source.split(part).clips} for part in ("train", "val")}  # type: ignore[attr-defined]
    assert len(parts["val"]) == 2 and not parts["train"] & parts["val"]
    assert len(source.split("trainval")) == 60 and len(source.split("val")) == 6
    # of the three clips that a class holds out all, though four are asked for
    for order in ("nested", "coop"):
        few = few_shot(source, 4, seed=0, membership="", order=order)
        drawn = {part: few.split(part).clips for part in ("fewshot", "fewshot_val")}  # type: ignore[attr-defined]
        assert [len(clips) for clips in drawn.values()] == [8, 6]
        of = [{clip.group for clip in clips} for clips in drawn.values()]
        assert of[0] <= parts["train"] and of[1] == parts["val"]
    hmdb = tmp_path / "hmdb"
    names = [f"Long_Hair_{film}_brush_hair_u_nm_np1_ba_goo_{n}.avi" for film in "abcdefghij" for n in range(4)]
    for name in [*names, "other_brush_hair_f_cm_np2_fr_med_0.avi"]:
        path = hmdb / "brush_hair" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not read here")
    for name in ("x_wave_f_nm_np1_fr_med_0.avi", "y_wave_f_nm_np1_fr_med_1.avi"):
        (hmdb / "wave").mkdir(exist_ok=True)
        (hmdb / "wave" / name).write_bytes(b"not read here")
    lists = tmp_path / "lists"
    (lists / "brush_hair_test_split1.txt").write_text(
        "".join(f"{name} 1 \n" for name in names) + "other_brush_hair_f_cm_np2_fr_med_0.avi 2 \n"
    )
    (lists / "wave_test_split1.txt").write_text("x_wave_f_nm_np1_fr_med_0.avi 1 \ny_wave_f_nm_np1_fr_med_1.avi 2 \n")
    source = ClipFiles(root=str(hmdb), form="hmdb51", lists=str(lists)).open()
    val = source.split("val").clips  # type: ignore[attr-defined]
    assert [clip.path[-5] for clip in val] == list("0123") and len({clip.group for clip in val}) == 1


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["Diving/v_Diving_g01_c01.avi 3"], r"line 1: the class of 'Diving/.*' is not in classInd\.txt"),
        (["../v_Archery_g01_c01.avi 1"], r"line 1: the path must stay inside"),
    ],
)
def test_lists_of_ucf101_that_are_no_good_are_named(tmp_path: Path, lines: list[str], problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        ucf101(tmp_path / "lists", lines).open()


def test_a_class_without_a_name_is_named(tmp_path: Path) -> None:
    spec = ucf101(tmp_path / "lists", ["Archery/v_Archery_g08_c01.avi 1"])
    (tmp_path / "lists" / "classInd.txt").write_text("1 Archery\n2\n")
    with pytest.raises(BadInput, match=r"classInd\.txt: line 2: no class behind its number in '2'; a line is 'number"):
        spec.open()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("a.avi", r"line 1: no id 0, 1 or 2 at the end of 'a\.avi'; a line is 'file id'"),
        ("a.avi 3", r"line 1: no id 0, 1 or 2"),
        ("../a.avi 1", r"line 1: the path must stay inside"),
        ("a.avi 1", r"no clip of the lists of split 1 is for testing"),
    ],
)
def test_lists_of_hmdb51_that_are_no_good_are_named(tmp_path: Path, line: str, problem: str) -> None:
    (tmp_path / "wave_test_split1.txt").write_text(line + "\n")
    with pytest.raises(BadInput, match=problem):
        ClipFiles(root=str(tmp_path), form="hmdb51").open()


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (["a"], r"labels\.json: no classes with their numbers"),
        ({"a": "x"}, r"labels\.json: no classes with their numbers"),
        ({"a": "1", "b": "2"}, r"labels\.json: the numbers of its 2 classes are not 0 to 1"),
    ],
)
def test_labels_of_ssv2_that_are_no_good_are_named(tmp_path: Path, labels: object, problem: str) -> None:
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    with pytest.raises(BadInput, match=problem):
        ClipFiles(root=str(tmp_path), form="ssv2", mirrors=False).open()


def test_clips_of_ssv2_are_never_mirrored() -> None:
    with pytest.raises(
        ConfigError, match=r"form=ssv2 has classes that know left from right; set dataset\.mirrors=false"
    ):
        ClipFiles(form="ssv2")


def test_a_label_of_kinetics_that_leads_out_of_its_folder_is_named(tmp_path: Path) -> None:
    for name in ("train", "val"):
        (tmp_path / f"{name}.csv").write_text("label,youtube_id,time_start,time_end\n../x,AAA,0,10\n")
    with pytest.raises(BadInput, match=r"train\.csv: the path must stay inside the dataset's folder, got '\.\./x/AAA'"):
        ClipFiles(root=str(tmp_path), form="kinetics").open()


def test_either_name_of_the_validation_list_of_kinetics_is_read(tmp_path: Path) -> None:
    pytest.importorskip("av")
    for name, video in (("train", "AAA"), ("validate", "BBB")):
        (tmp_path / f"{name}.csv").write_text(
            f"label,youtube_id,time_start,time_end\nzumba,{video},0,10\nyoga,{video},1,11\n"
        )
        folder = tmp_path / {"train": "train", "validate": "val"}[name]
        for label, times in (("zumba", "000000_000010"), ("yoga", "000001_000011")):
            (folder / label).mkdir(parents=True)
            (folder / label / f"{video}_{times}.mp4").write_bytes(b"not read here")
    source = ClipFiles(root=str(tmp_path), form="kinetics").open()
    assert source.test == "official-of-2:2" and source.class_names == ("yoga", "zumba")
    for folder in ("train", "val"):
        (tmp_path / folder).rename(tmp_path / f"no_{folder}")
    with pytest.raises(BadInput, match=r"none of the 2 videos of .*train\.csv is there, e\.g\. train/yoga/AAA_"):
        ClipFiles(root=str(tmp_path), form="kinetics").open()


def test_numbers_of_a_list_stand_behind_blanks_or_commas(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x/a, b.mp4,1\nx/c 2.mp4\t0\na folder, 12, 0\nf,3.mp4 1\n")
    clips = from_lists({"train": tmp_path / "a.csv"}, None).parts["train"]
    expected = [("x/a, b.mp4", None, 1), ("x/c 2.mp4", None, 0), ("a folder", 12, 0), ("f,3.mp4", None, 1)]
    assert [(clip.path, clip.num_frames, clip.label) for clip in clips] == expected


def _lists(root: Path, shades: dict[str, list[list[int]]]) -> ClipFiles:
    """Folders of grey frames of size 8, named after their part; of each part the labels are 0, 1, 0, ..."""
    lists = {}
    for part, clips in shades.items():
        lines = []
        for number, clip in enumerate(clips):
            (root / f"{part}{number}").mkdir()
            for moment, shade in enumerate(clip, 1):
                Image.new("L", (8, 8), shade).save(root / f"{part}{number}" / f"img_{moment:05}.png")
            lines.append(f"{part}{number} {len(clip)} {number % 2}")
        (root / f"{part}.txt").write_text("\n".join(lines))
        lists[f"{part}_list"] = str(root / f"{part}.txt")
    return ClipFiles(root=str(root), template="img_{:05}.png", frames=3, **lists)  # type: ignore[arg-type]


def test_copies_are_of_whole_clips_and_short_ones_are_named(tmp_path: Path) -> None:
    """Clips that meet in their middle frame are no copies; three frames of uniform segments want four in the file."""
    ramp = [10, 20, 30, 40, 50]
    shades = {
        "train": [ramp, ramp[::-1], [1, 2], [3, 4, 5, 6]],
        "val": [[60, 61, 62, 63], [64, 65, 66, 67]],
        "test": [[11, *ramp[1:-1], 51], [1, 2, 3, 5], ramp],
    }
    found = verify(_lists(tmp_path, shades).open())
    assert found.problems == []
    assert found.doubts == [f"1 picture of test is also in train: {tmp_path}/train0 = {tmp_path}/test2"]
    short = "train: 1 clip shows a frame twice, since the file is too short for 3 frames"
    assert found.warnings == [f"{short}: {tmp_path}/train2"]


def test_a_corrupt_frame_that_sampling_leaves_out_is_named(tmp_path: Path) -> None:
    shades = {"train": [[1, 2, 3, 4], [5, 6, 7, 8]], "val": [[9] * 4, [10] * 4], "test": [[11] * 4, [12] * 4]}
    source = _lists(tmp_path, shades).open()
    train = source.whole_splits[0]
    spoilt = tmp_path / "train1" / "img_00004.png"
    # uniform segments of four frames begin at 0, 1 and 2
    assert all(np.asarray(frame).mean() < 8 for frame in source.split(train).read_clip(1))
    spoilt.write_bytes(spoilt.read_bytes()[:40])
    found = verify(source)
    assert len(found.problems) == 1 and found.problems[0].startswith(f"{train}: {spoilt}: the image cannot be decoded")


def test_drawn_clips_hold_no_copies() -> None:
    found = verify(MovingShapes(frames=5, size=16).open())
    assert (found.problems, found.doubts, found.warnings) == ([], [], [])


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "mpeg4"), ("a.mkv", "mpeg4")])
def test_videos_that_break_off_are_named(tmp_path: Path, name: str, codec: str) -> None:
    """Containers that can be read up to where a copy stopped: of half the bytes less than half the frames are left."""
    av = pytest.importorskip("av")
    path, random = tmp_path / name, np.random.RandomState(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(40):
            picture = random.randint(0, 255, (64, 64, 3)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    assert len(decode.video_frames(path, lambda n: list(range(n)))) == 40
    whole = path.read_bytes()
    path.write_bytes(whole[: int(0.45 * len(whole))])
    with pytest.raises(BadInput, match=rf"{name}: the video is cut short, its header promises (4\.0|40) "):
        decode.video_frames(path, lambda n: [0])
