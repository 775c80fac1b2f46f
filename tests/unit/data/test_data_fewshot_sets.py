"""The five few-shot datasets, read from small folders laid out like the originals."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from peftbench.data.fewshot import sets as fewshot_sets
from peftbench.data.fewshot.draw import few_shot
from peftbench.data.fewshot.sets import FEW_SHOT_SETS, FewShotDataset
from peftbench.foundation.errors import BadInput, MissingInput
from tests.own_images import swap_bytes

# task -> (train, val, test) of the small copies below, all with 2 classes
SMALL = {
    "fgvc_aircraft": {"train": 4, "val": 2, "test": 2},
    "oxford_pets": {"train": 4, "test": 2},
    "food101": {"train": 4, "test": 2},
    "stanford_cars": {"train": 4, "test": 2},
    "oxford_flowers102": {"train": 4, "val": 2, "test": 2},
}


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    for task, counts in SMALL.items():
        facts = dataclasses.replace(FEW_SHOT_SETS[task], num_classes=2, counts=counts)
        monkeypatch.setitem(fewshot_sets.FEW_SHOT_SETS, task, facts)


def image(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (2, 2), shade).save(path)


def aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b" / "data"
    data.mkdir(parents=True)
    (data / "variants.txt").write_text("707-320\nBAE 146-200\n")
    number = 0
    for part, count in SMALL["fgvc_aircraft"].items():
        lines = []
        for index in range(count):
            image(data / "images" / f"{number:07d}.jpg", number)
            lines.append(f"{number:07d} {('707-320', 'BAE 146-200')[index % 2]}\n")
            number += 1
        (data / f"images_variant_{part}.txt").write_text("".join(lines))


def pets(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    number = 0
    for name, count in (("trainval", 4), ("test", 2)):
        lines = ["#Image CLASS-ID SPECIES BREED ID\n"] if name == "test" else []
        for index in range(count):
            breed = ("Abyssinian", "great_pyrenees")[index % 2]
            image(folder / "images" / f"{breed}_{number}.jpg", number)
            lines.append(f"{breed}_{number} {index % 2 + 1} 1 1\n")
            number += 1
        (folder / "annotations" / f"{name}.txt").write_text("".join(lines))


def food(root: Path) -> None:
    folder, number = root / "food-101", 0
    (folder / "meta").mkdir(parents=True)
    for part, count in SMALL["food101"].items():
        listed: dict[str, list[str]] = {"waffles": [], "apple_pie": []}
        for name in sorted(listed) * (count // 2):
            image(folder / "images" / name / f"{number}.jpg", number)
            listed[name].append(f"{name}/{number}")
            number += 1
        (folder / "meta" / f"{part}.json").write_text(json.dumps(listed))


def cars(root: Path) -> None:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    savemat(folder / "devkit/cars_meta.mat", {"class_names": np.array(["AM General", "Acura"], dtype=object)})
    number = 0
    for part, file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        table = np.zeros(SMALL["stanford_cars"][part], dtype=[("class", "O"), ("fname", "O")])
        for index in range(len(table)):
            image(folder / f"cars_{part}" / f"{index + 1:05d}.jpg", number)
            table[index] = (index % 2 + 1, f"{index + 1:05d}.jpg")
            number += 1
        savemat(folder / file, {"annotations": table})


def flowers(root: Path) -> None:
    folder = root / "flowers-102"
    for number in range(8):
        image(folder / "jpg" / f"image_{number + 1:05d}.jpg", number)
    savemat(folder / "imagelabels.mat", {"labels": np.array([1, 2] * 4)})
    savemat(folder / "setid.mat", {"trnid": np.arange(1, 5), "valid": np.arange(5, 7), "tstid": np.arange(7, 9)})


MAKERS = {
    "fgvc_aircraft": (aircraft, ("707-320", "BAE 146-200")),
    "oxford_pets": (pets, ("Abyssinian", "great_pyrenees")),
    "food101": (food, ("apple_pie", "waffles")),
    "stanford_cars": (cars, ("AM General", "Acura")),
    "oxford_flowers102": (flowers, ("flower 1", "flower 2")),
}


@pytest.mark.parametrize("task", MAKERS)
def test_official_parts_labels_and_names(task, tmp_path):
    make, names = MAKERS[task]
    make(tmp_path)
    spec = FewShotDataset(task=task, root=str(tmp_path))
    source = spec.open()
    assert (spec.label, spec.group) == (f"fewshot/{task}", "fewshot")
    assert source.class_names == names
    assert source.test == "official:2"
    for part in ("trainval", "test"):
        assert len(source.split(part)) == sum(
            count for name, count in SMALL[task].items() if (name == "test") == (part == "test")
        )
    test = source.split("test")
    shades = [np.asarray(test.read(index))[0, 0] for index in range(2)]
    numbers = sum(SMALL[task].values())
    assert shades == [numbers - 2, numbers - 1]
    assert test.labels.tolist() == [0, 1]
    assert few_shot(source, 1, 0, "m").split("fewshot").labels.tolist() == [0, 1]
    assert len(few_shot(source, 2, 0, "m").split("fewshot")) == SMALL[task]["train"]
    before = spec.revision()
    assert FewShotDataset(task=task, root=str(tmp_path)).revision() == before
    images = [path for path in spec.inputs() if path.suffix == ".jpg"]
    assert len(images) == numbers
    assert len([path for path in spec.inputs() if path.suffix in (".txt", ".json", ".mat")]) > 1
    swap_bytes(images[-1])
    assert spec.revision() != before


@pytest.mark.parametrize("task", MAKERS)
def test_missing_data_says_what_how_large_and_how(task, tmp_path):
    spec = FewShotDataset(task=task, root=str(tmp_path))
    for ask in (spec.revision, spec.open):
        with pytest.raises(MissingInput) as caught:
            ask()
        message = str(caught.value)
        for part in (str(tmp_path), f"{FEW_SHOT_SETS[task].megabytes:,} MB", "dataset.root", "dataset=digits"):
            assert part in message
        assert ("download=True" in message) == (task != "stanford_cars")
    (tmp_path / FEW_SHOT_SETS[task].folder).mkdir()
    with pytest.raises(MissingInput, match="there is no "):
        spec.open()


def test_the_loaders_named_in_messages_exist():
    from torchvision import datasets

    assert all(hasattr(datasets, facts.torchvision) for facts in FEW_SHOT_SETS.values() if facts.torchvision)


def test_damaged_annotations_and_wrong_counts_are_one_line(tmp_path):
    flowers(tmp_path)
    spec = FewShotDataset(task="oxford_flowers102", root=str(tmp_path))
    savemat(tmp_path / "flowers-102/setid.mat", {"trnid": np.arange(1, 4), "valid": [5, 6], "tstid": [7, 8]})
    with pytest.raises(BadInput, match=r"3 train images, 2 val images, 2 test images and 2 classes .*expected 4 train"):
        spec.open()
    (tmp_path / "flowers-102/setid.mat").write_bytes(b"not a table")
    with pytest.raises(BadInput, match=r"annotations .* are damaged"):
        spec.open()
    aircraft(tmp_path)
    (tmp_path / "fgvc-aircraft-2013b/data/variants.txt").write_text("707-320\n")
    with pytest.raises(BadInput, match=r"'BAE 146-200' is not in variants\.txt"):
        FewShotDataset(task="fgvc_aircraft", root=str(tmp_path)).open()
    food(tmp_path)
    (tmp_path / "food-101/meta/train.json").write_text("[1")
    with pytest.raises(BadInput, match=r"annotations .* are damaged"):
        FewShotDataset(task="food101", root=str(tmp_path)).open()


def test_a_missing_image_is_named(tmp_path):
    pets(tmp_path)
    (tmp_path / "oxford-iiit-pet/images/Abyssinian_0.jpg").unlink()
    with pytest.raises(BadInput, match=r"1 of 6 listed images are missing: images/Abyssinian_0\.jpg"):
        FewShotDataset(task="oxford_pets", root=str(tmp_path)).open()
