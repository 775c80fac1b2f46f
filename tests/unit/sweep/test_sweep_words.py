"""The words of a sweep before Hydra sees them."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftbench.foundation.errors import ConfigError
from peftbench.methods.base import METHODS
from peftbench.sweep.grid import expanded, plan_grid


def values(words: list[str], key: str) -> set[str]:
    (word,) = [word for word in expanded(words) if word.startswith(f"{key}=")]
    return set(word.partition("=")[2].split(","))


def test_all_methods_by_one_word_beside_other_words() -> None:
    words = ["method=all", "dataset=digits", "seed=0,1"]
    assert values(words, "method") >= set(METHODS.names())
    assert expanded(words)[1:] == words[1:]


def test_a_suite_stands_for_its_datasets_unless_one_is_named() -> None:
    assert values(["+suite=micro", "method=linear"], "dataset") >= {"digits", "shapes_count"}
    assert values(["+suite=micro", "dataset=digits"], "dataset") == {"digits"}


def test_the_folder_of_a_suite_is_for_its_sets_with_files(tmp_path: Path) -> None:
    root = f"dataset.root={tmp_path}"
    grid, _ = plan_grid(["+suite=dense", "method=linear", root])
    assert [cell.labels["dataset"] for cell in grid.cells] == ["scenes"]
    assert root not in grid.cells[0].words and len(grid.problems) == 6
    assert all("dataset.root=" in words and str(tmp_path) in said for words, said in grid.problems)
    # where nothing takes it, and where the set is named, it is a mistake
    for words in (["+suite=micro"], ["dataset=scenes"]):
        with pytest.raises(ConfigError, match=r"unknown option dataset\.root"):
            plan_grid([*words, "method=linear", root])


def test_a_suite_brings_its_task_unless_one_is_named() -> None:
    assert values(["+suite=dense", "method=linear"], "task") == {"segmentation"}
    assert values(["+suite=dense", "task=depth", "dataset=scenes"], "task") == {"depth"}
    assert not any(word.startswith("task=") for word in expanded(["+suite=micro"]))
    with pytest.raises(ConfigError, match="suites of different tasks"):
        expanded(["+suite=dense,micro"])


def test_a_problem_of_some_choices_names_them() -> None:
    with pytest.raises(ConfigError, match=r"optim\.warmup_epochs .* must be smaller .* \(train=default\)$"):
        plan_grid(["dataset=digits", "backbone=vit_micro", "method=lora", "train=smoke,default", "train.epochs=2"])
