"""Cells of few shots on the embedded pair: base to new, methods on frozen features, and another data set's classes."""

from __future__ import annotations

import pytest

from peftbench.boards.leaderboard import leaderboard
from peftbench.records.collect import collect
from peftbench.records.store import Store

PAIR = ("backbone=pair_micro", "dataset=named_shapes", "protocol=fewshot_coop", "protocol.shots=2", "seed=1")
SHORT = ("runtime.progress=false", "train.epochs=2", "train.batch_size=32", "optim.warmup_epochs=0")


def test_base_to_new_is_one_training_and_one_record_with_both_halves(run, results, capsys):
    words = (*PAIR, *SHORT, "method=coop", "method.num_tokens=2", "task.halves=true")
    assert run(*words, fast=False) == 0
    (record,) = Store(results).all()
    scores = record.metrics["test"]
    assert record.primary == "h" and record.labels["task"] == "base_to_new"
    assert scores["h"] == pytest.approx(2 * scores["base"] * scores["new"] / (scores["base"] + scores["new"]))
    # two shots of 16 of the 32 classes
    assert record.data["splits"]["train"]["n"] == 32 and 0 < scores["n_new"] < scores["n"] == 1000
    assert record.data["membership"] == "few-shot:coop-cell-seed, base classes"
    [table] = leaderboard(collect([record]))
    assert table.rows[0].beside["new"].mean == pytest.approx(100 * scores["new"])
    capsys.readouterr()
    assert run("evaluate", record.fingerprint, "--results", str(results), fast=False) == 0
    assert "reproduced exactly" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["tip_adapter", "tip_adapter_f", "clip_linear_probe", "taskres"])
def test_what_belongs_to_classes_says_nothing_of_new_ones(run, results, capsys, method):
    assert run(*PAIR, *SHORT, f"method={method}", "task.halves=true", fast=False) == 3
    assert "belongs to its classes" in capsys.readouterr().err
    assert not list(Store(results).all())


@pytest.mark.parametrize(("method", "trained"), [("tip_adapter", 0), ("clip_linear_probe", 32 * 97)])
def test_a_method_fitted_ahead_of_training_takes_no_step_and_is_restored(run, results, capsys, method, trained):
    assert run(*PAIR, *SHORT, f"method={method}", fast=False) == 0
    (record,) = Store(results).all()
    assert (record.params["method"], record.params["head"], record.curve) == (trained, 0, [])
    # more than twice chance
    assert record.metrics["test"]["accuracy"] > 2 / 32
    capsys.readouterr()
    assert run("evaluate", record.fingerprint, "--results", str(results), fast=False) == 0
    assert "reproduced exactly" in capsys.readouterr().out


def test_frozen_features_are_computed_once(run, results):
    assert run(*PAIR, *SHORT, "train.epochs=4", "method=clip_adapter", fast=False) == 0
    (record,) = Store(results).all()
    # of what three images and all texts take: the whole image tower
    assert record.cost["kept"]["share"] > 0.25 and record.cost["kept"]["bytes"] > 0


def test_what_was_learned_of_some_classes_is_measured_on_others(run, results, capsys):
    words = (*PAIR, *SHORT, "dataset.classes=seen", "method=coop", "method.num_tokens=2")
    assert run(*words, fast=False) == 0
    (record,) = Store(results).all()
    capsys.readouterr()
    other = ("dataset=named_shapes", "dataset.classes=held_out")
    assert run("evaluate", record.fingerprint, *other, "--results", str(results), fast=False) == 0
    assert "named_shapes_held_out: " in (said := capsys.readouterr().out) and "no record is made of it" in said
    assert len(list(Store(results).all())) == 1
    assert run("evaluate", record.fingerprint, "dataset=named_shape", "--results", str(results), fast=False) == 2
    assert "dataset has no choice 'named_shape'; did you mean 'named_shapes'" in capsys.readouterr().err


def test_a_head_of_its_own_classes_is_not_measured_on_others(run, results, capsys):
    assert run() == 0
    (record,) = Store(results).all()
    assert run("evaluate", record.fingerprint, "dataset=shapes_count", "--results", str(results), fast=False) == 3
    assert "task=text_classification, which reads class names" in capsys.readouterr().err
