"""The table of published hyperparameters, and what a preset does to a configuration."""

from __future__ import annotations

import csv
import dataclasses
import re
import typing
from typing import Any

import pytest
from omegaconf import OmegaConf

from peftbench.cells.cell import plan
from peftbench.config.gate import RunConfig, as_tree, to_run_config
from peftbench.config.overrides import named_options
from peftbench.config.presets import ALL, published_values
from peftbench.data.vtab.tasks import VTAB_TASKS, canonical_task
from peftbench.foundation.errors import ConfigError
from peftbench.foundation.spec import build
from peftbench.methods.base import METHODS
from peftbench.train.options import OptimSpec, TrainSpec
from tests.composing import composed
from tests.record_factory import make_record

ROWS = published_values()
SECTIONS = {"optim": OptimSpec, "train": TrainSpec}


def gate(*words: str) -> RunConfig:
    return to_run_config(composed(*words), named_options(list(words)))[0]


def values_of(preset: str, method: str, dataset: str) -> dict[str, str]:
    return {
        row.option: row.value
        for row in ROWS
        if (row.preset, row.method) == (preset, method) and row.dataset in (dataset, ALL) and row.option
    }


def test_a_list_of_words_is_read_as_one() -> None:
    config = gate("method=spt_lora", "dataset=vtab/dtd", "hparams=paper")
    assert config.optim.undecayed == ["cls_token"] and config.hparams.filled["optim.undecayed"] == ["cls_token"]


def test_values_for_all_tasks_are_for_no_other_data() -> None:
    with pytest.raises(ConfigError, match=r"no values for spt_lora on digits; it has them for the tasks .*cifar100"):
        gate("method=spt_lora", "dataset=digits", "hparams=paper")


@pytest.mark.parametrize(("preset", "method"), sorted({(row.preset, row.method) for row in ROWS}))
def test_a_record_takes_what_a_preset_says_of_itself(preset: str, method: str) -> None:
    """It is written behind the training: one that is refused there has cost the whole cell."""
    [task, *_] = sorted({row.dataset for row in ROWS if (row.preset, row.method) == (preset, method)} - {ALL}) or [
        "dtd"
    ]
    spec = gate(f"method={method}", f"dataset=vtab/{task}", f"hparams={preset}").hparams
    said = {"label": spec.label, **dataclasses.asdict(spec)}
    assert make_record(hparams=said).hparams == said
    assert spec.chosen_on in spec.label or (spec.chosen_on == "fixed" and "the same for all tasks" in spec.label)


def test_what_is_the_same_for_all_tasks_says_so() -> None:
    spec = gate("method=spt_adapter", "dataset=vtab/dtd", "hparams=paper").hparams
    assert spec.chosen_on == "fixed"
    assert spec.label == "published hyperparameters (paper, the same for all tasks)"
    assert spec.lines()[0].endswith(" (the same for all tasks)")


def test_prompts_of_cvpt_are_as_many_as_its_release_takes() -> None:
    config = gate("method=cvpt", "dataset=vtab/caltech101", "hparams=paper")
    assert (config.method.num_tokens, config.method.dropout) == (200, 0.1)
    assert config.optim.decay_vectors and config.train.drop_path == 0.1 and config.train.batch_size == 32
    assert config.hparams.chosen_on == "test" and config.hparams.unused[1:] == ["seed=800 for this task"]
    assert "which train.py does not read" in config.hparams.unused[0]


def test_what_all_tasks_of_a_release_share_is_set() -> None:
    assert gate("method=hydra", "dataset=vtab/dtd", "hparams=paper").train.drop_path == 0.1
    assert gate("method=vpt_shallow", "dataset=vtab/dtd", "hparams=osu").method.dropout == 0.1
    unused = gate("method=adapter_houlsby", "dataset=vtab/dtd", "hparams=osu").hparams.unused
    assert any("adapter_init=xavier" in words for words in unused)


