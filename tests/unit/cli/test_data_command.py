"""The data command: what it lists, what it finds wrong, what it draws, and how it answers wrong words."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from peftbench.cli.commands import data as data_command
from peftbench.data.base import Source
from peftbench.data.contact_sheet import _said, contact_sheet, map_sheet, text_sheet
from peftbench.data.pixels.entry import listed
from peftbench.data.sources.digits import Digits
from peftbench.data.splits import ArraySplit, FileSplit
from peftbench.data.texted import TextedSplit
from peftbench.data.verify import verify
from peftbench.foundation import digests
from peftbench.foundation.errors import BadInput, ConfigError, MissingInput
from tests.closed_folders import close_folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))


class Made(Source):
    """A source from ready splits."""

    def __init__(self, splits, class_names=("a", "b")):
        super().__init__(tuple(class_names), "embedded", "original", "embedded:1", ())
        object.__setattr__(self, "made", splits)

    def split(self, name):
        return self.made[name]


def flat(levels, labels) -> ArraySplit:
    return ArraySplit(np.array(levels, np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8), np.array(labels))


def good() -> dict:
    return {
        "train800": flat([0, 1, 2], [0, 1, 0]),
        "val200": flat([3], [1]),
        "train800val200": flat([0, 1, 2, 3], [0, 1, 0, 1]),
        "test": flat([10, 11], [0, 1]),
    }


def test_sound_data_has_no_findings():
    found = verify(Made(good()))
    assert (found.problems, found.warnings) == ([], [])
    assert found.facts[0].startswith("train800: 3 images, 2 of 2 classes")


def test_every_undecodable_file_is_named_and_all_at_once(tmp_path):
    paths = []
    for i in range(6):
        paths.append(tmp_path / f"{i}.png")
        Image.new("RGB", (4, 4), (i, 0, 0)).save(paths[-1])
    paths[1].write_bytes(paths[1].read_bytes()[:40])
    paths[3].write_bytes(b"")
    paths[4].unlink()
    splits = good() | {"test": FileSplit(paths, np.arange(6) % 2)}
    problems = verify(Made(splits)).problems
    assert len(problems) == 3
    for name in ("1.png", "3.png", "4.png"):
        assert sum(name in problem for problem in problems) == 1


def test_labels_unions_and_empty_splits_are_checked():
    splits = good() | {"test": flat([10, 11, 12], [0, 2, -1]), "train800val200": flat([0, 1, 2, 3], [0, 1, 0, 0])}
    problems = verify(Made(splits)).problems
    assert any("test: 2 labels outside 0 to 1: image 1 has 2, image 2 has -1" in problem for problem in problems)
    assert any("train800val200 does not hold exactly" in problem for problem in problems)
    splits = good() | {"test": ArraySplit(np.zeros((0, 4, 4), np.uint8), np.zeros(0, np.int64))}
    assert "test: no images" in verify(Made(splits)).problems


def test_copies_between_and_within_splits_are_told_apart():
    splits = good() | {"test": flat([10, 1, 10], [0, 1, 0])}
    found = verify(Made(splits))
    assert found.doubts == ["1 picture of test is also in train800: image 1 = image 1"]
    assert found.warnings == ["1 picture stands twice in test: image 0 = image 2"]


def test_a_picture_under_two_labels_is_named_with_both():
    splits = good() | {"test": flat([10, 1, 10], [0, 0, 1])}
    found = verify(Made(splits))
    assert found.doubts[1:] == [
        "2 pictures stand under two labels: image 1 = image 1 (b and a), image 0 = image 2 (a and b)"
    ]


def test_strict_makes_doubts_about_own_photos_an_error(tmp_path, capsys):
    root = tmp_path / "photos"  # the cache is beside it: a folder within it would be a part of the data
    for part, label, level in (("train", "a", 1), ("train", "b", 2), ("test", "a", 3), ("test", "b", 1)):
        (root / part / label).mkdir(parents=True)
        Image.new("RGB", (8, 8), (level, 0, 0)).save(root / part / label / "photo.png")
    words = ["verify", "folder", f"dataset.root={root}", "runtime.progress=false"]
    assert data_command.main(words) == 0
    said = capsys.readouterr().out
    assert "warning: 1 picture of test is also in" in said and "0 problems" in said
    assert data_command.main([*words, "--strict"]) == 1
    said = capsys.readouterr().out
    assert "problem: 1 picture of test is also in" in said and "(a and b)" in said and "2 problems" in said


def test_classes_that_only_test_knows_are_warned_about():
    splits = good() | {"test": flat([10], [2])}
    warnings = verify(Made(splits, ("a", "b", "c"))).warnings
    assert "1 classes are in test and not in train800val200: c" in warnings
    assert "2 classes have no test image: a, b" in warnings


def test_the_sheet_shows_every_class_in_its_row():
    colours = np.array([[90, 0, 0], [0, 200, 0]], np.uint8)  # no grey, which the edges of letters have
    images = colours[[0, 1, 0, 1]][:, None, None] * np.ones((1, 4, 4, 1), np.uint8)
    split = ArraySplit(images, np.array([0, 1, 0, 1]))
    sheet = np.asarray(contact_sheet(split, ("dark", "light"), per_class=2, tile=16))
    tiles = {label: (sheet == colours[label]).all(-1) for label in (0, 1)}
    rows = {label: np.flatnonzero(mask.any(1)) for label, mask in tiles.items()}
    assert [int(mask.sum()) for mask in tiles.values()] == [2 * 16 * 16] * 2
    assert rows[0].max() < rows[1].min()


def test_many_classes_stand_in_columns():
    sheet = contact_sheet(flat([1], [0]), tuple(map(str, range(30))), per_class=2, tile=16)
    assert sheet.height < 12 * 42 < 30 * 40


def test_a_small_folder_is_looked_at_whatever_its_division(tmp_path, capsys):
    photos = tmp_path / "photos"
    for label in ("a", "b"):
        (photos / label).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (8, 8), (number, ord(label), 0)).save(photos / label / f"{number}.png")
    (photos / "b" / "copy.png").write_bytes((photos / "a" / "3.png").read_bytes())
    words = ["folder", f"dataset.root={photos}", "runtime.progress=false"]
    assert data_command.main(["verify", *words, "--strict"]) == 1
    said = capsys.readouterr().out
    assert "1 picture stands under two labels" in said
    assert "a run needs dataset.num_train=12 dataset.num_val=4 protocol=full" in said
    assert data_command.main(["show", *words, "--out", str(tmp_path / "sheet.png")]) == 0
    with pytest.raises(BadInput, match="cannot be divided into 19"):
        data_command.main(["verify", *words, "dataset.num_train=19"])


def test_list_shows_state_and_size_of_every_dataset(tmp_path, capsys):
    assert data_command.main(["list", f"dataset.root={tmp_path}"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert " ready " in lines["digits"]
    assert (
        " missing " in lines["vtab/dtd"] and "625 MB to get" in lines["vtab/dtd"] and str(tmp_path) in lines["vtab/dtd"]
    )
    assert "169 MB to get" in lines["cifar100"]
    with pytest.raises(ConfigError, match=r"unknown option dataset\.rot; did you mean 'root'"):
        data_command.main(["list", "dataset.rot=x"])


def test_a_folder_that_may_not_be_read_is_not_listed_as_smaller(tmp_path, capsys, monkeypatch):
    for part, name in itertools.product(("train", "test"), ("cat", "dog")):
        (tmp_path / part / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / part / name / "0.png")
    monkeypatch.setattr(Digits, "places", lambda spec: [tmp_path])
    shown = []
    for closed in (None, tmp_path / "test/dog"):
        if closed:
            close_folder(monkeypatch, closed)
        assert data_command.main(["list"]) == 0
        shown += [line for line in capsys.readouterr().out.splitlines() if line.startswith("digits ")]
    assert " ready " in shown[0] and " damaged " in shown[1] and str(closed) in shown[1]


def test_list_fits_the_columns_there_are_and_loses_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert data_command.main(["list", f"dataset.root={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    first = next(number for number, line in enumerate(lines) if line.startswith("vtab/dtd "))
    assert " missing (625 MB) " in lines[first]
    own = [lines[first], *itertools.takewhile(lambda line: line.startswith(" "), lines[first + 1 :])]
    where = lines[0].index("where")
    assert str(tmp_path) in "".join(line[where:].rstrip() for line in own)


def test_prepare_fills_the_cache_that_a_run_reads(tmp_path, capsys):
    assert data_command.main(["prepare", "digits", "runtime.progress=false"]) == 0
    out = capsys.readouterr().out
    assert "train800val200: 1,000 images, 1.0 MB, squash-32-bicubic-antialias" in out
    entries = listed(tmp_path / "cache" / "images")
    assert sorted(entry.about["split"] for entry in entries) == ["test", "train800", "train800val200", "val200"]
    assert data_command.main(["cache"]) == 0
    assert "4 entries, 2.9 MB" in capsys.readouterr().out


def test_verify_and_show_of_a_real_dataset(tmp_path, capsys):
    assert data_command.main(["verify", "digits", "runtime.progress=false"]) == 0
    assert "0 problems, 0 warnings" in capsys.readouterr().out
    path = tmp_path / "sheet.png"
    assert data_command.main(["show", "dataset=digits", "--out", str(path), "--per-class", "3"]) == 0
    with Image.open(path) as sheet:
        assert sheet.width > 3 * 64


def test_a_sheet_makes_the_folders_that_it_goes_into(tmp_path, capsys):
    path = tmp_path / "new" / "deeper" / "sheet.png"
    assert data_command.main(["show", "digits", "--out", str(path), "--per-class", "1"]) == 0
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"file/x\.png cannot be written .*; name another file with --out"):
        data_command.main(["show", "digits", "--out", str(tmp_path / "file" / "x.png"), "--per-class", "1"])


def test_a_sheet_takes_the_place_of_an_own_one_and_of_no_picture(tmp_path, capsys):
    words, sheet = ["show", "digits", "--per-class", "1", "--out"], tmp_path / "sheet.png"
    for _ in range(2):
        assert data_command.main([*words, str(sheet)]) == 0
    photo = class_folders(tmp_path / "set") / "train" / "cat" / "0.png"
    before = photo.read_bytes()
    with pytest.raises(ConfigError, match=r"0\.png would be written over, and what is there is no sheet"):
        data_command.main([*words, str(photo)])
    shutil.copy(sheet, photo)
    own = ["show", "folder", f"dataset.root={tmp_path / 'set'}", "--out"]
    for name in ("0.png", "new.png", "../../new.png"):
        with pytest.raises(ConfigError, match=r"lies in .*set, among the data that is read; name another file"):
            data_command.main([*own, str(photo.parent / name)])
    assert photo.read_bytes() == sheet.read_bytes() != before and len(list((tmp_path / "set").rglob("*.png"))) == 12


def test_a_sheet_may_lie_beside_the_images_of_a_list(tmp_path, capsys):
    folder = class_folders(tmp_path / "set")
    names = sorted(path.relative_to(folder) for path in folder.rglob("*.png"))
    (folder / "l.csv").write_text("path,label\n" + "".join(f"{name},{name.parent.name}\n" for name in names))
    words = [f"dataset.path={folder / 'l.csv'}", f"dataset.root={folder}", "dataset.num_train=6", "dataset.num_val=2"]
    own = ["show", "csv", *words, "protocol=full", "--out"]
    for _ in range(2):
        assert data_command.main([*own, str(folder / "sheet.png")]) == 0
    with pytest.raises(ConfigError, match=r"png is what this command reads and would be written over"):
        data_command.main([*own, str(folder / names[0])])


def test_verify_of_a_broken_folder_exits_with_1(tmp_path, capsys):
    folder = tmp_path / "kitti"
    for split, start, num in (("train800", 0, 800), ("val200", 800, 200), ("test", 1000, 3)):
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / f"{split}.txt").write_text("".join(f"images/{i}.png {i % 4}\n" for i in range(start, start + num)))
    for i in range(1_003):
        (folder / f"images/{i}.png").write_bytes(b"nonsense" if i in (5, 1001) else PNG[i % 256])
    words = ["verify", "vtab/kitti", f"dataset.root={tmp_path}", "runtime.progress=false"]
    assert data_command.main(words) == 1
    out = capsys.readouterr().out
    assert "train800: " in out
    assert "images/5.png" in out
    assert "images/1001.png" in out
    assert "2 problems" in out, "train800val200 holds the broken image too, which is named once"


def _png(level: int) -> bytes:
    import io

    buffer = io.BytesIO()
    Image.new("L", (2, 2), level).save(buffer, "PNG")
    return buffer.getvalue()


PNG = [_png(level) for level in range(256)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lst"], "did you mean 'list'"),
        (["show", "digit"], "did you mean 'digits'"),
        (["verify", "digits", "dataset.sed=1"], "did you mean 'seed'"),
        (["show", "digits", "--per-class", "0"], "at least 1"),
        (["show", "folder", "dataset.root=nowhere", "--out", "x.xyz"], r"ends in \.png, got x\.xyz"),
        (["cache", "--unused-days", "3"], "--prune"),
    ],
)
def test_wrong_words_are_answered_with_the_nearest_right_ones(words, message):
    with pytest.raises(ConfigError, match=message):
        data_command.main(words)


def test_missing_data_is_one_message(tmp_path):
    with pytest.raises(MissingInput, match=r"vtab/dtd.*dataset\.root") as caught:
        data_command.main(["verify", "vtab/dtd", f"dataset.root={tmp_path}"])
    missing, *advice = str(caught.value).splitlines()
    assert missing.startswith("vtab/dtd: no task folder")
    assert len(advice) == len(set(advice)) == 3, "what is missing on one line, then each advice once"


@pytest.mark.slow
@pytest.mark.shared
def test_real_caltech_has_no_problems(shared: Path, capsys):
    words = ["verify", "vtab/caltech101", f"dataset.root={shared}/data/vtab-1k", "runtime.progress=false"]
    assert data_command.main(words) == 0
    assert "test: 1,500 images, 102 of 102 classes" in capsys.readouterr().out


def test_deep_verification_names_files_whose_times_hide_a_change(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(digests, "RESOLUTION_NS", -(10**12))
    for part in ("train", "test"):
        for level, name in enumerate(("cat", "dog")):
            path = tmp_path / "set" / part / name / "0.png"
            path.parent.mkdir(parents=True)
            Image.new("L", (2, 2), level + 10 * (part == "test")).save(path)
    words = ["verify", "folder", f"dataset.root={tmp_path / 'set'}", "--deep"]
    assert data_command.main(words) == 0
    changed = tmp_path / "set" / "test" / "dog" / "0.png"
    folder_table = digests._table_of(str(changed.parent))
    digests._write_table(folder_table, {digests.file_state(changed): bytes(32)})
    assert data_command.main(words) == 1
    assert f"problem: {changed}: its bytes changed and its times do not show it" in capsys.readouterr().out
    assert data_command.main(words) == 0


def class_folders(root: Path) -> Path:
    """Two classes of three pictures in train/ and test/, all different."""
    for number, (part, name, file) in enumerate(itertools.product(("train", "test"), ("cat", "dog"), "012")):
        path = root / part / name / f"{file}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), number).save(path)
    return root


@pytest.mark.parametrize("deep", [[], ["--deep"]])
def test_all_that_is_wrong_with_class_folders_is_named_in_one_go(tmp_path, capsys, deep):
    root = class_folders(tmp_path / "set")
    (root / "train" / "cat" / "0.png").write_bytes(b"")
    (root / "test" / "dog" / "1.png").write_text("no image")
    (root / "test" / "dog" / "1.gif").symlink_to(tmp_path / "nowhere")
    Image.new("L", (2, 2), 99).save(root / "train" / "stray.png")
    Image.new("L", (2, 2), 98).save(root / "stray.jpg")
    (root / "train" / "empty").mkdir()
    (root / "train" / "dog" / "odd.png").mkdir()
    (root / "train" / "dog" / "linked").symlink_to(tmp_path)
    assert data_command.main(["verify", "folder", f"dataset.root={root}", *deep]) == 1
    problems = [line for line in capsys.readouterr().out.splitlines() if "problem: " in line]
    for named in ("cat/0.png", "dog/1.png", "dog/1.gif", "stray.png", "stray.jpg", "empty", "odd.png", "dog/linked"):
        assert len([line for line in problems if named in line]) >= 1, named
    # the links also lead outside, which is said of each; what bytes there are says --deep, in which one line more fails
    assert len(problems) == len(set(problems)) <= 8 + 2 + len(deep)


def test_obstacles_are_named_also_where_nothing_can_be_opened(tmp_path):
    root = class_folders(tmp_path / "set")
    Image.new("L", (2, 2), 99).save(root / "train" / "stray.png")
    for number in range(3):
        (root / "train" / "dog" / f"{number}.png").unlink()
        (root / "test" / "dog" / f"{number}.png").unlink()
        (root / "train" / "cat" / f"{number}.png").unlink()
    with pytest.raises(BadInput) as caught:
        data_command.main(["verify", "folder", f"dataset.root={root}"])
    assert "stray.png" in str(caught.value) and str(caught.value).count("no images in this class folder") == 3


def test_a_run_still_ends_at_the_first_obstacle(tmp_path):
    root = class_folders(tmp_path / "set")
    Image.new("L", (2, 2), 99).save(root / "train" / "stray.png")
    with pytest.raises(BadInput, match=r"stray\.png"):
        data_command.main(["show", "folder", f"dataset.root={root}", "--out", str(tmp_path / "out.png")])


class Masks(ArraySplit):
    """Grey images with class maps of their own."""

    maps = ("class_map",)

    def __init__(self, levels, class_maps):
        super().__init__(
            np.array(levels, np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8), np.zeros(len(levels), np.int64)
        )
        self.class_maps = class_maps

    def read_map(self, name, index):
        return np.asarray(self.class_maps[index], np.uint8)


def masks(*rows: list[int], size=(4, 4)) -> list[np.ndarray]:
    return [np.resize(np.array(row, np.uint8), size) for row in rows]


def with_masks() -> dict:
    maps = masks([0, 1], [1, 255], [0], [1, 0])
    return {
        "train800": Masks([0, 1, 2], maps[:3]),
        "val200": Masks([3], maps[3:]),
        "train800val200": Masks([0, 1, 2, 3], maps),
        "test": Masks([10, 11], masks([0, 1], [1])),
    }


def test_maps_are_verified_like_labels():
    found = verify(Made(with_masks()))
    assert (found.problems, found.warnings) == ([], [])
    assert found.facts[0].startswith("train800: 3 images with class_map, 2 of 2 classes")
    bad = [*masks([0, 1, 7]), *masks([0], size=(4, 5))]
    problems = verify(Made(with_masks() | {"test": Masks([10, 11], bad)})).problems
    assert problems == [
        "test: image 0: its class_map holds 7; it takes 0 to 1, and 255 where nothing is known",
        "test: image 1: its class_map has 5 x 4 pixels and the image 4 x 4",
    ]
    lonely = with_masks() | {"test": Masks([10], masks([0]))}
    assert "1 classes have no test image: b" in verify(Made(lonely)).warnings


def test_a_wrong_map_ends_a_run_in_its_line(tmp_path):
    from peftbench.data.pixels.cache import load_split
    from peftbench.data.pixels.transform import ImageTransform

    wrong = Made(with_masks() | {"test": Masks([10, 11], [*masks([0]), *masks([0, 3])])})
    with pytest.raises(BadInput, match="image 1: its class_map holds 3; it takes 0 to 1, and 255"):
        load_split(wrong, "test", ImageTransform(8), tmp_path)


def test_texts_stand_below_their_pictures(tmp_path, capsys):
    images = ArraySplit(np.full((2, 4, 4, 3), (200, 0, 0), np.uint8), np.zeros(2, np.int64))
    short = text_sheet(TextedSplit(images, [["a"], ["a"]]), ())
    long = text_sheet(TextedSplit(images, [["a word " * 40], ["a"]]), ())
    assert long.width == short.width and long.height > short.height + 3 * 16
    assert (np.asarray(short) == (200, 0, 0)).all(-1).sum() == 2 * 128 * 128
    answers = np.array([[1, 1, 0] + [-1] * 7, [-1] * 10], np.int32)
    asked = TextedSplit(images, [["what?"], ["who?"]], answers)
    assert _said(asked, 0, ["no", "yes"], 3) == ["what?", "= yes"]
    assert _said(asked, 1, ["no", "yes"], 3) == ["who?", "= an answer outside the list"]
    assert _said(TextedSplit(images, [list("abcde"), ["a"]]), 0, (), 3) == ["a", "b", "c", "and 2 more"]
    for name, said in (("captioned_shapes", "images and captions"), ("asked_shapes", "images and answers")):
        out = tmp_path / f"{name}.png"
        assert data_command.main(["show", name, "--out", str(out), "--per-class", "4"]) == 0
        assert said in capsys.readouterr().out and Image.open(out).height > 128 + 16


def test_images_with_maps_are_shown_beside_them(tmp_path):
    sheet = np.asarray(map_sheet(Masks([9, 7], masks([0, 1], [1, 255])), ("a", "b"), rows=2, tile=16))
    red = (sheet == (128, 0, 0)).all(-1)  # the second class in Pascal VOC's colours
    assert red[:, :60].sum() >= 2 * 8 * 16 - 16 and red.any()
    out = tmp_path / "scenes.png"
    assert data_command.main(["show", "scenes", "--out", str(out), "--per-class", "2"]) == 0
    shown = np.asarray(Image.open(out))
    assert shown.shape[1] > 6 * 96 and len(np.unique(shown.reshape(-1, 3), axis=0)) > 100
