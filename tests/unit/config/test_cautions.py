"""Words before a run that is allowed and yet likely to disappoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from peftbench.config.cautions import cautions
from tests.composing import gate


def test_the_embedded_backbone_on_own_photos_says_what_it_is_and_what_to_take(tmp_path: Path) -> None:
    [line] = cautions(gate("dataset=folder", f"dataset.root={tmp_path}")[0])
    assert "trained at 32 px" in line and "backbone=vit_small_dinov2" in line
    # the advice can be followed: the words compose and say no more
    assert cautions(gate("dataset=folder", f"dataset.root={tmp_path}", "backbone=vit_small_dinov2")[0]) == []
    assert cautions(gate("dataset=digits")[0]) == []


def own(root: Path, num_images: int, num_classes: int, *words: str) -> list[str]:
    """What is said of a list of so many images, cautions about backbones left out."""
    rows = []
    for index in range(num_images):
        Image.new("L", (2, 2), index).save(root / f"{index}.png")
        rows.append(f"{index}.png,{'abcdefghijklmnopqrstuvwxyz'[index % num_classes]}")
    (root / "mine.csv").write_text("\n".join(["path,label", *rows]))
    given = ["dataset=csv", f"dataset.path={root / 'mine.csv'}", "backbone=vit_small_dinov2", *words]
    return cautions(gate(*given)[0])


@pytest.mark.parametrize("words", [["protocol=full_tune"], ["protocol=full", "tune=random"]])
def test_a_choice_by_few_images_of_ones_own_is_said_to_be_chance(tmp_path: Path, words: list[str]) -> None:
    assert own(tmp_path, 15, 2, "dataset.num_train=9", "dataset.num_val=2", *words) == [
        "mine: 2 images validate, and what is best on so few is so by chance; raise dataset.num_val, or choose nothing "
        "by them"
    ]
    [one] = own(tmp_path, 15, 2, "dataset.num_train=9", "dataset.num_val=1", *words)
    assert one.startswith("mine: 1 image validates, and")
    [nine] = own(tmp_path, 40, 2, "dataset.num_train=9", "dataset.num_val=9", *words)
    assert nine.startswith("mine: 9 images validate, and")
    assert own(tmp_path, 40, 2, "dataset.num_train=9", "dataset.num_val=10", *words) == []


def test_classes_that_no_image_validates_are_counted(tmp_path: Path) -> None:
    words = ["dataset.num_train=26", "protocol=full_tune"]
    assert own(tmp_path, 80, 26, "dataset.num_val=12", *words) == [
        "mine: 12 images validate and there are 26 classes, so that 14 or more of them take no part in what is chosen; "
        "raise dataset.num_val"
    ]
    assert own(tmp_path, 80, 26, "dataset.num_val=26", *words) == []


def test_where_no_image_chooses_their_number_is_nobodys_care(tmp_path: Path) -> None:
    few = ["dataset.num_train=9", "dataset.num_val=2"]
    assert own(tmp_path, 15, 2, *few, "protocol=full") == []
    assert own(tmp_path, 15, 2, *few, "protocol=fewshot", "protocol.shots=2") == []


def test_a_rate_that_nobody_used_is_named() -> None:
    [line] = cautions(gate("optim.lr=0.5")[0])
    assert "optim.lr=0.5 is outside" in line and "tune=random" in line
    assert cautions(gate("optim=sgd", "optim.lr=0.5")[0]) == []
    # a preset says where its rate is from
    assert cautions(gate("method=linear", "train=short", "hparams=ours")[0]) == []
