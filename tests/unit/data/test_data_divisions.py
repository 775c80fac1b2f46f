"""A division that somebody made is read or refused, and never drawn anew without a word: test images must not train."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from peftbench.data.clips.listings import from_folders
from peftbench.data.sources.csv_files import CsvFiles
from peftbench.data.sources.domains import Domains
from peftbench.data.sources.folder import Folder
from peftbench.foundation.errors import BadInput, ConfigError

NAMES = [f"a {index}.png" for index in range(6)]
LABELS = ["cat", "dog"] * 3
PARTS = ["train", "train", "train", "train", "test", "test"]


def images(folder: Path, names: list[str]) -> None:
    for index, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 3), index).save(path)


def written(folder: Path, header: str, *columns: list[str], name: str = "list.csv", separator: str = ",") -> Path:
    """A list of the six images, beside them."""
    images(folder, NAMES)
    rows = [header, *(separator.join(row) for row in zip(NAMES, *columns, strict=True))]
    (folder / name).write_text("\n".join(filter(None, rows)) + "\n")
    return folder / name


def advised(error: Exception) -> dict[str, str]:
    """The options that a message tells to set, without the way to say that there is no division."""
    assert "\n" not in str(error)
    found = re.findall(r"dataset\.(\w+)=([\w ]+\w|<[^>]*>)(?=[ ,;.]|$)", str(error).split(", or dataset.")[0])
    return dict(found)


def parts_of(spec: CsvFiles | Folder) -> dict[str, int]:
    return {part: len(found.paths) for part, found in spec.listing().parts.items()}


GIVEN = {"train": 4, "test": 2}


# lists


@pytest.mark.parametrize("values", [("train", "test"), ("Training", "Testing"), ("train_set", "test-set")])
@pytest.mark.parametrize("separator", [",", " "])
def test_an_unread_column_of_parts_is_refused_by_name(tmp_path: Path, values: tuple[str, str], separator: str) -> None:
    parts = [values[part == "test"] for part in PARTS]
    file = written(tmp_path, separator.join(["path", "label", "phase"]), LABELS, parts, separator=separator)
    with pytest.raises(BadInput, match="'phase' holds names of parts and is not read") as stop:
        CsvFiles(path=str(file)).open()
    assert advised(stop.value) == {"split_column": "phase"}
    assert parts_of(CsvFiles(path=str(file), split_column="phase")) == GIVEN
    assert "or dataset.split_column=none if it is no division" in str(stop.value)
    assert parts_of(CsvFiles(path=str(file), split_column="none")) == {"all": 6}


@pytest.mark.parametrize(
    ("parts", "refused"),
    [
        (["train", "eval"], True),
        (["trainval", "test"], True),
        (["train_val", "test"], True),
        (["train1", "test1"], True),
        (["train", "extra", "test"], True),
        (["bus", "train", "tram"], False),
        (["train", "holdout"], True),
        (["train", ""], False),
        (["train", "train"], False),
        (["train", "good"], False),
        (["test tube", "train station"], False),
    ],
)
def test_what_a_column_of_parts_is(tmp_path: Path, parts: list[str], refused: bool) -> None:
    file = written(tmp_path, "path,label,phase", LABELS, [*parts, *parts, *parts][: len(LABELS)])
    if refused:
        with pytest.raises(BadInput, match=r"set dataset\.split_column=phase"):
            CsvFiles(path=str(file)).listing()
    else:
        assert parts_of(CsvFiles(path=str(file))) == {"all": 6}


@pytest.mark.parametrize("name", ["is_valid", "isTest", "train", "is_training_image"])
@pytest.mark.parametrize("values", [("True", "False"), ("1", "0")])
def test_a_column_that_says_yes_or_no_to_a_part_is_not_passed_over(
    tmp_path: Path, name: str, values: tuple[str, str]
) -> None:
    file = written(tmp_path, f"path,label,{name}", LABELS, [values[part == "test"] for part in PARTS])
    with pytest.raises(BadInput, match=f"'{name}' says of rows whether they are of a part .*split_column=none") as stop:
        CsvFiles(path=str(file)).listing()
    assert "\n" not in str(stop.value)
    assert parts_of(CsvFiles(path=str(file), split_column="none")) == {"all": 6}
    same = written(tmp_path, f"path,label,{name}", LABELS, [values[0]] * 6)
    assert parts_of(CsvFiles(path=str(same))) == {"all": 6}
    beside = written(tmp_path, f"path,label,split,{name}", LABELS, PARTS, [values[part == "test"] for part in PARTS])
    assert parts_of(CsvFiles(path=str(beside))) == GIVEN


def test_a_part_that_is_left_empty_hides_no_division(tmp_path: Path) -> None:
    file = written(tmp_path, "path,label,phase", LABELS, [*PARTS[:-1], ""])
    with pytest.raises(BadInput, match=r"set dataset\.split_column=phase"):
        CsvFiles(path=str(file)).listing()
    with pytest.raises(BadInput, match="line 7: the part must be train, val or test, got ''"):
        CsvFiles(path=str(file), split_column="phase").listing()


def test_advice_on_columns_names_the_division_among_them(tmp_path: Path) -> None:
    file = written(tmp_path, "path,breed,part_of,quality", LABELS, PARTS, ["good"] * 6)
    with pytest.raises(BadInput, match="no label column") as stop:
        CsvFiles(path=str(file)).open()
    assert advised(stop.value) == {"label_column": "<its name>", "split_column": "part_of"}
    with pytest.raises(BadInput, match=r"set dataset\.split_column=part_of"):
        CsvFiles(path=str(file), label_column="breed").open()
    assert parts_of(CsvFiles(path=str(file), label_column="breed", split_column="part_of")) == GIVEN


def test_two_columns_of_parts_that_differ_are_told_apart_by_the_user(tmp_path: Path) -> None:
    other = PARTS[::-1]
    file = written(tmp_path, "path,label,split,phase", LABELS, PARTS, other)
    choices = r"set dataset\.split_column=split or dataset\.split_column=phase, or dataset\.split_column=none if"
    with pytest.raises(BadInput, match=f"'phase' holds names of parts other than those in 'split'; {choices}"):
        CsvFiles(path=str(file)).listing()
    assert parts_of(CsvFiles(path=str(file), split_column="split")) == GIVEN
    alike = written(tmp_path, "path,label,split,phase", LABELS, PARTS, [f"{part}ing" for part in PARTS])
    assert parts_of(CsvFiles(path=str(alike))) == GIVEN, "the same said twice is no doubt"


@pytest.mark.parametrize(
    "other",
    [
        PARTS[::-1],
        ["train"] * 6,
        ["val", "", "", "", "", ""],
        ["val", "train", "train", "train", "train", "train"],
        ["train", "train", "test", "test1", "b", "b"],
    ],
)
@pytest.mark.parametrize("names", [("split", "subset"), ("subset", "split"), ("Partition", "set")])
def test_of_two_columns_that_may_be_the_split_none_is_taken_unasked(
    tmp_path: Path, other: list[str], names: tuple[str, str]
) -> None:
    file = written(tmp_path, f"path,label,{','.join(names)}", LABELS, PARTS, other)
    # in the order in which names are looked for
    one, two = names if names == ("split", "subset") else names[::-1]
    with pytest.raises(BadInput) as stop:
        CsvFiles(path=str(file)).listing()
    assert str(stop.value) == (
        f"{file}: '{one}' and '{two}' differ and may both be the split column; set dataset.split_column={one} or "
        f"dataset.split_column={two}"
    )
    assert parts_of(CsvFiles(path=str(file), split_column=names[0])) == GIVEN
    assert parts_of(CsvFiles(path=str(file), split_column="none")) == {"all": 6}


def test_what_names_no_part_is_no_split_whatever_it_is_called(tmp_path: Path) -> None:
    for places in (["inat", "imagenet"] * 3, ["0", "0", "0", "0", "1", "2"], [""] * 6):
        for order in (PARTS, places), (places, PARTS):
            file = written(tmp_path, "path,label,set,subset", LABELS, *order)
            assert parts_of(CsvFiles(path=str(file))) == GIVEN
    same = written(tmp_path, "path,label,split,subset", LABELS, PARTS, [f"{part}ing" for part in PARTS])
    assert parts_of(CsvFiles(path=str(same))) == GIVEN, "the same said twice is no doubt"
    twice = written(tmp_path, "path,label,split,split", LABELS, PARTS, PARTS[::-1])
    with pytest.raises(BadInput, match="two columns that differ are called 'split'; give one of them another name"):
        CsvFiles(path=str(twice)).listing()


def test_a_division_can_be_set_aside(tmp_path: Path) -> None:
    file = written(tmp_path, "path,label,split", LABELS, PARTS)
    assert parts_of(CsvFiles(path=str(file))) == GIVEN
    assert parts_of(CsvFiles(path=str(file), split_column="none")) == {"all": 6}
    bare = written(tmp_path, "", LABELS, PARTS)
    assert parts_of(CsvFiles(path=str(bare))) == GIVEN
    assert parts_of(CsvFiles(path=str(bare), split_column="none")) == {"all": 6}
    named = written(tmp_path, "path,label,none", LABELS, PARTS)
    assert parts_of(CsvFiles(path=str(named), split_column="none")) == GIVEN, "a column of that name"
    whole = written(tmp_path, "path,label,split", LABELS, ["train"] * 6)
    with pytest.raises(BadInput, match=r"no image is listed as test; .*set dataset\.split_column=none to have"):
        CsvFiles(path=str(whole)).listing()


@pytest.mark.parametrize("header", ["path,label,split", "path,label,phase", ""])
def test_a_list_of_one_part_holds_no_others(tmp_path: Path, header: str) -> None:
    train = written(tmp_path, header, LABELS, PARTS, name="train.csv")
    (tmp_path / "test.csv").write_text("path,label\nb 0.png,cat\n")
    lists = {"train": str(train), "test": str(tmp_path / "test.csv")}
    with pytest.raises(BadInput, match=r"holds names of parts and dataset\.train names the whole list"):
        CsvFiles(**lists).listing()
    assert parts_of(CsvFiles(**lists, split_column="none")) == {"train": 6, "test": 1}


def test_a_split_column_goes_with_one_list_alone(tmp_path: Path) -> None:
    file = str(written(tmp_path, "path,label", LABELS))
    with pytest.raises(ConfigError, match=r"dataset\.split_column=nonsense is of one list .*dataset\.path=FILE"):
        CsvFiles(train=file, test=file, split_column="nonsense")


# folders


def class_folders(root: Path, *parts: str, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    images(root, [f"{part}/{name}/{index}.png" for part in parts for name in classes for index in range(2)])
    return root


@pytest.mark.parametrize(
    "names",
    [
        ("training_set", "test_set"),
        ("train_set", "val-set", "Test Set"),
        ("trainset", "testset"),
        ("train_images", "validation_data", "testing_images"),
        ("training_set/training_set", "test_set/test_set"),
    ],
)
def test_well_known_names_of_folders_are_parts(tmp_path: Path, names: tuple[str, ...]) -> None:
    found = Folder(root=str(class_folders(tmp_path, *names))).listing()
    assert found.class_names == ("cat", "dog")
    expected = ("train", "test") if len(names) == 2 else ("train", "val", "test")
    assert {part: len(images.paths) for part, images in found.parts.items()} == dict.fromkeys(expected, 4)
    train = found.parts["train"].paths[0]
    assert train.startswith(names[0]) and found.parts["test"].paths[0].startswith(names[-1])


@pytest.mark.parametrize(
    "tops",
    [
        ("val", "test"),
        ("seg_train", "seg_test"),
        ("seg_train/seg_train", "seg_test/seg_test", "seg_pred"),
        ("train2017", "val2017"),
        ("train", "eval"),
        ("train", "val", "unlabeled"),
        ("train", "extra"),
        ("trainval", "test"),
        ("gallery", "query"),
        ("train", "test1"),
        ("train_v1", "test_v1"),
        ("val_set", "test_set"),
    ],
)
def test_what_looks_like_parts_and_is_not_read_is_refused(tmp_path: Path, tops: tuple[str, ...]) -> None:
    root = class_folders(tmp_path, *tops)
    with pytest.raises(BadInput, match="names of parts that would not be read") as stop:
        Folder(root=str(root)).open()
    assert "\n" not in str(stop.value) and "call the parts train/, test/ and perhaps val/" in str(stop.value)
    assert all(name.partition("/")[0] + "/" in str(stop.value) for name in tops if name != "seg_pred")


def test_parts_without_class_folders_and_a_part_among_classes_are_refused(tmp_path: Path) -> None:
    images(tmp_path / "flat", ["val/0.png", "val/1.png", "test/0.png"])
    images(tmp_path / "unlabelled", ["test_v1/0.png", "test_v1/1.png"])
    class_folders(tmp_path / "unlabelled", "train_v1")
    class_folders(tmp_path / "among", "test")
    images(tmp_path / "among", ["cat/0.png", "dog/0.png"])
    for name in ("flat", "unlabelled", "among"):
        with pytest.raises(BadInput, match="names of parts"):
            Folder(root=str(tmp_path / name)).open()


@pytest.mark.parametrize(
    "classes",
    [
        ("bus", "car", "train"),
        ("test_tube", "train_station"),
        ("dev", "prod", "test"),
        ("invalid", "valid"),
        ("test", "train_a"),
    ],
)
def test_classes_whose_names_speak_of_parts_are_classes(tmp_path: Path, classes: tuple[str, ...]) -> None:
    images(tmp_path, [f"{name}/{index}.png" for name in classes for index in range(2)])
    assert Folder(root=str(tmp_path)).listing().class_names == classes


def test_class_folders_may_hold_folders(tmp_path: Path) -> None:
    images(tmp_path, ["bus/day/0.png", "bus/night/0.png", "train/day/0.png", "train/night/1.png"])
    assert parts_of(Folder(root=str(tmp_path))) == {"all": 4}


def test_parts_are_no_domains(tmp_path: Path) -> None:
    for part in ("train", "test"):
        class_folders(tmp_path / part, "art", "photo")
    with pytest.raises(BadInput, match=r"names of parts .*<root>/<domain>/<class>/<image>"):
        Domains(root=str(tmp_path)).listing()
    chosen = Domains(root=str(tmp_path), domains=["train", "test"]).listing()
    assert set(chosen.class_tasks) == {"train", "test"}, "who names them means them"


def test_folders_of_clips_go_by_the_same_names(tmp_path: Path) -> None:
    for part in ("training_set", "test_set"):
        (tmp_path / part / "wave").mkdir(parents=True)
        (tmp_path / part / "wave" / "a.mp4").write_bytes(b"x")
    found = from_folders(tmp_path)
    assert {part: clips[0].path for part, clips in found.parts.items()} == {
        "train": "training_set/wave/a.mp4",
        "test": "test_set/wave/a.mp4",
    }
    (tmp_path / "train").mkdir()
    with pytest.raises(BadInput, match="are both train parts"):
        from_folders(tmp_path)
