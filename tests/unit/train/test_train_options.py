from __future__ import annotations

import pytest

from peftbench.foundation.errors import ConfigError
from peftbench.foundation.spec import build
from peftbench.train.options import OptimSpec, TrainSpec, schedule_problems


def test_every_bad_option_is_reported_with_its_name() -> None:
    values = {"lr": 0, "name": "adamax", "weight_decay": -1, "momentum": 1.0, "learning_rate": 3}
    with pytest.raises(ConfigError) as error:
        build(OptimSpec, values)
    text = str(error.value)
    for name in (
        "optim.lr must",
        "optim.name cannot be 'adamax'",
        "optim.weight_decay",
        "optim.momentum",
        "learning_rate",
    ):
        assert name in text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"betas": [0.9]}, "optim.betas must hold two numbers"),
        ({"betas": 0.9}, r"optim.betas must be a list of numbers, got 0.9; write optim.betas=\[0.9,0.999\]"),
        ({"lr": 1e-6, "warmup_lr": 0.0}, "optim.min_lr"),
        ({"warmup_lr": 1.0}, "optim.warmup_lr"),
    ],
)
def test_options_that_contradict_each_other_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(OptimSpec, values)


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"accumulate": 0},
        {"precision": "fp8"},
        {"drop_path": 1.0},
        {"augment": "crop"},
        {"erasing": 1.5},
        {"select": "best_test"},
    ],
)
def test_training_options_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"train.{next(iter(values))}"):
        build(TrainSpec, values)


def test_warm_up_must_end_before_training_does() -> None:
    (problem,) = schedule_problems(OptimSpec(warmup_epochs=10), TrainSpec(epochs=10))
    assert "optim.warmup_epochs (10)" in problem
    assert "train.epochs (10)" in problem
    assert schedule_problems(OptimSpec(warmup_epochs=9.5), TrainSpec(epochs=10)) == []
    assert schedule_problems(OptimSpec(warmup_epochs=0), TrainSpec(epochs=1)) == []
