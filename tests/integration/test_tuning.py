"""Tuning through the command line: trials are ordinary records, and the reported run follows from them."""

from __future__ import annotations

import pandas as pd
import pytest

from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from peftbench.records.trials import choice_problems

WORDS = ("method=linear", "tune=random", "tune.num_trials=3", "runtime.measure_cost=false")


def by_protocol(results) -> tuple[list[RunRecord], list[RunRecord]]:
    """The trials' records, and those that are reported."""
    records = list(Store(results).all())
    trials = [record for record in records if record.labels["protocol"] == "vtab1k_tune"]
    return trials, [record for record in records if record not in trials]


@pytest.fixture
def splits(monkeypatch) -> list[str]:
    """Names of the splits that were decoded, in order."""
    from peftbench.data.sources.digits import DigitsSource

    asked: list[str] = []
    original = DigitsSource.split
    monkeypatch.setattr(DigitsSource, "split", lambda self, name: asked.append(name) or original(self, name))
    return asked


def test_tuning_reports_the_best_trial_and_reads_the_test_split_once_at_the_end(run, results, splits, capsys):
    assert run(*WORDS) == 0
    trials, (final,) = by_protocol(results)
    assert len(trials) == 3
    assert all(record.metrics["test"] is None and record.metrics["val"]["n"] == 200 for record in trials)
    assert splits.index("test") == len(splits) - 1 and set(splits[:-2]) == {"train800", "val200"}
    accuracies = {record.fingerprint: record.metrics["val"]["accuracy"] for record in trials}
    assert final.tuning["label"] == "tuned (budget 3, random)"
    assert {trial["fingerprint"] for trial in final.tuning["trials"]} == set(accuracies)
    assert accuracies[final.tuning["chosen"]] == max(accuracies.values()) == final.tuning["val_accuracy"]
    chosen = next(record for record in trials if record.fingerprint == final.tuning["chosen"])
    assert final.config["optim"] == chosen.config["optim"]
    assert final.metrics["test"]["n"] == 797 and final.data["splits"]["train"]["n"] == 1000
    assert choice_problems(final, {record.fingerprint: record for record in trials}) == []
    assert run("trials", "--results", str(results), "--out", str(results / "budget.csv"), fast=False) == 0
    shown = capsys.readouterr().out
    assert "give the same choice" in shown and f"3: {max(accuracies.values()):.1%}" in shown
    budget = pd.read_csv(results / "budget.csv")["expected_best_val_accuracy"].tolist()
    first, *others = (100 * accuracies[trial["fingerprint"]] for trial in final.tuning["trials"])
    assert budget == pytest.approx([first, sum(max(first, other) for other in others) / 2, max(first, *others)])
    assert run("method=linear", "runtime.measure_cost=false") == 0
    assert run("leaderboard", "--results", str(results), "--reliability", fast=False) == 0
    assert "| linear (tuned (budget 3, random), lr" in (results / "leaderboard" / "reliability.md").read_text()
    text = (results / "leaderboard" / "leaderboard.md").read_text()
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert [title.split(";")[0] for title in titles] == [
        "## vit_micro, vtab1k, the methods' own options",
        "## vit_micro, vtab1k, tuned (budget 3, random)",
    ]
    assert all("; short recipe: " in title for title in titles)
    # with the rate that was chosen
    assert titles[1].endswith(f"adamw, lr {final.config['optim']['lr']:g}")


def test_an_interrupted_tuning_goes_on_where_it_stopped_and_other_seeds_share_the_trials(run, results, monkeypatch):
    import peftbench.cells.run as runner

    trained: list[str] = []
    original = runner.build_parts

    def interrupted(config, *arguments):
        if len(trained) == 2:
            trained.append("interrupted")
            raise KeyboardInterrupt
        trained.append(config.protocol.title)
        return original(config, *arguments)

    monkeypatch.setattr(runner, "build_parts", interrupted)
    assert run(*WORDS) == 130
    assert [len(found) for found in by_protocol(results)] == [2, 0]
    assert run(*WORDS) == 0
    assert trained == ["vtab1k_tune", "vtab1k_tune", "interrupted", "vtab1k_tune", "vtab1k"]
    assert run(*WORDS, "seed=1") == 0 and run(*WORDS) == 0
    assert trained[5:] == ["vtab1k"]
    _, reported = by_protocol(results)
    assert reported[0].tuning == reported[1].tuning
    assert {record.seed for record in reported} == {0, 1}


def test_a_diverged_trial_counts_and_cannot_be_chosen(run, results):
    # the second point of the random search lies high enough on this range to leave the numbers of float32
    assert run(*WORDS, "method=lora", "tune.lr=[1e20,1e30]") == 0
    trials, (final,) = by_protocol(results)
    scores = [trial["val_accuracy"] for trial in final.tuning["trials"]]
    assert scores[0] is not None and scores[1:] == [None, None]
    assert final.config["optim"]["lr"] == trials[0].config["optim"]["lr"]
    assert len(trials) == 1 and len(Store(results).failures()) == 2
    assert choice_problems(final, {record.fingerprint: record for record in trials}) == []
