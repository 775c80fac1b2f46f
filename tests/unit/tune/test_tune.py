"""Search space, samplers and choice of tuning, without training anything."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import timm
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.backbones.base import BackboneShape
from peftbench.backbones.build import from_timm
from peftbench.cells.cell import plan
from peftbench.config.gate import RunConfig, to_run_config
from peftbench.config.overrides import named_options
from peftbench.config.protocol import ProtocolSpec
from peftbench.config.runtime import RuntimeSpec
from peftbench.config.tuning import TuneSpec
from peftbench.contracts.backbones import installed
from peftbench.foundation.errors import ConfigError
from peftbench.foundation.metric import LOWER, Metric
from peftbench.methods.base import METHODS, MethodContractError
from peftbench.records.claims import claims_of
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from peftbench.records.trials import best_trial, choice_problems
from peftbench.tune import driver
from peftbench.tune.driver import final_config, trial_protocol
from peftbench.tune.samplers import Setting, grid, grid_levels
from peftbench.tune.samplers import settings as proposals
from peftbench.tune.space import LogAxis, SizeAxis, search_space, sizes
from tests.composing import composed
from tests.record_factory import record_values

LR = LogAxis("optim.lr", 0.001, 1e-4, 1e-2)
DECAY = LogAxis("optim.weight_decay", 1e-4, 1e-4, 1e-1)
RANK = SizeAxis("method.rank", 8, (2, 4, 8, 16, 32))


@pytest.fixture(scope="module")
def shape() -> BackboneShape:
    """Twelve small blocks."""
    return from_timm(
        timm.create_model(
            "vit_tiny_patch16_224",
            pretrained=False,
            num_classes=0,
            embed_dim=96,
            num_heads=3,
            img_size=32,
            patch_size=8,
        ),
        img_size=32,
    ).shape


def gate(*words: str) -> RunConfig:
    return to_run_config(composed(*words), named_options(list(words)))[0]


def drawn(tune: TuneSpec, axes: list, score=lambda setting: 0.5, worst: float = 0.0) -> list[Setting]:
    """All settings of a sampler that is told `score` of each."""
    sampler = proposals(tune, axes, worst)
    found = [next(sampler)]
    while True:
        try:
            found.append(sampler.send(score(found[-1])))
        except StopIteration:
            return found


def test_the_space_is_rate_decay_and_the_size_of_the_method():
    axes = search_space(gate("method=lora", "tune=random"))
    assert [axis.option for axis in axes] == ["optim.lr", "optim.weight_decay", "method.rank"]
    assert axes[2].values == (2, 4, 8, 16, 32) and axes[2].default == 8
    assert [axis.option for axis in search_space(gate("method=bitfit", "tune=random"))] == [
        "optim.lr",
        "optim.weight_decay",
    ]


def test_what_the_command_line_names_is_not_searched():
    config = gate("method=lora", "tune=random", "optim.lr=0.3", "method.rank=2")
    assert config.tune.options == ["optim.weight_decay"]
    with pytest.raises(ConfigError, match=r"tune\.options is empty"):
        gate("method=linear", "tune=random", "optim.lr=0.3", "optim.weight_decay=0")


@pytest.mark.parametrize("method", ["lora", "fourierft", "c3a", "toast", "vera"])
def test_rates_lie_around_the_method_s_own(method):
    config = gate(f"method={method}", "tune=random")
    (axis,) = [axis for axis in search_space(config) if axis.option == "optim.lr"]
    assert (axis.low, axis.high) == (0.1 * config.optim.lr, 30 * config.optim.lr)
    assert axis.default == config.optim.lr


def test_one_range_of_rates_for_all_is_taken_as_it_is_and_named():
    config = gate("method=fourierft", "tune=random", "tune.lr=[1e-4,3e-2]")
    assert [(axis.low, axis.high) for axis in search_space(config) if axis.option == "optim.lr"] == [(1e-4, 3e-2)]
    assert config.tune.label == "tuned (budget 16, random, lr=[0.0001, 0.03])"
    assert gate("method=fourierft", "tune=random").tune.label == "tuned (budget 16, random)"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["tune=randm"], "tune.strategy cannot be"),
        (["tune=random", "tune.num_trials=1"], "tune.num_trials must be at least 2"),
        (["tune=random", "tune.lr=[0.1,0.01]"], "tune.lr must be two numbers, the lower one first"),
        (["tune=random", "tune.options=[method.alpha]"], "tune.options cannot be method.alpha"),
        (["tune=random", "protocol=vtab1k_tune"], "leave protocol.val_split=null"),
        (["tune=random", "tune.trials=3"], "unknown option tune.trials"),
    ],
)
def test_wrong_words_are_named(words, part):
    if words[0] == "tune=randm":
        words = ["tune.strategy=randm"]
    with pytest.raises(ConfigError, match=part.replace(".", r"\.")):
        search_space(gate("method=lora", *words))


def test_a_size_option_that_is_none_is_named(monkeypatch):
    monkeypatch.setattr(METHODS.get("lora"), "size_option", "width")
    with pytest.raises(MethodContractError, match="size_option of lora is 'width', which is none of its options"):
        search_space(gate("method=lora", "tune=random"))


@pytest.mark.parametrize("name", METHODS.names())
def test_the_size_option_changes_what_a_method_trains(name, shape):
    cls = METHODS.get(name)
    if not cls.size_option or cls.of_pairs:
        return
    values = sizes(cls(), TuneSpec().size_factors)
    assert getattr(cls(), cls.size_option) in values and len(values) >= 3
    methods = [cls(**{cls.size_option: value}) for value in values]
    counts = [method.expected_params(shape) for method in methods]
    if None in counts:
        # how much trains depends on what the method finds
        counts = [sum(tensor.numel() for _, tensor in installed(method, "vit_cls").trainable) for method in methods]
    assert counts == sorted(set(counts)), "a larger size trains more"


@pytest.mark.parametrize(
    ("num", "axes", "levels"),
    [
        (1, [LR, DECAY], [1, 1]),
        (4, [LR, DECAY], [2, 2]),
        (4, [LR, DECAY, RANK], [2, 1, 2]),
        (8, [LR, DECAY, RANK], [2, 2, 2]),
        (15, [LR, DECAY, RANK], [3, 2, 2]),
        (15, [LR, DECAY], [5, 3]),
        (3, [DECAY], [3]),
        (1000, [RANK], [5]),
    ],
)
def test_a_grid_grows_evenly_with_the_rate_first(num, axes, levels):
    assert grid_levels(axes, num) == levels


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.permutations([LR, DECAY, RANK]), st.integers(1, 3))
def test_a_grid_is_full_distinct_and_within_its_budget(num, order, count):
    axes = order[:count]
    found = [tuple(setting.values()) for setting in grid(axes, num)]
    levels = grid_levels(axes, num)
    assert len(found) == len(set(found)) == np.prod(levels) <= num
    values = [sorted({point[i] for point in found}) for i in range(count)]
    assert sorted(found) == sorted(itertools.product(*values))


@pytest.mark.parametrize("strategy", ["grid", "random", "optuna"])
def test_every_strategy_starts_with_the_default_and_keeps_budget_and_bounds(strategy):
    if strategy == "optuna":
        pytest.importorskip("optuna")
    tune = TuneSpec(strategy=strategy, num_trials=9)
    axes = [LR, DECAY, RANK]
    found = drawn(tune, axes)
    assert found[0] == {"optim.lr": 0.001, "optim.weight_decay": 1e-4, "method.rank": 8}
    assert len(found) == 9
    assert all(1e-4 <= s["optim.lr"] <= 1e-2 and 1e-4 <= s["optim.weight_decay"] <= 0.1 for s in found)
    assert {s["method.rank"] for s in found} <= {2, 4, 8, 16, 32}
    assert found == drawn(tune, axes)
    other = drawn(TuneSpec(strategy=strategy, num_trials=9, seed=1), axes)
    assert (other == found) == (strategy == "grid")


def test_random_search_shares_its_points_between_methods_and_budgets():
    long = drawn(TuneSpec(strategy="random", num_trials=8), [LR, DECAY, RANK])
    short = drawn(TuneSpec(strategy="random", num_trials=5), [LR, DECAY])
    assert [s["optim.lr"] for s in short] == [s["optim.lr"] for s in long[:5]]
    assert [s["optim.weight_decay"] for s in short] == [s["optim.weight_decay"] for s in long[:5]]


def test_optuna_follows_the_scores_and_lives_with_diverged_trials():
    pytest.importorskip("optuna")
    tune = TuneSpec(strategy="optuna", num_trials=24)

    def score(setting: Setting) -> float | None:
        # the best rate is 5e-4; the upper part of the range diverges
        return None if setting["optim.lr"] > 5e-3 else 1 - abs(np.log10(setting["optim.lr"] / 5e-4))

    late = [s["optim.lr"] for s in drawn(tune, [LR, DECAY], score)[12:]]
    blind = [s["optim.lr"] for s in drawn(TuneSpec(strategy="random", num_trials=24), [LR, DECAY])[12:]]
    assert np.mean([abs(np.log10(lr / 5e-4)) for lr in late]) < np.mean([abs(np.log10(lr / 5e-4)) for lr in blind])
    # of errors, which are told as negative numbers, none is as bad as a training that diverged
    worst = Metric("rmse", LOWER).worst
    errors = drawn(tune, [LR, DECAY], lambda setting: None if (found := score(setting)) is None else found - 3, worst)
    assert [s["optim.lr"] for s in errors[12:]] == pytest.approx(late)


@pytest.mark.parametrize(
    ("accuracies", "best"),
    [([0.5, 0.7, 0.6], 1), ([0.7, 0.7], 0), ([None, 0.1], 1), ([0.2, None, 0.2], 0), ([None, None], None), ([], None)],
)
def test_the_choice_is_the_highest_accuracy_the_earliest_of_equals(accuracies, best):
    assert best_trial(accuracies) == best


def test_trials_follow_the_shipped_protocol_for_choosing():
    assert trial_protocol(gate().protocol) == gate("protocol=vtab1k_tune").protocol


def test_a_tuned_cell_is_known_before_its_choice_and_apart_from_the_untuned_one():
    tuned = gate("method=lora", "tune=random", "tune.num_trials=4")
    assert tuned.needs_tuning
    assert plan(tuned).identity["tune"]["num_trials"] == 4
    assert plan(tuned).fingerprint != plan(gate("method=lora")).fingerprint
    chosen = final_config(tuned, {"optim.lr": 0.02, "optim.weight_decay": 0.01, "method.rank": 32})
    assert (chosen.optim.lr, chosen.method.rank, chosen.needs_tuning) == (0.02, 32, False)
    assert plan(chosen).fingerprint == plan(tuned).fingerprint
    assert plan(chosen).labels["method"] == "lora"
    assert tuned.tune.label == "tuned (budget 4, random)"
    assert TuneSpec(strategy="grid", seed=1).label == "tuned (budget 16, grid, seed=1)"


def tuned_records() -> tuple[RunRecord, dict[str, RunRecord]]:
    """A reported record that was tuned by three trials, and the trials' own; the second trial diverged."""
    records, trials = {}, []
    for lr, correct in ((0.001, 120), (0.1, None), (0.01, 150)):
        values = record_values(accuracy=None, protocol="vtab1k_tune", options={"optim": {"lr": lr}})
        if correct is not None:
            scores = {"accuracy": correct / 200, "mean_class_accuracy": 0.5, "loss": 1.0, "correct": correct, "n": 200}
            values["metrics"]["val"] = scores
            values["data"]["splits"]["val"] = {"name": "val200", "n": 200, "digest": "v"}
            records[values["fingerprint"]] = RunRecord(**values)
        accuracy = None if correct is None else correct / 200
        trials.append({"fingerprint": values["fingerprint"], "setting": {"optim.lr": lr}, "val_accuracy": accuracy})
    final = record_values(tuning={"label": "tuned", "trials": trials, "chosen": trials[2]["fingerprint"]})
    final["config"]["optim"] = {"lr": 0.01}
    return RunRecord(**final), records


