"""Every shipped yaml composes and passes the gate; identities leave out places and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from omegaconf import DictConfig

from peftbench.cells.cell import plan
from peftbench.config.choices import choices_of
from peftbench.config.gate import RunConfig, as_tree, config_dir, to_run_config, without_locations
from peftbench.config.overrides import word_problems
from peftbench.config.words import problems_of
from peftbench.foundation.errors import ConfigError, MissingInput
from tests.composing import gate

SECTIONS = ["backbone", "dataset", "protocol", "optim", "train", "runtime", "tune", "method", "objective"]
CHOICES = [(group, choice) for group in SECTIONS for choice in choices_of(config_dir() / group)]
# what a choice cannot do without
NEEDS = {
    ("backbone", "timm"): ["backbone.model=vit_tiny_patch16_224"],
    ("backbone", "vit_b16_in21k_npz"): ["backbone.checkpoint=x.npz"],
    ("backbone", "sam_b"): ["backbone.checkpoint=x.pth"],
    ("backbone", "videomae_b16"): ["backbone.checkpoint=x.pth"],
    ("backbone", "video_swin_b"): ["backbone.checkpoint=x.pth"],
}


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_shipped_choice_passes_the_gate(group, choice):
    words = [f"{group}={choice}", *NEEDS.get((group, choice), [])]
    if (group, choice) == ("dataset", "cifar10_parquet") or (group, choice) == ("dataset", "hf"):
        words.append("dataset.path=somewhere")
    config, _ = gate(*words)
    assert isinstance(config, RunConfig)
    assert (config_dir() / group / f"{choice}.yaml").read_text().startswith("# @package")


def test_the_default_cell_is_the_linear_probe_on_digits():
    config, runtime = gate()
    assert (config.method.name, config.dataset.label, config.backbone.title) == ("linear", "digits", "vit_micro")
    assert config.train.epochs == 100 and config.protocol.train_split == "train800val200"
    assert runtime.results == "results"


def test_a_methods_yaml_may_set_its_own_rate_and_the_command_line_wins():
    assert gate("method=full")[0].optim.lr == 1e-3
    assert gate("method=full", "optim.lr=3e-4")[0].optim.lr == 3e-4
    short = gate("method=lora", "train=short")[0].optim
    assert (short.lr, short.warmup_epochs) == (5e-3, 0.5)
    assert gate("method=full", "train=short")[0].optim.lr == 1e-3


@pytest.mark.parametrize("name", ["cara", "cvpt", "glora", "lora_vpt", "vapt"])
def test_methods_whose_releases_decay_all_that_trains_do_so_here(name):
    assert gate(f"method={name}")[0].optim.decay_vectors and not gate("method=lora")[0].optim.decay_vectors


def test_the_tree_of_a_configuration_gives_the_same_configuration():
    config, runtime = gate("method=lora", "method.targets=[q,k,v,fc1]", "seed=3")
    from omegaconf import OmegaConf

    assert to_run_config(OmegaConf.create(as_tree(config, runtime))) == (config, runtime)


def test_identity_ignores_places_devices_and_the_order_of_words():
    first = plan(gate("method=lora", "seed=1")[0])
    second = plan(gate("seed=1", "method=lora", "runtime.threads=1", "runtime.results=elsewhere")[0])
    assert first.fingerprint == second.fingerprint
    assert "location" not in str(first.identity) and "results" not in str(first.identity)


@pytest.mark.parametrize(
    "word",
    [
        "seed=1",
        "method.rank=4",
        "optim.lr=0.5",
        "train.epochs=70",
        "protocol.normalise=imagenet",
        "dataset=shapes_count",
        "backbone.img_size=64",
    ],
)
def test_whatever_can_change_a_number_changes_the_fingerprint(word):
    assert plan(gate("method=lora")[0]).fingerprint != plan(gate("method=lora", word)[0]).fingerprint


def test_a_checkpoint_counts_by_content_not_by_place(tmp_path):
    contents = {"one": b"a", "two": b"a", "three": b"b"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    prints = {name: plan(gate(f"backbone.checkpoint={tmp_path / name}")[0]).fingerprint for name in contents}
    assert prints["one"] == prints["two"] != prints["three"]
    with pytest.raises(MissingInput, match=r"backbone\.checkpoint"):
        plan(gate(f"backbone.checkpoint={tmp_path / 'none'}")[0])


def test_records_keep_no_places():
    config, runtime = gate("dataset=vtab/dtd", "dataset.root=somewhere", "backbone.checkpoint=file.pth")
    kept = without_locations(as_tree(config, runtime), config)
    assert "root" not in kept["dataset"] and "checkpoint" not in kept["backbone"] and "runtime" not in kept
    assert kept["dataset"]["task"] == "dtd"


def test_all_problems_come_at_once():
    with pytest.raises(ConfigError) as caught:
        gate("method=lora", "method.rank=0", "method.alfa=2", "train.epochs=many", "protocol.val_split=val200")
    problems = caught.value.problems
    assert len(problems) == 4
    assert any("method.alfa" in line and "'alpha'" in line for line in problems)
    assert any("val200 does not go with" in line for line in problems)


def test_a_missing_value_is_named():
    with pytest.raises(ConfigError, match=r"backbone\.model must name a timm model"):
        gate("backbone=timm")


def test_words_are_checked_before_hydra():
    sections = [*SECTIONS, "seed"]
    words = ["method=lora,ssf", "seed=0,1", "method.rank=4", "+train.x=1"]
    assert word_problems(words, config_dir(), sections, sweep=True) == []
    problems = word_problems(["method=lora,sff", "datset=digits"], config_dir(), sections, sweep=True)
    assert len(problems) == 2 and "'ssf'" in problems[0] and "'dataset'" in problems[1]


def test_specs_are_frozen():
    config, _ = gate()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.train.epochs = 1


def test_configs_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (config_dir() / "config.yaml").is_file() and Path(config_dir()).is_absolute()


def test_no_objective_leaves_a_cell_as_it_was_and_another_one_makes_another_cell():
    plain, named = gate("method=lora"), gate("method=lora", "objective=none")
    assert plan(plain[0]) == plan(named[0])
    cell = plan(plain[0])
    assert "objective" not in cell.identity and "objective" not in as_tree(*plain) and cell.labels["method"] == "lora"
    other = plan(gate("method=lora", "objective=gist")[0])
    assert other.fingerprint != cell.fingerprint and other.labels["method"] == "lora + gist"
    assert plan(gate("method=lora", "objective=gist", "objective.dropout=0")[0]).fingerprint != other.fingerprint


def test_a_configuration_with_an_objective_survives_its_own_tree():
    config, runtime = gate("method=lora", "objective=gist", "objective.gist_weight=0.25")
    assert to_run_config(DictConfig(as_tree(config, runtime))) == (config, runtime)
    assert without_locations(as_tree(config, runtime), config)["objective"]["gist_weight"] == 0.25


def test_an_option_without_its_section_is_shown_with_it():
    for word, written in (
        ("rank=8", "method.rank"),
        ("epochs=3", "train.epochs"),
        ("root=DIR", "dataset.root"),
    ):
        [problem] = problems_of([word])
        assert problem == f"unknown option {word.partition('=')[0]}; did you mean {written}?"
    [problem] = problems_of(["datset=digits"])
    assert "did you mean 'dataset'?" in problem
