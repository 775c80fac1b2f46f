"""The words of a sweep before Hydra sees them."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftbench.foundation.errors import ConfigError
from peftbench.methods.base import METHODS
from peftbench.sweep.grid import expanded, plan_grid
from peftbench.sweep.plan import Plan
from peftbench.sweep.summary import left_out_lines


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


def test_all_methods_go_without_those_that_refuse_what_others_take() -> None:
    words = ["method=all", "dataset=digits", "protocol.merge=true", "seed=0,1"]
    plan, _ = plan_grid(words)
    left_out = dict(plan.left_out)
    chosen = {word for cell in plan.cells for word in cell.words if word.startswith("method=")}
    assert "method=lora" in chosen and "method=vpt_deep" not in chosen
    assert left_out["vpt_deep"] == "protocol.merge=true: vpt_deep does not fold exactly; leave it unmerged"
    assert not chosen & {f"method={method}" for method in left_out}
    # named by the user, they end the sweep as before; so does what no method takes, and an option that few have
    with pytest.raises(ConfigError, match="vpt_deep does not fold"):
        plan_grid(["method=lora,vpt_deep", *words[1:]])
    with pytest.raises(ConfigError, match="batch_size"):
        plan_grid([*words, "train.batch_size=0"])
    with pytest.raises(ConfigError, match=r"unknown option method\.rank"):
        plan_grid([*words, "method.rank=4"])


def test_of_a_method_that_goes_in_part_the_combination_is_left_out() -> None:
    plan, _ = plan_grid(["method=all", "dataset=digits", "train.compile=true,false"])
    assert [name.lower() for name, _ in plan.left_out] == ["pro_vpt train.compile=true"]
    assert sum("method=pro_vpt" in cell.words for cell in plan.cells) == 1


def test_the_left_out_are_told_with_a_reason(tmp_path: Path) -> None:
    one = [("pro_vpt", "set train.compile=false")]
    assert left_out_lines(one) == ["method=all without pro_vpt: set train.compile=false"]
    assert left_out_lines([*one, ("b", "y")])[1] == "method=all without b: y"
    (line,) = left_out_lines([(name, f"{name} does not fold") for name in "abcd"])
    assert line == "method=all without 4 methods, each for a reason like the first's (a does not fold): a, b, c, d"
    assert left_out_lines([]) == []
    plan = Plan("x", [], [], one)
    assert Plan.read(plan.write(tmp_path)) == plan