def test_a_choice_is_recomputed_from_the_records_of_the_trials():
    final, records = tuned_records()
    assert choice_problems(final, records) == []


def test_a_choice_that_does_not_follow_is_said():
    final, records = tuned_records()
    final.config["optim"]["lr"] = 0.02
    assert choice_problems(final, records) == ["the chosen trial has optim.lr=0.01, the reported run 0.02"]
    final.tuning["chosen"] = final.tuning["trials"][0]["fingerprint"]
    assert [line.split(" ")[:3] for line in choice_problems(final, records)] == [["the", "trials", "choose"]]
    first = final.tuning["trials"][0]["fingerprint"]
    records[first].metrics["val"] |= {"accuracy": 0.9}
    assert any("its record says val 0.9" in line for line in choice_problems(final, records))
    del records[first]
    assert any(f"({first}) has no record here" in line for line in choice_problems(final, records))


def test_a_trial_that_another_worker_holds_is_waited_for_and_not_run_twice(tmp_path, monkeypatch):
    store, config = Store(tmp_path), gate("method=linear")
    record = next(iter(tuned_records()[1].values()))
    trial = dataclasses.replace(plan(config), fingerprint=record.fingerprint, labels=record.labels)
    claim = claims_of(store).take(trial.fingerprint)
    waited: list[float] = []

    def other_worker_finishes(seconds: float) -> None:
        waited.append(seconds)
        store.put(record)
        claim.release()

    monkeypatch.setattr("time.sleep", other_worker_finishes)
    monkeypatch.setattr(driver, "run_cell", lambda *_: pytest.fail("the trial was run a second time"))
    assert driver._measured(trial, RuntimeSpec(progress=False), store) == (record.metrics["val"]["accuracy"], True)
    assert len(waited) == 1


