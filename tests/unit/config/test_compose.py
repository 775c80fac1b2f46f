"""Trees composed here are those of Hydra, for every yaml file and for the words people write."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftbench.cells.cell import plan
from peftbench.config.choices import choices_of, content
from peftbench.config.compose import BroughtAlong, Composer, NeedsHydra, Trees, by_hydra
from peftbench.config.gate import Builder, config_dir, from_tree, plain_tree, schema
from peftbench.config.overrides import named_options
from peftbench.config.shipped import shipped_options
from peftbench.foundation.errors import ConfigError
from peftbench.sweep.grid import plan_grid
from peftbench.train.options import schedule_problems

GROUPS = ("method", "dataset", "protocol", "train", "backbone", "optim", "objective", "tune", "launcher", "runtime")
CHOICES = {group: choices_of(config_dir() / group) for group in GROUPS}
# laid over the choices in turn: an option of every kind of value, some of which a method, recipe or preset sets as well
WORDS = (
    [],
    ["optim.lr=0.02", "seed=3"],
    ["train.epochs=7", "optim.betas=[0.8,0.95]", "optim.clip_norm=null"],
    ["hparams=osu", "train.compile=false"],
    ["optim.warmup_lr=1e-7", "optim.warmup_epochs=2", "runtime.results='a folder'"],
    ["hparams=paper", "train.augment=flip", "optim.weight_decay=0", "protocol.crop_pct=0.875"],
    ["backbone.img_size=64", "runtime.cache=null", "tune.lr=[1e-4,1e-2]", "hparams.filled={a:1}"],
)
COMBINATIONS = [
    [*(f"{group}={CHOICES[group][i % len(CHOICES[group])]}" for group in GROUPS), *WORDS[i % len(WORDS)]]
    for i in range(max(map(len, CHOICES.values())))
]
ON_DIGITS = ["dataset=digits", "protocol=vtab1k", "backbone=vit_micro"]


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer(config_dir(), schema)


@pytest.fixture(scope="module")
def trees() -> Trees:
    return Trees()


def test_every_file_of_every_group_is_in_the_sample() -> None:
    words = {word for words in COMBINATIONS for word in words}
    assert words >= {f"{group}={choice}" for group in GROUPS for choice in CHOICES[group]}


def test_methods_of_coops_line_have_its_optimiser_from_one_file(trees: Trees) -> None:
    own = {name: value for name, value in content("optim", "coop").items() if name != "defaults"}
    assert own["schedule"] == "epochs" and trees.of(["method=coop"])["optim"].items() >= own.items()
    assert trees.of(["method=maple", "optim=sgd"])["optim"].items() >= (own | {"lr": 0.0035}).items()
    # tables, which read the files, know it as well
    assert shipped_options()["method/maple"]["optim"] == own | {"lr": 0.0035}


@pytest.mark.slow
@pytest.mark.parametrize("words", COMBINATIONS, ids=lambda words: words[0])
def test_a_tree_is_that_of_a_whole_composition_by_hydra(words: list[str], trees: Trees) -> None:
    try:
        expected = plain_tree(by_hydra(words))
    except ConfigError as error:
        with pytest.raises(ConfigError) as caught:
            trees.of(words)
        # what a method brings along is looked at first
        assert isinstance(caught.value, BroughtAlong) or caught.value.problems == error.problems
        return
    if expected["objective"]["name"] not in ("none", *(word.removeprefix("objective=") for word in words)):
        # Hydra would lay the options of one objective over those of another
        with pytest.raises(ConfigError, match="brings objective="):
            trees.of(words)
        return
    tree = trees.of(words)
    assert tree == expected and list(tree) == list(expected)
    assert [list(values) for values in tree.values() if isinstance(values, dict)] == [
        list(values) for values in expected.values() if isinstance(values, dict)
    ]


@pytest.mark.parametrize(
    ("words", "left_out"),
    [
        (["method=promptsrc", "objective=gist"], "objective=gist"),
        (["method=prograd", "objective=none"], "objective=none"),
        (["method=coop", "task=retrieval"], "task=retrieval"),
    ],
    ids=str,
)
def test_a_part_that_a_method_brings_along_is_not_replaced(words: list[str], left_out: str, trees: Trees) -> None:
    with pytest.raises(ConfigError, match=f"leave out {left_out}"):
        trees.of(words)
    from_tree(trees.of([word for word in words if word != left_out]))
    assert trees.of(["method=coop", "objective=kgcoop"])["objective"]["name"] == "kgcoop"


@pytest.mark.parametrize("name", choices_of(config_dir() / "method"))
def test_every_method_has_options_of_its_own_alone_and_room_in_a_short_training(name: str, trees: Trees) -> None:
    config, _ = from_tree(trees.of([f"method={name}", "train=smoke"]))
    assert not schedule_problems(config.optim, config.train)


def test_what_takes_no_step_needs_no_room_for_a_warm_up(trees: Trees) -> None:
    for name in ("zero_shot", "tip_adapter", "clip_linear_probe"):
        config, _ = from_tree(trees.of([f"method={name}", "train.epochs=2"]))
        assert config.optim.warmup_epochs > config.train.epochs == 2
    with pytest.raises(ConfigError, match="warmup_epochs"):
        from_tree(trees.of(["method=linear", "train.epochs=2"]))


@pytest.mark.parametrize(
    ("words", "left_out"),
    [
        (["dataset=digits", "objective=gist"], ["dpt", "sa2vp"]),
        (["dataset=scenes", "task=segmentation"], ["coop", "uniadapter"]),
    ],
    ids=str,
)
def test_all_methods_are_those_that_bring_nothing_else_along(words: list[str], left_out: list[str]) -> None:
    grid, _ = plan_grid(["method=all", *words])
    planned = {cell.config["method"]["name"] for cell in grid.cells}
    assert "lora" in planned and planned.isdisjoint(left_out)


@pytest.mark.parametrize(
    ("words", "epochs", "lr", "size"),
    [
        (["dataset=moving_shapes", "method=lora"], 3, 0.003, 16),
        (["train=short", "dataset=camera_motion", "method=lora"], 5, 0.005, 16),
        (["dataset=moving_shapes", "train.epochs=9", "backbone=vit_small_dinov2"], 9, 0.01, 224),
        (["dataset=moving_shapes", "method=full", "backbone.img_size=32"], 3, 0.001, 32),
        (["dataset=digits", "method=lora"], 100, 0.001, None),
    ],
    ids=str,
)
def test_drawn_clips_take_their_recipe_and_size_unless_words_name_another(
    words: list[str], epochs: int, lr: float, size: int | None, trees: Trees, composer: Composer
) -> None:
    tree = composer.tree(words)
    assert (tree["train"]["epochs"], tree["optim"]["lr"], tree["backbone"]["img_size"]) == (epochs, lr, size)
    assert tree == plain_tree(by_hydra(words)) and trees.of(words) == tree


@pytest.mark.parametrize("number", range(len(CHOICES["method"])), ids=lambda number: CHOICES["method"][number])
def test_a_cell_planned_in_outline_is_the_cell_planned_in_full(number: int, trees: Trees) -> None:
    words = [f"method={CHOICES['method'][number]}", *ON_DIGITS]
    words += [f"train={CHOICES['train'][number % 3]}"]
    if "@objective" not in (config_dir() / "method" / f"{CHOICES['method'][number]}.yaml").read_text():
        # some methods bring their own
        words += [f"objective={CHOICES['objective'][number % 3]}"]
    words += [["optim.lr=0.004", "seed=2"], ["tune=random"], ["optim=sgd"]][number % 3]
    named = named_options(words)
    outlined, _ = from_tree(trees.of(words), named, Builder(outline=True))
    whole, _ = from_tree(trees.of(words), named)
    first, second = plan(outlined), plan(whole)
    assert type(outlined.method) is not type(whole.method)
    assert (first.fingerprint, first.identity, first.labels) == (second.fingerprint, second.identity, second.labels)


def test_a_grid_holds_the_cells_of_whole_compositions_one_by_one(tmp_path: Path) -> None:
    common = [f"runtime.results={tmp_path}", "train=short"]
    grid, _ = plan_grid(["method=lora,krona_b,compacter", "dataset=digits,shapes_count", "seed=0,1", *common])
    expected = {
        plan(from_tree(plain_tree(by_hydra(words)))[0]).fingerprint
        for method in ("lora", "krona_b", "compacter")
        for dataset in ("digits", "shapes_count")
        for words in [[f"method={method}", f"dataset={dataset}", *common, f"seed={seed}"] for seed in (0, 1)]
    }
    assert {cell.fingerprint for cell in grid.cells} == expected and len(expected) == 12


@pytest.mark.parametrize(
    "word", ["~runtime", "+train.x=1", "train.x=1", "++train.epochs=3", "dataset@method=digits", "optim.lr=???"]
)
def test_words_that_only_hydra_understands_are_left_to_it(word: str, composer: Composer) -> None:
    with pytest.raises(NeedsHydra):
        composer.tree([word])


def test_an_interpolation_between_sections_takes_the_seed_of_each_cell(trees: Trees) -> None:
    words = ["runtime.wandb_project='cell-${seed}'"]
    assert [trees.of(words, seed)["runtime"]["wandb_project"] for seed in (3, 5)] == ["cell-3", "cell-5"]


def test_trees_do_not_change_each_other(trees: Trees) -> None:
    trees.of(["method=lora", "optim.betas=[0.1,0.2]", "tune.lr=[1e-3,1e-2]"])
    assert trees.of(["method=lora"])["optim"]["betas"] == [0.9, 0.999]
