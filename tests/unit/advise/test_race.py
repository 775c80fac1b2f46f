"""Successive halving: equal epochs within a rung, the better third goes on, failures leave without ending it."""

from __future__ import annotations

import pytest

from peftbench.advise.race import (
    MOST_EPOCHS,
    Entry,
    Plan,
    Race,
    entries_of,
    plan_for,
    run_race,
    rung_sizes,
    smallest_plan,
)
from peftbench.foundation.errors import NotApplicable, TrainingDiverged
from peftbench.records.record import RunRecord
from tests.record_factory import record_values

PLAN = Plan((6, 2), (2, 6))
ENTRIES = [Entry(method, factor) for factor in (1.0, 0.3) for method in ("a", "b", "c")]
TALENT = {("a", 1.0): 0.5, ("a", 0.3): 0.6, ("b", 1.0): 0.7, ("b", 0.3): 0.65, ("c", 1.0): 0.2, ("c", 0.3): 0.3}


def record_of(entry: Entry, epochs: int) -> RunRecord:
    accuracy = TALENT[entry.method, entry.factor] + 0.01 * epochs
    values = record_values(
        method=entry.method, options={"optim": {"lr": 0.005 * entry.factor}, "train": {"epochs": epochs}}
    )
    correct = round(accuracy * 100)
    val = {"accuracy": accuracy, "mean_class_accuracy": accuracy, "loss": 1.0, "correct": correct, "n": 100}
    values["metrics"] = {"val": val, "test": None}
    values["data"]["splits"] |= {"val": {"name": "val", "n": 100, "digest": "v"}, "test": None}
    return RunRecord(**values | {"predictions": None})


def raced(run=record_of, too_costly=lambda record: "", late: bool = False) -> tuple[Race, list[tuple[Entry, int]]]:
    asked: list[tuple[Entry, int]] = []

    def counted(entry: Entry, epochs: int) -> RunRecord:
        asked.append((entry, epochs))
        return run(entry, epochs)

    race = Race(PLAN)
    run_race(race, ENTRIES, counted, too_costly, lambda: late, lambda line: None)
    return race, asked


def test_rungs_keep_a_third_until_a_winner_and_a_runner_up_are_left() -> None:
    assert rung_sizes(16) == (16, 5, 2)
    assert rung_sizes(8) == (8, 3)
    assert rung_sizes(4) == (4, 2)


def test_the_first_rung_settles_the_rate_and_the_second_the_method() -> None:
    race, asked = raced()
    assert [epochs for _, epochs in asked] == [2] * 6 + [6] * 2
    assert [entry for entry, epochs in asked if epochs == 6] == [Entry("b", 1.0), Entry("a", 0.3)]
    assert [(trial.entry, trial.epochs) for trial in race.standing] == [
        (Entry("b", 1.0), 6),
        (Entry("a", 0.3), 6),
        (Entry("c", 0.3), 2),
    ]


def test_what_fails_or_does_not_apply_leaves_the_race() -> None:
    def run(entry: Entry, epochs: int) -> RunRecord:
        if entry.method == "b":
            raise NotApplicable("b has no place here")
        if entry == Entry("a", 1.0):
            raise TrainingDiverged("the loss is not finite")
        return record_of(entry, epochs)

    race, asked = raced(run)
    assert race.dropped == {"b": "b has no place here", "a x1": "the loss is not finite"}
    assert [entry.method for entry, _ in asked].count("b") == 1
    assert [trial.entry for trial in race.standing] == [Entry("a", 0.3), Entry("c", 0.3)]


def test_a_trial_that_counts_too_much_may_not_win() -> None:
    race, _ = raced(too_costly=lambda record: "too large" if record.labels["method"] == "b" else "")
    assert race.dropped == {"b": "too large"} and race.standing[0].entry == Entry("a", 0.3)


def test_time_ends_the_race_and_unequal_epochs_are_not_compared() -> None:
    race, asked = raced(late=True)
    assert race.cut and len(asked) == 2, "two trials are run even so: one alone is no choice"


def test_one_trial_of_a_longer_rung_proves_nothing_against_shorter_ones() -> None:
    now = [0.0]

    def run(entry: Entry, epochs: int) -> RunRecord:
        now[0] += epochs  # six trials of two epochs, then one of six
        return record_of(entry, epochs)

    race = Race(PLAN)
    run_race(race, ENTRIES, run, lambda record: "", lambda: now[0] > 17, lambda line: None)
    assert race.cut and len(race.rung(1)) == 1
    assert {trial.epochs for trial in race.standing} == {2} and race.standing[0].entry == Entry("b", 1.0)


def test_what_was_done_before_is_said() -> None:
    said: list[str] = []
    race = Race(PLAN, found={record_of(Entry("b", 1.0), 2).fingerprint})
    run_race(race, ENTRIES, record_of, lambda record: "", lambda: False, said.append)
    assert [line.split(": ")[1] for line in said if line.endswith("%, done before")] == ["b, rate 0.005, 2 epochs"]
    assert len(said) == 8


@pytest.mark.parametrize("num_methods", [2, 4, 9])
def test_the_plan_fits_into_the_budget_and_grows_with_it(num_methods: int) -> None:
    per_epoch, per_cell = 1.0, 1.0
    first = []
    for budget in (600.0, 1800.0, 7200.0):
        plan = plan_for(num_methods, budget, per_epoch, per_cell)
        assert plan is not None and plan.sizes[0] == 2 * num_methods
        first.append(plan.epochs[0])
        raced = sum(size * length for size, length in zip(plan.sizes, plan.epochs, strict=True))
        assert (raced + 1.25 * plan.last_epochs) * per_epoch + (sum(plan.sizes) + 1) * per_cell <= budget
    assert first == sorted(first)
    assert first[0] < first[-1] or first[0] == MOST_EPOCHS


def test_what_does_not_fit_has_no_plan_and_the_smallest_race_is_two_methods() -> None:
    assert plan_for(9, 60.0, 1.0, 1.0) is None
    assert smallest_plan() == Plan((4, 2), (2, 6))


def test_a_method_races_at_the_rate_that_trials_on_its_backbone_chose():
    """AdaptFormer's best is three times its own, LoRA's is its own, and of the last no trials are known."""
    methods = ["adaptformer", "lora", "noah_subnet"]
    assert [entry.factor for entry in entries_of(methods, "vit_micro")] == [1.0, 1.0, 1.0, 3.0, 0.3, 0.3]
    assert [entry.factor for entry in entries_of(methods, "vit_b16")] == [1.0, 1.0, 1.0, 0.3, 0.3, 0.3]
    assert [entry.method for entry in entries_of(methods, "vit_micro")] == methods * 2