@pytest.mark.parametrize(
    ("protocol", "splits"),
    [
        (ProtocolSpec(), ("train800", "val200")),
        (ProtocolSpec(title="full", train_split="trainval"), ("train", "val")),
        (ProtocolSpec(title="few", train_split="fewshot", shots=4), ("fewshot", "fewshot_val")),
    ],
    ids=["vtab1k", "full", "fewshot"],
)
def test_trials_measure_on_validation_images_of_the_same_size_of_dataset(protocol, splits):
    trial = trial_protocol(protocol)
    assert (trial.train_split, trial.val_split) == splits
    assert (trial.report_test, trial.shots) == (False, protocol.shots)


def test_a_trial_without_a_record_is_run_once_under_its_own_claim(tmp_path, monkeypatch):
    store = Store(tmp_path)
    record = next(iter(tuned_records()[1].values()))
    trial = dataclasses.replace(plan(gate("method=linear")), fingerprint=record.fingerprint, labels=record.labels)
    run: list[str] = []

    def run_cell(cell, *_):
        assert claims_of(store).take(cell.fingerprint) is None, "others must see that the trial is being run"
        run.append(cell.fingerprint)
        return record

    monkeypatch.setattr(driver, "run_cell", run_cell)
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("the trial waits for its own claim"))
    assert driver._measured(trial, RuntimeSpec(progress=False), store) == (record.metrics["val"]["accuracy"], False)
    assert run == [record.fingerprint] and claims_of(store).holder(record.fingerprint) is None


def test_a_trial_that_another_host_recorded_first_is_taken_from_its_record(tmp_path, monkeypatch):
    store = Store(tmp_path)
    record = next(iter(tuned_records()[1].values()))
    trial = dataclasses.replace(plan(gate("method=linear")), fingerprint=record.fingerprint, labels=record.labels)

    def slower(*_):
        store.put(record)
        store.put(record)

    monkeypatch.setattr(driver, "run_cell", slower)
    assert driver._measured(trial, RuntimeSpec(progress=False), store)[0] == record.metrics["val"]["accuracy"]
