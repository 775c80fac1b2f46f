"""Whether the choice of a tuned record follows from its trials' own records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peftbench.foundation.metric import ACCURACY, Metric
from peftbench.records.record import RunRecord


def best_trial(scores: Sequence[float | None], metric: Metric = ACCURACY) -> int | None:
    """Index of the best validation score, the earliest of equal ones; None when no trial has one."""
    scored = [(metric.goodness(score), -index) for index, score in enumerate(scores) if score is not None]
    return -max(scored)[1] if scored else None


def choice_problems(record: RunRecord, records: Mapping[str, RunRecord]) -> list[str]:
    """Why the choice of a tuned record does not follow from its trials' own records; [] when it does.

    `records` holds all records by fingerprint. A trial without a score diverged and has no record.
    """
    assert record.tuning is not None
    problems, scores = [], []
    said = f"val_{record.primary}"
    for number, trial in enumerate(record.tuning["trials"], start=1):
        found = records.get(trial["fingerprint"])
        scores.append(None if found is None else found.score("val"))
        if found is None and trial[said] is not None:
            problems.append(f"trial {number} ({trial['fingerprint']}) has no record here")
        elif scores[-1] != trial[said]:
            problems.append(
                f"trial {number} ({trial['fingerprint']}): its record says val {scores[-1]}, "
                f"the tuned record {trial[said]}"
            )
        if found is not None and found.metrics["test"] is not None:
            problems.append(f"trial {number} ({trial['fingerprint']}) read the test split")
    best = best_trial(scores, record.metric)
    chosen = None if best is None else record.tuning["trials"][best]
    if not problems and (chosen is None or chosen["fingerprint"] != record.tuning["chosen"]):
        problems.append(f"the trials choose {chosen and chosen['fingerprint']}, the record {record.tuning['chosen']}")
    if chosen is not None and not problems:
        problems.extend(_setting_problems(record, chosen["setting"]))
    return problems


def _setting_problems(record: RunRecord, setting: Mapping[str, Any]) -> list[str]:
    """Whether the reported run has the chosen values."""
    problems = []
    for name, value in setting.items():
        section, _, option = name.partition(".")
        used = record.config[section][option]
        if used != value:
            problems.append(f"the chosen trial has {name}={value}, the reported run {used}")
    return problems
