"""What `trials` says of n trials: the first is never drawn, and the order of a grid's or TPE's trials matters."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
import pytest

from peftbench.cli.commands.trials import _after, main
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from tests.conftest import REPOSITORY
from tests.record_factory import make_record

# of a committed search with lora, beside its record below
SCORES = [0.39, 0.275, 0.195, 0.27, 0.2, 0.245, 0.405, 0.365]


def tuned(strategy: str, scores: list[float | None], label: str = "") -> RunRecord:
    trials = [
        {"fingerprint": f"{number:016x}", "setting": {"optim.lr": 0.01 * (1 + number)}, "val_accuracy": score}
        for number, score in enumerate(scores)
    ]
    tuning: dict[str, Any] = {"label": label or f"tuned ({strategy})", "strategy": strategy, "trials": trials}
    return make_record(tuning=tuning | {"chosen": trials[0]["fingerprint"], "val_accuracy": scores[0]})


def curve_of(record: RunRecord, folder: Path) -> tuple[list[str], list[float]]:
    """The columns and the numbers, in percent, that the command writes of one record."""
    Store(folder).put(record)
    # the trials have no records here
    assert main(["--results", str(folder), "--out", str(folder / "curve.csv")]) == 1
    # its own table of another time is replaced
    assert main(["--results", str(folder), "--out", str(folder / "curve.csv")]) == 1
    table = pd.read_csv(folder / "curve.csv")
    [column] = [name for name in table.columns if "_val_" in name]
    assert table["trials"].tolist() == list(range(1, len(table) + 1))
    return [column], table[column].tolist()


def by_enumeration(scores: list[float]) -> list[float]:
    first, *others = scores
    drawn = [fmean(max(first, *chosen) for chosen in combinations(others, n)) for n in range(1, len(scores))]
    return [100 * value for value in [first, *drawn]]


@pytest.mark.parametrize("scores", [[0.5, 0.2, 0.9, 0.4], [0.1, 0.2, 0.9, 0.4], SCORES])
def test_a_random_search_keeps_its_first_trial_and_draws_the_others(
    scores: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns, curve = curve_of(tuned("random", list(scores)), tmp_path)
    assert columns == ["expected_best_val_accuracy"]
    assert curve == pytest.approx(by_enumeration(scores), abs=1e-4) and curve[0] == pytest.approx(100 * scores[0])
    said = " ".join(capsys.readouterr().out.split())
    assert f"expected best val after n trials, the first as the cell stood: 1: {scores[0]:.1%}, 2: " in said


@pytest.mark.parametrize("strategy", ["grid", "optuna"])
def test_a_search_whose_order_matters_shows_the_best_so_far(
    strategy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns, curve = curve_of(tuned(strategy, [0.3, 0.2, 0.9, 0.4]), tmp_path)
    assert columns == ["best_so_far_val_accuracy"] and curve == pytest.approx([30, 30, 90, 90])
    said = " ".join(capsys.readouterr().out.split())
    assert "best val after n trials, in the order in which they were made: 1: 30.0%, 2: 30.0%, 4: 90.0%" in said
    assert "expected" not in said


def test_a_trial_that_diverged_counts_as_the_worst(tmp_path: Path) -> None:
    _, curve = curve_of(tuned("random", [None, 0.2, 0.6]), tmp_path)
    assert curve == pytest.approx([20, 40, 60])


def test_a_committed_search_is_read_that_way() -> None:
    record = Store(REPOSITORY / "results").get("6345695141dde8f6")
    assert record.tuning is not None and record.tuning["strategy"] == "random"
    assert [trial["val_accuracy"] for trial in record.tuning["trials"]] == SCORES
    assert [100 * value for value in _after(record)] == pytest.approx(by_enumeration(SCORES), abs=1e-9)
