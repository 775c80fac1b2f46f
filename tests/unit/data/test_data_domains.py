"""Domains that hold class folders: each is a task, with its own classes and images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from peftbench.data.fewshot.draw import COOP, few_shot
from peftbench.data.sources.domains import Domains
from peftbench.foundation.errors import BadInput, MissingInput


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path) -> Path:
    """Art has mugs and pens, Clipart mugs alone and then keys; 5 images of each."""
    shades = iter(range(20))
    for place in ("Art/Mug", "Art/Pen", "Clipart/Key", "Clipart/Mug"):
        for number in range(5):
            path = tmp_path / "home" / place / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (2, 2), next(shades)).save(path)
    (tmp_path / "home" / "ImageInfo.csv").write_text("of the authors")
    return tmp_path / "home"


def shades_of(split) -> list[int]:
    return [int(np.asarray(split.read(row))[0, 0]) for row in range(len(split))]


def test_each_domain_is_a_task_with_its_own_classes(root):
    source = Domains(root=str(root), num_train=8, num_val=4).open()
    assert source.class_names == ("Mug", "Pen", "Key", "Mug")
    assert source.class_tasks == ("Art", "Art", "Clipart", "Clipart")
    parts = [source.split(name) for name in ("train", "val", "test")]
    assert [np.bincount(part.labels).tolist() for part in parts] == [[2] * 4, [1] * 4, [2] * 4]
    for part in parts:
        assert [shade // 5 for shade in shades_of(part)] == part.labels.tolist()
    drawn = few_shot(source, 1, 1, "m", COOP)
    assert np.bincount(drawn.split("fewshot").labels).tolist() == [1] * 4 and drawn.class_tasks == source.class_tasks
    turned = Domains(root=str(root), num_train=8, num_val=4, domains=["Clipart", "Art"]).open()
    assert turned.class_tasks == ("Clipart", "Clipart", "Art", "Art") and turned.class_names[0] == "Key"


def test_lists_say_which_images_train_and_test_and_what_numbers_mean(root):
    (root / "splits").mkdir()
    for domain, classes in (("Art", {"Pen": 0, "Mug": 7}), ("Clipart", {"Mug": 7, "Key": 3})):
        for part, numbers in (("train", (0, 1, 2)), ("test", (4,))):
            lines = [f"{domain}/{name}/{n}.png {label}" for name, label in classes.items() for n in numbers]
            (root / "splits" / f"{domain}_{part}.txt").write_text("\n".join(lines) + "\n")
    spec = Domains(root=str(root), domains=["Art", "Clipart"], lists="splits")
    source = spec.open()
    assert (source.class_names, source.test) == (("Pen", "Mug", "Key", "Mug"), "own:4")
    assert shades_of(source.split("test")) == [9, 4, 19, 14] and source.split("test").labels.tolist() == [0, 1, 3, 2]
    assert len(source.split("trainval")) == 12
    for line, said in (("Art/Pen/0.png 7", "'Mug' in other lines"), ("Art/Pen/0.png", "a line is"), ("", "no lines")):
        (root / "splits" / "Art_test.txt").write_text(line)
        with pytest.raises(BadInput, match=said):
            spec.open()


def test_what_is_not_there_is_said_in_one_line(root):
    with pytest.raises(MissingInput, match=r"there is no such folder; .*<root>/<domain>/<class>/<image>"):
        Domains(root=str(root / "away")).open()
    with pytest.raises(BadInput, match=r"dataset\.domains names Real, and those with images there are Art, Clipart"):
        Domains(root=str(root), domains=["Art", "Real"]).open()
    with pytest.raises(BadInput, match="two domains or more are needed"):
        Domains(root=str(root), domains=["Art"]).open()
    with pytest.raises(BadInput, match="two domains or more are needed"):
        Domains(root=str(root / "Art")).open()