@pytest.mark.shared
def test_all_950_values_of_the_osu_study_are_in_the_table(shared):
    with (shared / "reference" / "tuned_hparams_osu.csv").open(newline="") as stream:
        published = {
            (row["method"], canonical_task(row["dataset"]), f"{row['hyperparameter']}={row['value']}")
            for row in csv.DictReader(stream)
        }
    assert len(published) == 950
    ours = {
        (row.method, row.dataset, row.published)
        for row in ROWS
        if row.preset == "osu" and row.dataset != ALL and row.method != "lora_qkv_shared"
    }
    assert ours == published
    # conv_init is the one value that is spelt another way here; all others stand as printed
    for row in ROWS:
        if row.preset == "osu" and row.dataset != ALL and row.option != "method.conv_init":
            assert row.value == row.published.partition("=")[2]


@pytest.mark.shared
def test_the_papers_values_are_those_of_the_specification(shared):
    text = (shared / "spec" / "methods.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| smallnorb_azi (18)")]
    cells = [cell.strip() for cell in lines[0].strip("|").split("|")]
    scale, init = cells[1].split(", ")
    convpass = values_of("paper", "convpass", "smallnorb_azi")
    assert (convpass["method.scale"], convpass["method.conv_init"]) == (scale, init)
    hydra = values_of("paper", "hydra", "smallnorb_azi")
    names = ("method.scale", "optim.lr", "method.dropout", "train.batch_size")
    assert ",".join(hydra[name] for name in names) == cells[5]
    assert values_of("paper", "gps", "smallnorb_azi")["optim.lr"] == cells[9].split(",")[0]


@pytest.mark.shared
def test_the_widths_of_adapter_plus_are_those_of_the_specification(shared):
    text = (shared / "spec" / "methods_2.md").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("* Per-task widths of the 1-32 run")]
    widths = line.partition("row):")[2].partition("Fixed")[0]
    printed = [int(number) for number in re.findall(r"[a-z]+ (\d+)", widths)]
    assert printed == [int(values_of("paper", "adapter_plus", task)["method.bottleneck"]) for task in VTAB_TASKS]
    config = gate("method=adapter_plus", "dataset=vtab/resisc45", "hparams=paper")
    assert (config.method.bottleneck, config.train.drop_path, config.optim.warmup_lr) == (32, 0.1, 1e-5)


@pytest.mark.parametrize(("task", "size"), [("dtd", 16), ("svhn", 32)])
def test_gps_scores_the_batches_that_it_trains_with(task, size):
    config = gate("method=gps", f"dataset=vtab/{task}", "hparams=paper")
    assert config.method.batch_size == config.train.batch_size == size and config.method.whole_batches


def test_every_row_is_whole():
    for row in ROWS:
        assert row.preset in ("osu", "paper") and row.source and row.published
        assert row.dataset == ALL or row.dataset in VTAB_TASKS
        # Adapter+'s release does not say on what its widths were chosen
        papers = "an unsaid split" if row.method == "adapter_plus" else "test"
        assert row.chosen_on == ("fixed" if row.dataset == ALL else {"osu": "val", "paper": papers}[row.preset])
        assert bool(row.option) == bool(row.value)
    keys = [(row.preset, row.method, row.dataset, row.option) for row in ROWS if row.option]
    assert len(keys) == len(set(keys)), "an option is set twice"


@pytest.mark.parametrize("method", sorted({row.method for row in ROWS} & set(METHODS.names())))
def test_every_value_is_one_that_its_option_accepts(method):
    for preset in ("osu", "paper"):
        for dataset in {row.dataset for row in ROWS if (row.preset, row.method) == (preset, method)} - {ALL}:
            sections: dict[str, dict[str, Any]] = {"method": {}, "optim": {}, "train": {}}
            for name, value in values_of(preset, method, dataset).items():
                section, _, option = name.partition(".")
                sections[section][option] = {"true": True}.get(value, value)
            build(METHODS.get(method), sections["method"])
            assert build(OptimSpec, sections["optim"]).lr > 0
            build(TrainSpec, sections["train"])


def test_a_preset_fills_what_the_command_line_does_not_name():
    config = gate("method=lora", "dataset=vtab/dsprites_loc", "hparams=osu")
    published = values_of("osu", "lora", "dsprites_loc")
    assert config.method.rank == int(published["method.rank"]) == config.method.alpha
    assert (config.optim.lr, config.optim.weight_decay) == (
        float(published["optim.lr"]),
        float(published["optim.weight_decay"]),
    )
    assert config.train.drop_path == 0.1
    assert (config.hparams.preset, config.hparams.chosen_on) == ("osu", "val")
    assert config.hparams.filled["method.rank"] == config.method.rank
    assert config.hparams.replaced == {
        "train.drop_path": 0.0,
        "optim.decay_vectors": False,
        "method.rank": 8,
        "method.alpha": 8.0,
        "optim.lr": 1e-3,
        "optim.weight_decay": 1e-4,
    }


