"""The processed VTAB-1k folder: what is accepted, what is named, and the one clear line for everything wrong."""

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from peftbench.data.base import GROUPS, SPLITS
from peftbench.data.pixels.cache import load_split
from peftbench.data.pixels.transform import ImageTransform
from peftbench.data.vtab.folder import VtabFolder, label_fingerprint
from peftbench.data.vtab.tasks import ORIGINALS_OF_VTAB, VTAB_TASKS
from peftbench.foundation.errors import BadInput, ConfigError, MissingInput
from tests.own_images import swap_bytes


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A root with the task kitti (4 classes), complete and official by its counts: 711 test images."""
    root = tmp_path_factory.mktemp("vtab")
    folder = root / "kitti"
    random = np.random.RandomState(0)
    for split, kind, count in (("train800", "train", 800), ("val200", "val", 200), ("test", "test", 711)):
        (folder / "images" / kind).mkdir(parents=True)
        lines = []
        for index in range(count):
            path = folder / "images" / kind / f"{index:06d}.jpg"
            Image.fromarray(random.randint(0, 256, (4, 6, 3), dtype=np.uint8)).save(path)
            lines.append(f"images/{kind}/{index:06d}.jpg {index % 4}\n")
        (folder / f"{split}.txt").write_text("".join(lines))
    union = (folder / "train800.txt").read_text() + (folder / "val200.txt").read_text()
    (folder / "train800val200.txt").write_text(union)
    return root


@pytest.fixture
def root(original, tmp_path) -> Path:
    """A private copy: lists copied, images linked within the disk."""
    shutil.copytree(
        original,
        tmp_path / "root",
        copy_function=lambda a, b: shutil.copy(a, b) if a.endswith(".txt") else os.link(a, b),
    )
    return tmp_path / "root"


def kitti(root: Path) -> VtabFolder:
    return VtabFolder(task="kitti", root=str(root))


def edit(root: Path, split: str, line: int, text: str | None) -> None:
    """Replace (or with None remove) one line, counted from 1."""
    path = root / "kitti" / f"{split}.txt"
    lines = path.read_text().split("\n")
    lines[line - 1 : line] = [] if text is None else [text]
    path.write_text("\n".join(lines))


def test_a_complete_folder(root):
    spec = kitti(root)
    source = spec.open()
    assert (spec.label, spec.group, source.num_classes) == ("vtab/kitti", "structured", 4)
    assert (source.membership, source.pixels, source.test) == (
        "vtab1k-official:folder",
        "jpeg75-folder",
        "official:711",
    )
    assert source.notes == ()
    assert source.class_names == ("0", "1", "2", "3")
    assert [len(source.split(name)) for name in SPLITS] == [800, 200, 1000, 711]
    with Image.open(root / "kitti/images/val/000007.jpg") as expected:
        assert np.array_equal(np.asarray(source.split("val200").read(7)), np.asarray(expected))
    assert source.split("val200").labels[7] == 3
    assert source.split("train800val200").labels.tolist() == [i % 4 for i in (*range(800), *range(200))]


def test_the_location_is_no_part_of_identity_or_revision(root, tmp_path):
    elsewhere = shutil.copytree(root, tmp_path / "elsewhere")
    first, second = kitti(root), kitti(elsewhere)
    assert first.identity() == second.identity() == {"task": "kitti"}
    assert first.revision() == second.revision()


def test_revision_changes_with_a_label_a_name_or_a_byte(root):
    seen = {kitti(root).revision()}
    edit(root, "test", 1, "images/test/000000.jpg 3")
    seen.add(kitti(root).revision())
    (root / "kitti/images/test/000001.jpg").rename(root / "kitti/images/test/one.jpg")
    edit(root, "test", 2, "images/test/one.jpg 1")
    seen.add(kitti(root).revision())
    path = root / "kitti/images/train/000005.jpg"
    swap_bytes(path)
    seen.add(kitti(root).revision())
    assert len(seen) == 4


def test_windows_line_ends_byte_order_mark_and_blank_end_change_nothing(root):
    before = kitti(root).revision()
    for path in (root / "kitti").glob("*.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    assert kitti(root).revision() == before
    assert kitti(root).open().split("val200").labels.tolist() == [i % 4 for i in range(200)]


@pytest.mark.parametrize("name", ["two words.jpg", "größe 東京.jpg", "x 3", "-1.jpg", "a\u2028b.jpg"])
def test_names_with_spaces_and_unicode_are_split_at_the_last_space(root, name):
    folder = root / "kitti/images"
    (folder / "my dir").mkdir()
    (folder / "val/000009.jpg").rename(folder / "my dir" / name)
    for split, line in (("val200", 10), ("train800val200", 810)):
        edit(root, split, line, f"images/my dir/{name} 2")
    split = kitti(root).open().split("val200")
    assert split.labels[9] == 2
    assert split.read(9).size == (6, 4)


def test_a_missing_union_list_is_made_from_its_parts(root):
    (root / "kitti/train800val200.txt").unlink()
    spec = kitti(root)
    union = spec.open().split("train800val200")
    assert len(union) == 1000
    assert union.labels[800:].tolist() == [i % 4 for i in range(200)]
    assert sum(path.suffix == ".txt" for path in spec.inputs()) == 3


def test_a_shortened_test_list_is_named_a_subset(root):
    edit(root, "test", 711, None)
    source = kitti(root).open()
    assert (source.membership, source.test) == ("vtab1k-style:folder", "subset:710:folder")
    [note] = source.notes
    assert "710 test images" in note
    assert "711" in note


def test_a_union_with_other_labels_is_noted(root):
    edit(root, "train800val200", 1, "images/train/000000.jpg 1")
    assert any("not the union" in note for note in kitti(root).open().notes)


def test_class_names_come_from_classes_txt(root):
    (root / "kitti/classes.txt").write_text("near\r\nmid way\r\nfar\r\nnone\r\n", newline="")
    assert kitti(root).open().class_names == ("near", "mid way", "far", "none")
    (root / "kitti/classes.txt").write_text("near\nfar\n")
    with pytest.raises(BadInput, match=r"classes\.txt: 2 names, the task has 4 classes"):
        kitti(root).open()


@pytest.mark.parametrize(
    ("split", "line", "text", "message"),
    [
        ("test", 3, "images/test/000002.jpg 4", r"test\.txt: line 3: the label must be 0 to 3, got 4"),
        ("test", 3, "images/test/000002.jpg -1", r"line 3: the label must be 0 to 3, got -1"),
        ("test", 3, "images/test/000002.jpg cat", r"line 3: the label must be an integer, got 'cat'"),
        ("test", 3, "images/test/000002.jpg 1.0", r"line 3: the label must be an integer, got '1\.0'"),
        ("test", 3, "images/test/000002.jpg 1_0", r"line 3: the label must be an integer"),
        ("test", 3, "images/test/000002.jpg", r"line 3: expected '<path> <label>'"),
        ("test", 3, "", r"line 3: expected '<path> <label>'"),
        ("test", 3, "/etc/passwd 1", r"line 3: the path must be relative"),
        ("test", 3, "C:\\x.jpg 1", r"line 3: the path must be relative"),
        ("test", 3, "images/../../x.jpg 1", r"line 3: the path must stay inside"),
        ("test", 3, "images/test/000000.jpg 1", r"line 3: 'images/test/000000\.jpg' is already on line 1"),
        ("test", 3, "images/test/gone.jpg 1", r"1 of 1711 listed images are missing: images/test/gone\.jpg"),
        ("train800", 800, None, r"train800\.txt: 799 images listed, expected 800"),
        ("val200", 1, None, r"val200\.txt: 199 images listed, expected 200"),
        ("train800val200", 9, None, r"train800val200\.txt: 999 images listed, expected 1000"),
        ("test", 3, "images/train/000000.jpg 1", r"listed in both train800\.txt and test\.txt"),
    ],
)
def test_a_bad_line_is_named(root, split, line, text, message):
    edit(root, split, line, text)
    with pytest.raises(BadInput, match=message) as caught:
        kitti(root).open()
    assert "\n" not in str(caught.value)


def test_only_the_first_three_bad_lines_are_shown(root):
    path = root / "kitti/test.txt"
    path.write_text(path.read_text().replace(".jpg 3", ".jpg 9"))
    with pytest.raises(BadInput, match=r"line 4: .*line 8: .*line 12: .*and 174 more lines"):
        kitti(root).open()


@pytest.mark.parametrize("name", ["train800", "val200", "test"])
def test_a_missing_list_is_named(root, name):
    (root / f"kitti/{name}.txt").unlink()
    with pytest.raises(MissingInput, match=rf"lacks {name}\.txt"):
        kitti(root).revision()


def test_lists_without_their_images_ask_for_the_folder_again_and_for_no_other_place(root):
    next(root.glob("*/images")).rename(root / "elsewhere")
    with pytest.raises(
        MissingInput, match=r"none of the 1,711 listed images is there, first .*; copy the task folder again"
    ):
        kitti(root).revision()


def test_an_empty_image_and_a_truncated_one(root):
    images = root / "kitti/images"
    whole = (images / "test/000003.jpg").read_bytes()
    (images / "test/000003.jpg").unlink()
    (images / "test/000003.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"images/test/000003\.jpg: the image cannot be decoded"):
        load_split(kitti(root).open(), "test", ImageTransform(4), root / "c")
    (images / "test/000003.jpg").write_bytes(b"")
    with pytest.raises(BadInput, match=r"are empty \(0 bytes\): images/test/000003\.jpg"):
        kitti(root).open()


def test_binary_lists_are_refused(root):
    (root / "kitti/test.txt").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(BadInput, match=r"test\.txt: not UTF-8 text"):
        kitti(root).open()


def test_links_out_of_the_folder_are_refused_and_links_within_are_not(root, tmp_path):
    image = root / "kitti/images/test/000000.jpg"
    image.unlink()
    image.symlink_to("000001.jpg")
    kitti(root).open()
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"x")
    image.unlink()
    image.symlink_to(secret)
    with pytest.raises(BadInput, match="links outside the dataset's folder"):
        kitti(root).open()
    image.unlink()
    shutil.move(root / "kitti/images/test", tmp_path / "moved")
    (root / "kitti/images/test").symlink_to(tmp_path / "moved")
    with pytest.raises(BadInput, match="links outside the dataset's folder"):
        kitti(root).open()


def test_a_linked_root_and_task_folder_are_fine(root, tmp_path):
    (tmp_path / "link").symlink_to(root)
    assert kitti(tmp_path / "link").revision() == kitti(root).revision()


def test_alias_folders(root):
    (root / "kitti").rename(root / "kitti_dist")
    assert kitti(root).open().test == "official:711"
    shutil.copytree(root / "kitti_dist", root / "kitti")
    with pytest.raises(BadInput, match=r"more than one folder .*kitti, .*kitti_dist"):
        kitti(root).open()


def test_missing_root_and_missing_task_say_what_to_do(root, tmp_path):
    with pytest.raises(MissingInput) as caught:
        kitti(tmp_path / "no where").revision()
    message = str(caught.value)
    for part in (
        str(tmp_path / "no where"),
        "kitti, kitti_dist",
        "no such folder",
        "dataset.root",
        "hf download XiN0919/VTAB-1k",
        "dataset=digits",
    ):
        assert part in message
    with pytest.raises(MissingInput, match=r"looked for svhn, it holds kitti\n"):
        VtabFolder(task="svhn", root=str(root)).open()
    with pytest.raises(MissingInput, match="looks like a task folder itself"):
        kitti(root / "kitti").open()


@pytest.mark.parametrize(
    ("spelling", "task"),
    [("pets", "oxford_iiit_pet"), ("pcam", "patch_camelyon"), ("cifar", "cifar100"), ("dtd", "dtd")],
)
def test_spellings_are_kept_as_the_id(spelling, task):
    assert VtabFolder(task=spelling).identity() == {"task": task}


def test_an_unknown_task_gets_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'caltech101'"):
        VtabFolder(task="caltech10")


def test_no_name_means_two_tasks():
    names = [name for facts in VTAB_TASKS.values() for name in (*facts.folders, *facts.spellings)]
    assert len(names) == len(set(names))


def test_published_totals():
    # 387,904 test images over the 19 tasks; groups of 7, 4 and 8.
    assert sum(facts.num_test[0] for facts in VTAB_TASKS.values()) == 387_904
    groups = [facts.group for facts in VTAB_TASKS.values()]
    assert [groups.count(group) for group in GROUPS[:3]] == [7, 4, 8]


def test_every_task_says_where_its_images_come_from_and_under_which_terms():
    assert set(ORIGINALS_OF_VTAB) == set(VTAB_TASKS)
    assert all(original.licence and original.notes for original in ORIGINALS_OF_VTAB.values())
    assert {facts.metric for facts in VTAB_TASKS.values()} == {"accuracy"}


@pytest.mark.shared
def test_the_table_agrees_with_the_spec(shared):
    with (shared / "spec" / "vtab_counts.csv").open(newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(VTAB_TASKS)
    for task, facts in VTAB_TASKS.items():
        row = rows[task]
        expected = (row["group"], int(row["classes"]), int(row["test"]), row["vtab_folder_name"])
        assert (facts.group, facts.num_classes, facts.num_test[0], facts.folders[0]) == expected


def test_label_fingerprint_is_order_free_and_matches_a_published_one():
    # dsprites_loc train800: counts of bins 0 to 15 as published, and their fingerprint.
    counts = [54, 42, 45, 45, 48, 54, 49, 48, 62, 51, 50, 60, 50, 47, 53, 42]
    labels = np.repeat(np.arange(16), counts)
    assert label_fingerprint(labels) == label_fingerprint(labels[::-1]) == "7d4341610ae1e7a6"
    assert dict(VTAB_TASKS["dsprites_loc"].histograms)["train800"] == "7d4341610ae1e7a6"


@pytest.mark.shared
def test_the_real_caltech101_folder(shared):
    spec = VtabFolder(task="caltech101", root=str(shared / "data" / "vtab-1k"))
    source = spec.open()
    assert (source.membership, source.test) == ("vtab1k-style:folder", "subset:1500:folder")
    assert source.num_classes == 102
    assert source.class_names[0] == "BACKGROUND_Google"
    assert "6,084" in source.notes[0]
    split = source.split("val200")
    assert len(split) == 200
    assert split.labels[:3].tolist() == [13, 69, 39]
    assert {split.read(index).mode for index in range(20)} <= {"RGB", "L"}
    assert spec.revision() == spec.revision()
