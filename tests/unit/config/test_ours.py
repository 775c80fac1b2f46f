"""The suite's own rates: the table is what the committed trials give, and a rate is given for no other recipe."""

from __future__ import annotations

import sys

import pytest
import timm
import torch

from peftbench.backbones.families import translator
from peftbench.cells.cell import plan
from peftbench.config.gate import RunConfig, to_run_config
from peftbench.config.ours import FACTORS, TABLE, family_of, own_rates
from peftbench.config.overrides import named_options
from peftbench.foundation.errors import ConfigError
from peftbench.records.record import RunRecord
from tests.composing import composed
from tests.conftest import REPOSITORY
from tests.record_factory import record_values

sys.path.insert(0, str(REPOSITORY / "scripts"))


def gate(*words: str) -> RunConfig:
    return to_run_config(composed(*words), named_options(list(words)))[0]


def test_the_table_is_what_the_committed_trials_give():
    from own_rates import committed_trials, table

    assert TABLE.read_text(encoding="utf-8") == table(committed_trials())


def test_every_method_had_as_many_trials_around_its_own_rate():
    for row in own_rates():
        own = gate(f"method={row.method}", "train=short").optim.lr
        rates = [float(rate) for rate in row.rates.split()]
        assert rates == [float(f"{own * factor:.2g}") for factor in FACTORS], row.method
        assert float(row.lr) == float(f"{own * row.factor:.2g}"), row.method
        assert row.accuracy == max(row.accuracies.split(), key=float)


def test_trials_choose_the_best_rate_and_of_equals_the_lowest():
    from own_rates import table

    def trials(dataset="digits", **scores):
        return [trial(dataset, method, *score) for method, of_method in scores.items() for score in of_method]

    def trial(dataset, method, rate, score):
        values = record_values(method=method, backbone="vit_micro", dataset=dataset, accuracy=None)
        values["config"] |= {
            "backbone": {"model": "vit_micro_patch4_32"},
            "method": {"name": method},
            "optim": {"name": "adamw", "lr": rate},
            "train": {"epochs": 5, "batch_size": 16},
        }
        val = {"accuracy": score, "mean_class_accuracy": score, "loss": 1.0, "correct": round(200 * score), "n": 200}
        values["metrics"] = {"val": val, "test": None}
        values["data"]["splits"]["val"] = {"name": "val200", "n": 200, "digest": "d3"}
        return RunRecord(**values)

    lines = table(trials(lora=[(0.1, 0.5), (0.01, 0.7), (0.001, 0.7)], ssf=[(1.0, 0.9), (2.0, 0.2), (3.0, 0.1)]))
    chosen = [line.split(",")[1:5] for line in lines.splitlines()[1:]]
    assert chosen == [
        ["lora", "0.001", "0.001 0.01 0.1", "70.0 70.0 50.0"],
        ["ssf", "1", "1 2 3", "90.0 20.0 10.0"],
    ]
    both = trials(lora=[(0.1, 0.5), (0.01, 0.7)]) + trials("shapes_count", lora=[(0.1, 0.6), (0.01, 0.3)])
    assert table(both).splitlines()[1].split(",")[2:6] == ["0.1", "0.01 0.1", "50.0 55.0", "digits shapes_count"]
    with pytest.raises(SystemExit, match="lack or repeat"):
        table(both[:3])
    with pytest.raises(SystemExit, match="unequal budgets"):
        table(trials(lora=[(0.1, 0.5)], ssf=[(1.0, 0.9), (2.0, 0.2)]))


def test_the_rate_is_filled_and_said_and_part_of_the_identity():
    row = next(row for row in own_rates() if (row.family, row.method) == ("vit", "lora"))
    config = gate("method=lora", "train=short", "hparams=ours")
    assert config.optim.lr == float(row.lr) == config.hparams.filled["optim.lr"]
    said = config.hparams.lines()[0]
    parts = ("hparams=ours sets optim.lr=", row.accuracy, "digits, shapes_count on vit_micro")
    assert all(words in said for words in parts)
    assert "not measured" not in said
    other = gate("method=lora", "train=short", "hparams=ours", "backbone=vit_small_dinov2")
    assert "vit_small_dinov2 was not measured" in other.hparams.lines()[0]
    assert plan(config).identity["hparams"] == "ours"
    assert gate("method=lora", "train=short", "hparams=ours", "optim.lr=0.5").optim.lr == 0.5


@pytest.mark.parametrize(("family", "measured"), [("swin", "swin_micro"), ("convnext", "convnext_micro")])
def test_each_family_has_rates_of_its_own(family, measured):
    row = next(row for row in own_rates() if (row.family, row.method) == (family, "adaptformer"))
    config = gate("method=adaptformer", "train=short", "hparams=ours", f"backbone={measured}")
    assert config.optim.lr == float(row.lr) and f"on {measured}" in config.hparams.lines()[0]
    large = gate("method=adaptformer", "train=short", "hparams=ours", f"backbone={family}_b_in22k")
    assert large.optim.lr == float(row.lr) and f"{family}_b_in22k was not measured" in large.hparams.lines()[0]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["method=lora"], ["train.epochs=5", "train.epochs=100", "take train=short as it is"]),
        (["method=lora", "train=short", "train.epochs=6"], ["train.epochs=6"]),
        (["method=lora", "train=short", "objective=gist"], ["objective.name=gist: leave hparams=ours out"]),
        (["method=noah_supernet", "train=short"], ["no rate for noah_supernet on vit", "lora"]),
        (["method=vpt_deep", "train=short", "backbone=convnext_b_in22k"], ["no rate for vpt_deep on convnext", "mona"]),
    ],
)
def test_where_nothing_was_measured_one_line_says_so(words, parts):
    with pytest.raises(ConfigError) as caught:
        gate(*words, "hparams=ours")
    assert len(caught.value.problems) == 1
    assert all(part in caught.value.problems[0] for part in parts)


@pytest.mark.parametrize(
    "model", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224", "swin_tiny_patch4_window7_224", "convnext_atto"]
)
def test_names_tell_the_family_that_models_have(model):
    with torch.device("meta"):
        net = timm.create_model(model)
    assert family_of(model) == translator(net)[0]
