"""One's own images: class folders and list files, divided by the user or by a stratified draw."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from peftbench.advise.look import dividing_words
from peftbench.data.sources.csv_files import CsvFiles
from peftbench.data.sources.folder import Folder
from peftbench.data.sources.image_lists import sizes_of_all
from peftbench.data.sources.obstacles import collecting
from peftbench.data.verify import verify
from peftbench.foundation.errors import BadInput, ConfigError, MissingInput
from tests.closed_folders import close_folder
from tests.own_images import swap_bytes


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))


def image(path: Path, colour: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (2, 2), colour).save(path)


def class_folders(root: Path, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        for index in range(count):
            image(root / name / f"{index:04d}.png", index % 256)


def divided(root: Path, val: bool = False) -> Path:
    for part, count in (("train", 6), ("test", 3), *([("val", 2)] if val else [])):
        class_folders(root / part, {"cat": count, "dog": count})
    return root


def folder(root: Path, **options: object) -> Folder:
    return Folder(root=str(root), **options)


def names_of(split) -> list[str]:
    return [f"{path.parent.name}/{path.name}" for path in split.paths]


# class folders


def test_a_divided_folder_is_used_as_it_is(tmp_path):
    spec = folder(divided(tmp_path / "pets", val=True))
    source = spec.open()
    assert (spec.label, spec.group) == ("pets", "other")
    assert source.class_names == ("cat", "dog")
    assert (source.membership_of("trainval"), source.test, source.notes) == ("full", "own:6", ())
    assert [len(source.split(name)) for name in ("train", "val", "trainval", "test")] == [12, 4, 16, 6]
    assert source.split("test").labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert names_of(source.split("test"))[2:4] == ["cat/0002.png", "dog/0000.png"]
    assert np.asarray(source.split("test").read(2))[0, 0] == 2


@pytest.mark.parametrize("names", [("Train", "Valid", "TEST"), ("training", "validation", "testing")])
def test_usual_names_of_parts_are_known(tmp_path, names):
    for name in names:
        class_folders(tmp_path / name, {"a": 2, "b": 2})
    assert [len(folder(tmp_path).open().split(part)) for part in ("train", "val", "test")] == [4, 4, 4]


def test_undivided_folders_are_divided_in_proportion_by_seed(tmp_path):
    class_folders(tmp_path / "mine", {"rare": 3, "common": 60, "usual": 37})
    options = {"num_train": 50, "num_val": 20}
    source = folder(tmp_path / "mine", **options).open()
    parts = {name: set(names_of(source.split(name))) for name in ("train", "val", "test")}
    assert [len(parts[name]) for name in parts] == [50, 20, 30]
    assert len(set.union(*parts.values())) == 100
    counts = Counter(name.split("/")[0] for name in parts["train"])
    assert abs(counts["common"] - 30) <= 1
    assert counts["rare"] in (1, 2)
    how = "stratified-seed0"
    assert (source.membership_of("train"), source.test) == (how, f"own:30:{how}")
    again, other = (folder(tmp_path / "mine", split_seed=seed, **options).open() for seed in (0, 1))
    assert set(names_of(again.split("train"))) == parts["train"] != set(names_of(other.split("train")))
    assert folder(tmp_path / "mine", split_seed=1).identity()["split_seed"] == 1


def test_the_default_division_is_800_200_and_the_rest(tmp_path):
    image(tmp_path / "first.png")
    for index in range(1_100):
        (tmp_path / "mine" / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        os.link(tmp_path / "first.png", tmp_path / "mine" / "ab"[index % 2] / f"{index}.png")
    source = folder(tmp_path / "mine").open()
    lengths = [len(source.split(name)) for name in ("train800", "val200", "train800val200", "test")]
    assert lengths == [800, 200, 1_000, 100]
    assert set(source.split("train800").paths) == set(source.split("train").paths)
    assert source.membership_of("train800val200") == "vtab1k-style:stratified-seed0"


def test_numbered_classes_are_in_numerical_order_and_others_in_that_of_letters(tmp_path):
    class_folders(tmp_path / "numbers", {"10": 1, "9": 1, "1": 1})
    class_folders(tmp_path / "names", {"b": 1, "a": 1, "B": 1})
    for root, order in (("numbers", ("1", "9", "10")), ("names", ("B", "a", "b"))):
        assert folder(tmp_path / root).listing().class_names == order


def test_images_may_lie_deeper_and_names_may_hold_spaces_and_any_letters(tmp_path):
    root = divided(tmp_path / "my pets")
    image(root / "train" / "cat" / "more of them" / "größe 東京.png")
    source = folder(root).open()
    assert len(source.split("trainval")) == 13
    assert "more of them/größe 東京.png" in names_of(source.split("trainval"))
    assert folder(root).label == "my pets"


def test_a_class_called_train_is_a_class(tmp_path):
    class_folders(tmp_path, {"bus": 2, "train": 2})
    assert folder(tmp_path).listing().class_names == ("bus", "train")


def test_the_place_is_no_part_of_identity_or_revision_but_names_and_bytes_are(tmp_path):
    here, there = folder(divided(tmp_path / "here")), folder(divided(tmp_path / "there"))
    assert here.identity() == there.identity()
    assert here.revision() == there.revision()
    seen = {here.revision()}
    (tmp_path / "here/train/cat/0000.png").rename(tmp_path / "here/train/cat/new.png")
    seen.add(here.revision())
    (tmp_path / "here/test/cat/0000.png").rename(tmp_path / "here/test/dog/new.png")
    seen.add(here.revision())
    swap_bytes(tmp_path / "here/train/dog/0000.png")
    seen.add(here.revision())
    assert len(seen) == 4
    assert {tmp_path / "here", tmp_path / "here/train/cat", tmp_path / "here/test"} <= set(here.inputs())


def test_hidden_files_and_litter_are_ignored_and_other_files_are_noted(tmp_path):
    root = divided(tmp_path / "pets")
    for name in (".DS_Store", "Thumbs.db"):
        (root / "train/cat" / name).write_text("x")
    (root / ".cache").mkdir()
    assert folder(root).open().notes == ()
    (root / "train/cat/notes.txt").write_text("x")
    [note] = folder(root).open().notes
    assert "1 file left out" in note
    assert "train/cat/notes.txt" in note


def test_a_missing_root_says_which_option_to_set(tmp_path):
    for spec in (Folder(), folder(tmp_path / "gone")):
        for ask in (spec.revision, spec.open):
            with pytest.raises(MissingInput, match=r"dataset\.root.*<root>/<class>/<image>"):
                ask()
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(MissingInput, match="it is a file"):
        folder(tmp_path / "a.txt").open()


def spoil(root: Path, how: str) -> None:
    if how == "empty class":
        (root / "train" / "cow").mkdir()
    elif how == "test class only":
        class_folders(root / "test", {"cow": 2})
    elif how == "no test":
        (root / "test").rename(root / "val")
    elif how == "two test parts":
        class_folders(root / "testing", {"cat": 1})
    elif how == "another folder":
        (root / "notes").mkdir()
    elif how == "part without classes":
        (root / "val").mkdir()
    elif how == "empty image":
        (root / "train/cat/0001.png").write_bytes(b"")
    elif how == "link out":
        (root / "train/cat/0001.png").unlink()
        (root / "train/cat/0001.png").symlink_to("/etc/hostname")
    elif how == "linked folder":
        (root / "train/cow").symlink_to(root / "train/cat")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("empty class", r"train/cow: no images in this class folder; add some or remove the folder"),
        ("test class only", r"1 of 3 classes have no training image, first 'cow'"),
        ("no test", r"train/, val/ and no test/; name the part that is to be reported test/"),
        ("two test parts", r"test/ and testing/ are both test parts"),
        ("another folder", r"beside test/, train/ there is notes/"),
        ("part without classes", r"val: no class folders"),
        ("empty image", r"1 of 18 listed images are empty \(0 bytes\): train/cat/0001\.png"),
        ("link out", r"0001\.png: links outside the dataset's folder, to /etc/hostname"),
        ("linked folder", r"train/cow: a link to a folder"),
    ],
)
def test_a_bad_folder_is_one_clear_line(tmp_path, how, message):
    root = divided(tmp_path / "pets")
    spoil(root, how)
    with pytest.raises(BadInput, match=message) as caught:
        folder(root).open()
    assert "\n" not in str(caught.value)


def test_folders_without_classes_or_with_loose_images(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no class folders"):
        folder(tmp_path / "empty").open()
    class_folders(tmp_path / "one", {"cat": 3})
    with pytest.raises(BadInput, match="only one class folder, 'cat'"):
        folder(tmp_path / "one").open()
    class_folders(tmp_path / "loose", {"cat": 3, "dog": 3})
    image(tmp_path / "loose" / "x.png")
    with pytest.raises(BadInput, match=r"1 images lie beside the class folders, first x\.png"):
        folder(tmp_path / "loose").open()


def test_too_few_images_to_divide_say_which_options_to_set(tmp_path):
    class_folders(tmp_path / "few", {"cat": 30, "dog": 30})
    with pytest.raises(BadInput, match=r"few: 60 images cannot .*num_train=38 dataset\.num_val=10 and .*fewshot"):
        folder(tmp_path / "few").open()
    assert dividing_words(folder(tmp_path / "few"), lambda option: False) == [
        "dataset.num_train=38",
        "dataset.num_val=10",
    ], "one rule for a run and for 'data verify'"
    with pytest.raises(BadInput, match=r"dataset\.num_train=1 is less than one image for each of the 2 classes"):
        folder(tmp_path / "few", num_train=1, num_val=1).open()


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"train": 6, "val": 2, "test": 3}, (4, 2, "put more into the val part")),
        ({"train": 6, "test": 3}, (1, 2, "name a val part in place of a tenth of the train part")),
        ({"train": 25, "test": 3}, (5, 2, "name a val part in place of a tenth of the train part")),
        ({"": 30}, (3, 2, "raise dataset.num_val")),
    ],
)
def test_how_many_images_validate_is_known_without_opening_them(tmp_path, counts, expected):
    for part, count in counts.items():
        class_folders(tmp_path / "pets" / part, {"cat": count, "dog": count})
    spec = folder(tmp_path / "pets", num_train=40, num_val=3)
    assert spec.validating() == expected
    assert len(spec.open().split("val")) == expected[0]


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    root = divided(tmp_path / "pets")
    close_folder(monkeypatch, root / "train" / "cat")
    with pytest.raises(BadInput, match="cat: permission denied; give yourself the right"):
        folder(root).open()


# list files


@pytest.fixture
def lists(tmp_path) -> Path:
    """A folder with twelve images and no list yet."""
    class_folders(tmp_path / "lists" / "my images", {"cat": 6, "dög": 6})
    return tmp_path / "lists"


def rows(*parts: str) -> list[tuple[str, str, str]]:
    """Path, label and part of all twelve images; the parts are dealt in turn."""
    listed = [(f"my images/{name}/{index:04d}.png", name) for index in range(6) for name in ("cat", "dög")]
    return [(path, label, parts[(number // 2) % len(parts)]) for number, (path, label) in enumerate(listed)]


def test_a_list_keeps_its_files_clear_and_a_folder_all_of_itself(lists):
    (lists / "beside.png").write_bytes(b"of others")
    spec = write(lists / "pets.csv", "path,label", [f"{path},{label}" for path, label, _ in rows("all")][:4])
    named = ["cat/0000.png", "cat/0001.png", "dög/0000.png", "dög/0001.png"]
    expected = {lists / "pets.csv", *(lists / "my images" / name for name in named)}
    assert set(spec.kept_clear()) == expected and len(spec.kept_clear()) == 5
    assert folder(lists / "my images").kept_clear() == [lists / "my images"]


def write(file: Path, header: str, lines: list[str], end: str = "\n") -> CsvFiles:
    file.write_text(end.join([*([header] if header else []), *lines]) + end, encoding="utf-8", newline="")
    return CsvFiles(path=str(file))


def test_one_list_with_a_split_column(lists):
    spec = write(lists / "all.csv", "filename,class,split", [",".join(row) for row in rows("train", "test", "val")])
    source = spec.open()
    assert spec.label == "all"
    assert source.class_names == ("cat", "dög")
    assert [len(source.split(name)) for name in ("train", "val", "test")] == [4, 4, 4]
    assert source.split("test").labels.tolist() == [0, 1, 0, 1]
    assert names_of(source.split("test"))[0] == "cat/0001.png"
    assert (source.membership_of("trainval"), source.test) == ("full", "own:4")
    assert np.asarray(source.split("test").read(0))[0, 0] == 1
    assert {lists / "all.csv", lists / "my images/cat", lists / "my images/cat/0001.png"} <= set(spec.inputs())
    before = spec.revision()
    swap_bytes(lists / "my images/cat/0001.png")
    assert spec.revision() != before


def test_a_list_for_each_part_and_labels_that_are_numbers(lists):
    for name, part in (("a.csv", "train"), ("b.csv", "test")):
        chosen = [row for row in rows("train", "test") if row[2] == part]
        write(lists / name, "path,label", [f"{path},{7 if label == 'cat' else 100}" for path, label, _ in chosen])
    source = CsvFiles(train=str(lists / "a.csv"), test=str(lists / "b.csv")).open()
    assert source.class_names == ("7", "100")
    assert set(source.split("test").labels.tolist()) == {0, 1}
    assert [len(source.split(name)) for name in ("trainval", "test")] == [6, 6]


def labelled(lists: Path, labels: list[str], **options: object) -> CsvFiles:
    """A list of the twelve images with these labels in turn."""
    lines = [f"{path},{labels[row % len(labels)]}" for row, (path, _, _) in enumerate(rows("x"))]
    write(lists / "all.csv", "path,label", lines)
    return CsvFiles(path=str(lists / "all.csv"), **options)


def test_leading_zeros_stay_in_the_names_of_classes(lists):
    padded, plain = labelled(lists, ["010", "001", "002"]).listing(), labelled(lists, ["10", "1", "2"]).listing()
    assert padded.class_names == ("001", "002", "010") and plain.class_names == ("1", "2", "10")
    assert padded.parts["all"].labels.tolist() == plain.parts["all"].labels.tolist() == [2, 0, 1] * 4
    assert labelled(lists, ["01", "9", "10"]).listing().class_names == ("01", "9", "10")
    counted = labelled(lists, ["00", "01", "1"], classes=3).listing()
    assert counted.class_names == ("0", "1", "2") and counted.parts["all"].labels.tolist() == [0, 1, 1] * 4


def test_one_number_written_in_two_ways_is_no_class_without_saying_so(lists):
    with pytest.raises(BadInput, match=r"line 3 has the label '1' and .*line 4 '01', the same number; .*classes=N"):
        labelled(lists, ["2", "1", "01"]).listing()


def test_numbers_among_names_are_names_unless_one_slipped_in(lists):
    assert labelled(lists, ["A320", "747", "DC-10"]).listing().class_names == ("747", "A320", "DC-10")
    assert labelled(lists, ["A320", "747", "DC-10"]).listing().parts["all"].labels.tolist() == [1, 0, 2] * 4
    for labels, first in ((["747", "A320"], "747"), (["747", "737", "A320", "A320"], "747"), (["0", "1", "NA"], "NA")):
        with pytest.raises(BadInput, match=f"got '{first}'.*; labels are all integers or all names; .*'no 747'"):
            labelled(lists, labels).listing()
        followed = [f"no {label}" if label.isdigit() else label for label in labels]
        assert set(labelled(lists, followed).listing().class_names) == set(followed)
    with pytest.raises(BadInput, match=r"line 2: the label must be a name, got '7'"):
        labelled(lists, ["7", *["cat", "dog"] * 6]).listing()


def test_an_undivided_list_is_divided(lists):
    file = lists / "all.csv"
    write(file, "path,label", [f"{path},{label}" for path, label, _ in rows("x")])
    source = CsvFiles(path=str(file), num_train=6, num_val=2).open()
    assert [len(source.split(name)) for name in ("train", "val", "test")] == [6, 2, 4]
    assert source.membership_of("trainval") == "stratified-seed0"
    with pytest.raises(BadInput, match=r"12 images cannot be divided"):
        CsvFiles(path=str(file)).open()


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("header", [True, False])
def test_windows_line_ends_a_byte_order_mark_and_other_delimiters_change_nothing(lists, delimiter, header):
    lines = [delimiter.join(row) for row in rows("train", "test")]
    plain = write(lists / "plain.csv", "path,label,split", [",".join(row) for row in rows("train", "test")])
    title = delimiter.join(("path", "label", "split")) if header else ""
    spec = write(lists / "other.csv", title, lines, end="\r\n")
    (lists / "other.csv").write_bytes(b"\xef\xbb\xbf" + (lists / "other.csv").read_bytes() + b"\r\n")
    assert spec.revision() == plain.revision()
    assert spec.open().class_names == ("cat", "dög")


def test_quoted_names_and_backslashes(lists):
    image(lists / "a, b" / "1.png")
    lines = [",".join(row).replace("/", "\\") for row in rows("train", "test")]
    source = write(lists / "all.csv", "path,label,split", [*lines, '"a, b/1.png",cat,test']).open()
    assert names_of(source.split("test"))[-1] == "a, b/1.png"


def test_a_longer_row_of_a_list_without_names_is_not_read_in_part(lists):
    lines = [f"{path},{label}" for path, label, _ in rows("train", "test")]
    assert len(write(lists / "all.csv", lines[0], lines[1:]).listing().class_names) == 2
    # commas without words behind them are how spreadsheets pad
    write(lists / "all.csv", lines[0], [lines[1] + ",,", *lines[2:]]).listing()
    with pytest.raises(BadInput, match=r"line 2: 3 cells where the first line has 2"):
        write(lists / "all.csv", lines[0], [lines[1] + ",test", *lines[2:]]).listing()


def test_named_columns_and_a_root_above_the_list(lists, tmp_path):
    inner = tmp_path / "meta"
    inner.mkdir()
    lines = [f"{label},lists/{path},{part}" for path, label, part in rows("train", "test")]
    write(inner / "l.csv", "breed,where,label", lines)
    options = {"path_column": "where", "label_column": "breed", "split_column": "label"}
    spec = CsvFiles(path=str(inner / "l.csv"), root=str(tmp_path), **options)
    assert spec.open().class_names == ("cat", "dög")
    with pytest.raises(BadInput, match=r"no column 'were' \(dataset\.path_column\); columns are breed, where, label"):
        CsvFiles(path=str(inner / "l.csv"), path_column="were").open()
    with pytest.raises(BadInput, match=r"no path column among breed, where, label; set dataset\.path_column"):
        CsvFiles(path=str(inner / "l.csv")).open()
    with pytest.raises(MissingInput, match="there is no such folder"):
        CsvFiles(path=str(inner / "l.csv"), root=str(tmp_path / "gone")).open()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("my images/cat/0000.png,cat,train", r"line 14: 'my images/cat/0000\.png' is already on line 2"),
        ("my images/cat/gone.png,cat,train", r"1 of 13 listed images are missing: my images/cat/gone\.png"),
        ("/etc/hostname,cat,train", r"lead out of .*/etc/hostname on line 14; set dataset\.root=/etc"),
        ("C:\\x.png,cat,train", r"line 14: the path cannot be used"),
        ("https://x.y/a.png,cat,train", r"line 14: images are read from disk: .* got 'https://x\.y/a\.png'"),
        ("../x.png,cat,train", r"lead out of .*x\.png on line 14; set dataset\.root="),
        ("..\\x.png,cat,train", r"lead out of .*x\.png on line 14"),
        ("my images/cat/x.png,,train", r"line 14: expected a path and a label"),
        ("my images/cat/x.png", r"line 14: expected a path and a label"),
        ("my images/cat/x.png,cat, tabby,train", r"line 14: 4 cells where the first line has 3; .* takes quotes"),
        ("my images/cat/x.png,cat,holdout", r"line 14: the part must be train, val or test, got 'holdout'"),
        ("my images/cat/x.png,7,train", r"line 14: the label must be a name, got '7'"),
        ("my images/cow/x.png,cow,test", r"are missing: my images/cow/x\.png"),
        ('"my images/cat/x.png,cat,train', r"not a row of a list"),
    ],
)
def test_a_bad_row_is_named(lists, line, message):
    spec = write(lists / "all.csv", "path,label,split", [*(",".join(row) for row in rows("train", "test")), line])
    with pytest.raises(BadInput, match=message) as caught:
        spec.open()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("label", "options", "message"),
    [
        ("cat", {}, r"line 13: the label must be an integer, got 'cat'; labels are all integers or all names"),
        ("1.0", {"classes": 2}, r"line 13: the label must be an integer, got '1\.0'; dataset\.classes is 2"),
        ("2", {"classes": 2}, r"line 13: the label must be 0 to 1, got '2'"),
        ("-1", {}, r"line 13: the label must not be negative, got '-1'"),
        ("5", {}, r"1 of 3 classes have no training image, first '5'"),
    ],
)
def test_a_bad_number_is_named(lists, label, options, message):
    lines = [f"{path},{int(name == 'cat')},{part}" for path, name, part in rows("train", "test")]
    lines[-1] = f"{rows('x')[-1][0]},{label},test"
    write(lists / "all.csv", "path,label,split", lines)
    with pytest.raises(BadInput, match=message):
        CsvFiles(path=str(lists / "all.csv"), **options).open()


def test_one_image_in_two_lists(lists):
    for name in ("a.csv", "b.csv"):
        write(lists / name, "path,label", [f"{path},{label}" for path, label, _ in rows("x")])
    with pytest.raises(BadInput, match="12 images are listed in both train and test"):
        CsvFiles(train=str(lists / "a.csv"), test=str(lists / "b.csv")).open()


def test_missing_lists_and_empty_ones(lists):
    for spec in (CsvFiles(), CsvFiles(path=str(lists / "gone.csv"))):
        for ask in (spec.revision, spec.open, spec.inputs):
            with pytest.raises(MissingInput, match=r"dataset\.path="):
                ask()
    with pytest.raises(MissingInput, match="it is a folder"):
        CsvFiles(path=str(lists)).open()
    with pytest.raises(BadInput, match="no images listed"):
        write(lists / "e.csv", "path,label", []).open()
    (lists / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="not UTF-8 text"):
        CsvFiles(path=str(lists / "b.csv")).open()
    with pytest.raises(BadInput, match="no image is listed as test"):
        write(lists / "t.csv", "path,label,split", [",".join(row) for row in rows("train")]).open()


def test_options_that_exclude_each_other():
    with pytest.raises(ConfigError, match="exclude each other"):
        CsvFiles(path="a.csv", test="b.csv")
    with pytest.raises(ConfigError, match="go together"):
        CsvFiles(train="a.csv")


def test_links_out_of_the_folder_are_refused(lists):
    (lists / "my images/cat/0000.png").unlink()
    (lists / "my images/cat/0000.png").symlink_to("/etc/hostname")
    spec = write(lists / "all.csv", "path,label,split", [",".join(row) for row in rows("train", "test")])
    with pytest.raises(BadInput, match="links outside the dataset's folder"):
        spec.open()


def test_links_that_were_named_are_not_called_absent_as_well(tmp_path):
    root = class_folders_of_links(tmp_path)
    with collecting() as obstacles:
        sizes_of_all(root, folder(root).listing().parts)
    assert len(obstacles) == 4 and all("links outside the dataset's folder" in obstacle for obstacle in obstacles)


def class_folders_of_links(place: Path) -> Path:
    """Four images that are all links leading out of their folder."""
    class_folders(place / "store", {"cat": 2, "dog": 2})
    for path in (place / "store").glob("*/*.png"):
        link = place / "mine" / path.relative_to(place / "store")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    return place / "mine"


def test_verify_looks_at_all_images_of_a_dataset_of_any_size(tmp_path):
    root = divided(tmp_path / "pets", val=True)
    (root / "test/dog/0001.png").write_bytes(b"no image")
    found = verify(folder(root).open())
    assert [fact.split(" images")[0] for fact in found.facts] == ["train: 12", "val: 4", "trainval: 16", "test: 6"]
    [problem] = found.problems
    assert "test/dog/0001.png" in problem