def test_biases_and_norms_decay_where_the_authors_hand_all_that_trains_to_one_adamw():
    decaying = {(row.preset, row.method) for row in ROWS if row.option == "optim.decay_vectors" and row.value == "true"}
    assert {method for preset, method in decaying if preset == "osu"} == {r.method for r in ROWS if r.preset == "osu"}
    # SSF decays the head alone; Adapter+, DTL, GPS, NOAH and SPT tell vectors apart or do not decay
    apart = {"ssf", "adapter_plus", "dtl", "dtl_plus", "gps", "noah_subnet", "spt_lora", "spt_adapter"}
    assert {m for preset, m in decaying if preset == "paper"} == {r.method for r in ROWS if r.preset == "paper"} - apart
    assert gate("method=bitfit", "dataset=vtab/dtd", "hparams=osu").optim.decay_vectors


def test_words_win_over_the_preset():
    words = ["method=lora", "dataset=vtab/dtd", "hparams=osu", "optim.lr=0.5", "method.rank=3", "train=short"]
    config = gate(*words)
    assert (config.optim.lr, config.method.rank) == (0.5, 3)
    # a group that is chosen keeps its section: the short recipe has no drop path
    assert (config.train.epochs, config.train.drop_path) == (5, 0.0)
    assert {"optim.lr", "method.rank", "train.drop_path"}.isdisjoint(config.hparams.filled)
    named = [line for line in config.hparams.unused if line.endswith("(named on the command line)")]
    assert {line.partition("=")[0] for line in named} == {"optim.lr", "method.rank", "train.drop_path"}


def test_published_values_without_an_option_here_are_listed():
    config = gate("method=hydra", "dataset=vtab/dtd", "hparams=paper")
    assert config.hparams.unused == ["cosine period of 500 epochs for 100 epochs of training"]
    assert any("cosine period" in line for line in config.hparams.lines())
    assert "chosen on test" in config.hparams.label


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["hparams=ous"], ["hparams cannot be 'ous'", "'osu'"]),
        (["method=lora", "dataset=digits", "hparams=osu"], ["no values for lora on digits", "dsprites_loc"]),
        (["method=lora", "dataset=vtab/dtd", "hparams=paper"], ["no values for lora", "convpass", "ssf"]),
        (
            ["method=lora", "dataset=vtab/dtd", "hparams=osu", "tune=random"],
            ["hparams and tune both choose hyperparameters"],
        ),
    ],
)
def test_a_preset_that_cannot_be_applied_is_one_clear_line(words, parts):
    with pytest.raises(ConfigError) as caught:
        gate(*words)
    assert len(caught.value.problems) == 1
    assert all(part in caught.value.problems[0] for part in parts)


def test_the_default_says_nothing_and_changes_no_fingerprint():
    assert plan(gate("hparams=default")).identity == plan(gate()).identity
    assert {"hparams", "tune"}.isdisjoint(plan(gate()).identity)
    assert gate().hparams.lines() == []


def test_a_preset_is_part_of_the_identity_even_where_its_values_are_the_defaults():
    config = gate("method=lora", "dataset=vtab/dtd", "hparams=osu", "train=short")
    # images that are always here, to be identified by
    config = dataclasses.replace(config, dataset=gate().dataset)
    by_hand = dataclasses.replace(config, hparams=gate().hparams)
    assert plan(config).identity == plan(by_hand).identity | {"hparams": "osu"}
    # the row of a table is the method; what the preset set per data set is not in its name
    assert (plan(config).labels["method"], plan(by_hand).labels["method"].split(" ")[0]) == ("lora", "lora")


def test_a_resolved_tree_is_not_filled_again():
    words = ["method=lora", "dataset=vtab/dtd", "hparams=osu", "optim.lr=0.5"]
    config, runtime = to_run_config(composed(*words), named_options(words))
    again = to_run_config(OmegaConf.create(as_tree(config, runtime)))
    assert again == (config, runtime)
    assert typing.cast(RunConfig, again[0]).optim.lr == 0.5
