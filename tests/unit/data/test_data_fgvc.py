"""FGVC by VPT's JSON lists: counts, class ids with gaps, and the clear line for everything wrong."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from peftbench.data.fgvc import dataset as fgvc
from peftbench.data.fgvc.dataset import Fgvc
from peftbench.data.fgvc.tasks import FGVC_TASKS, canonical_fgvc
from peftbench.foundation.errors import BadInput, ConfigError, MissingInput
from tests.own_images import swap_bytes

# class ids have gaps and their order as text is not that as numbers
IDS = (2, 10, 300)


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """CUB as a set of 3 classes with 9 + 3 training and 6 test images."""
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    facts = dataclasses.replace(FGVC_TASKS["cub200"], num_classes=3, num_train=9, num_val=3, num_test=6)
    monkeypatch.setitem(fgvc.FGVC_TASKS, "cub200", facts)


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "fgvc" / "CUB_200_2011"
    number = 0
    for part, count in (("train", 3), ("val", 1), ("test", 2)):
        listed = {}
        for label in IDS:
            for _ in range(count):
                path = folder / "images" / f"{label:03d}.bird {label}" / f"{number:02d}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (2, 2), number).save(path)
                listed[f"{path.parent.name}/{path.name}"] = label
                number += 1
        (folder / f"{part}.json").write_text(json.dumps(listed))
    return tmp_path / "fgvc"


def cub(root: Path) -> Fgvc:
    return Fgvc(task="cub200", root=str(root))


def edit(root: Path, part: str, change) -> None:
    path = root / "CUB_200_2011" / f"{part}.json"
    listed = json.loads(path.read_text())
    changed = change(listed)
    path.write_text(json.dumps(listed if changed is None else changed))


def test_the_lists_are_used_as_they_are(root):
    spec = cub(root)
    source = spec.open()
    assert (spec.label, spec.group, source.num_classes) == ("fgvc/cub200", "fgvc", 3)
    assert (source.membership_of("trainval"), source.test, source.notes) == ("fgvc-vpt-lists", "official:6", ())
    assert source.class_names == ("002.bird 2", "010.bird 10", "300.bird 300")
    assert [len(source.split(name)) for name in ("train", "val", "trainval", "test")] == [9, 3, 12, 6]
    assert source.split("val").labels.tolist() == [0, 1, 2]
    assert source.split("test").labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert np.asarray(source.split("test").read(0))[0, 0] == 12
    assert {"train.json", "val.json", "test.json", "00.jpg", "17.jpg"} <= {path.name for path in spec.inputs()}
    assert spec.identity() == {"task": "cub200", "split_seed": 0}


def test_ids_may_be_text_and_classes_without_folders_keep_their_ids(root):
    folder = root / "CUB_200_2011"
    (folder / "images" / "all").mkdir()
    for path in list(folder.glob("images/0*/*")) + list(folder.glob("images/3*/*")):
        path.rename(folder / "images" / "all" / path.name)
    for part in ("train", "val", "test"):
        edit(
            root, part, lambda listed: {f"all/{name.rpartition('/')[2]}": str(label) for name, label in listed.items()}
        )
    assert cub(root).open().class_names == ("2", "10", "300")


def test_images_may_lie_where_the_dataset_folder_begins(root):
    for folder in list((root / "CUB_200_2011" / "images").iterdir()):
        folder.rename(root / "CUB_200_2011" / folder.name)
    assert len(cub(root).open().split("train")) == 9


def test_without_val_json_train_must_be_whole(root):
    (root / "CUB_200_2011" / "val.json").rename(root / "val.json")
    with pytest.raises(BadInput, match=r"9 training images \(train \+ val\), expected 12"):
        cub(root).open()
    edit(root, "train", lambda listed: listed.update(json.loads((root / "val.json").read_text())))
    source = cub(root).open()
    assert [len(source.split(name)) for name in ("train", "val", "trainval")] == [11, 1, 12]
    [note] = source.notes
    assert "train.json lists 12 images" in note


def test_the_place_is_no_part_of_the_revision_but_lists_and_bytes_are(root, tmp_path):
    seen = {cub(root).revision()}
    root.rename(tmp_path / "moved")
    assert cub(tmp_path / "moved").revision() in seen
    edit(tmp_path / "moved", "test", lambda listed: dict(reversed(listed.items())))
    seen.add(cub(tmp_path / "moved").revision())
    swap_bytes(next((tmp_path / "moved").rglob("*.jpg")))
    seen.add(cub(tmp_path / "moved").revision())
    assert len(seen) == 3


def test_missing_data_says_what_how_large_and_which_command(root, tmp_path):
    for place in (tmp_path / "gone", tmp_path):
        for ask in (cub(place).revision, cub(place).open, cub(place).inputs):
            with pytest.raises(MissingInput) as caught:
                ask()
            for part in (str(place), "1,150 MB", "hf download XiN0919/FGVC json.zip", "dataset.root", "dataset=digits"):
                assert part in str(caught.value)
            assert str(caught.value).startswith(f"fgvc/cub200: not in {place} ")
    with pytest.raises(MissingInput, match="terms"):
        Fgvc(task="nabirds", root=str(root)).open()


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_missing_list_is_named(root, part):
    (root / "CUB_200_2011" / f"{part}.json").unlink()
    with pytest.raises(MissingInput, match=rf"lacks {part}\.json"):
        cub(root).revision()


def test_lists_without_images(root):
    (root / "CUB_200_2011" / "images").rename(root / "elsewhere")
    with pytest.raises(MissingInput, match=r"the lists are here and the images are not"):
        cub(root).open()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda listed: listed.popitem() and None, r"5 test images, expected 6; they were cut short"),
        (lambda listed: listed.update({"x/y.jpg": 2}), r"7 test images, expected 6"),
        (lambda listed: listed.update({next(iter(listed)): 4}), r"4 classes, expected 3"),
        (lambda listed: listed.update({next(iter(listed)): "2.5"}), r"4 classes, expected 3"),
        (
            lambda listed: listed.update({next(iter(listed)): None}),
            r"the class id must be an integer or a word, got None",
        ),
        (lambda listed: listed.update({next(iter(listed)): True}), r"must be an integer or a word, got True"),
        (lambda listed: listed.update({next(iter(listed)): {"a": 1}}), r"must be an integer or a word"),
        (lambda listed: listed.update({next(iter(listed)): -1}), r"must not be negative, got -1"),
        (lambda listed: listed.update({"/etc/x.jpg": 2}), r"the path must be relative"),
        (lambda listed: listed.update({"../x.jpg": 2}), r"the path must stay inside"),
        (lambda listed: list(listed), r"expected one JSON object"),
        (lambda listed: {}, r"expected one JSON object"),
    ],
)
def test_a_bad_list_is_named(root, change, message):
    edit(root, "test", change)
    with pytest.raises(BadInput, match=message) as caught:
        cub(root).open()
    assert "\n" not in str(caught.value)


def test_broken_json_duplicates_and_shared_images(root):
    path = root / "CUB_200_2011" / "test.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"test\.json: not JSON"):
        cub(root).open()
    name = next(iter(json.loads(whole)))
    path.write_text(whole[:-1] + f', "{name}": 2}}')
    with pytest.raises(BadInput, match=rf"'{name}' is listed more than once"):
        cub(root).open()
    training = next(iter(json.loads((root / "CUB_200_2011/train.json").read_text())))
    path.write_text(whole.replace(name, training))
    with pytest.raises(BadInput, match=r"listed in both train\.json and test\.json"):
        cub(root).open()


def test_a_class_that_is_only_tested_is_named(root):
    edit(root, "train", lambda listed: {name: 10 if label == 300 else label for name, label in listed.items()})
    edit(root, "val", lambda listed: {name: 10 if label == 300 else label for name, label in listed.items()})
    with pytest.raises(BadInput, match=r"1 of 3 classes have no training image"):
        cub(root).open()


def test_images_that_are_missing_empty_or_elsewhere(root):
    image = next((root / "CUB_200_2011/images").glob("300*/*"))
    data = image.read_bytes()
    image.unlink()
    with pytest.raises(BadInput, match=rf"1 of 18 listed images are missing: .*{image.name}"):
        cub(root).open()
    image.write_bytes(b"")
    with pytest.raises(BadInput, match=r"are empty \(0 bytes\)"):
        cub(root).open()
    (root / "outside.jpg").write_bytes(data)
    image.unlink()
    image.symlink_to(root / "outside.jpg")
    with pytest.raises(BadInput, match="links outside the dataset's folder"):
        cub(root).open()


def test_two_folders_of_one_dataset(root):
    (root / "cub200").mkdir()
    with pytest.raises(BadInput, match="may both hold this dataset"):
        cub(root).open()


def test_spellings_and_unknown_names():
    assert canonical_fgvc("cars196") == "stanford_cars"
    assert Fgvc(task="CUB").identity()["task"] == "cub200"
    with pytest.raises(ConfigError, match="did you mean 'stanford_dogs'"):
        Fgvc(task="stanford_dog")


def test_published_sizes():
    totals = {"nabirds": 48_562, "oxford_flowers": 8_189, "stanford_dogs": 20_580, "stanford_cars": 16_185}
    for task, total in totals.items():
        facts = FGVC_TASKS[task]
        assert facts.num_train + facts.num_val + facts.num_test == total
    names = [name for facts in FGVC_TASKS.values() for name in {*facts.folders, *facts.spellings}]
    assert len(names) == len(set(names))
