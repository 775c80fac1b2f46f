"""Whether the choice of a tuned record follows from its trials' own records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peftbench.records.record import RunRecord


def best_trial(accuracies: Sequence[float | None]) -> int | None:
    """Index of the highest validation accuracy, the earliest of equal ones; None when no trial has one."""
    scored = [(accuracy, -index) for index, accuracy in enumerate(accuracies) if accuracy is not None]
    return -max(scored)[1] if scored else None


def choice_problems(record: RunRecord, records: Mapping[str, RunRecord]) -> list[str]:
    """Why the choice of a tuned record does not follow from its trials' own records; [] when it does.

    `records` holds all records by fingerprint. A trial without accuracy diverged and has no record.
    """
    assert record.tuning is not None
    problems, accuracies = [], []
    for number, trial in enumerate(record.tuning["trials"], start=1):
        found = records.get(trial["fingerprint"])
        accuracies.append(None if found is None else _val_accuracy(found))
        if found is None and trial["val_accuracy"] is not None:
            problems.append(f"trial {number} ({trial['fingerprint']}) has no record here")
        elif accuracies[-1] != trial["val_accuracy"]:
            problems.append(
                f"trial {number} ({trial['fingerprint']}): its record says val {accuracies[-1]}, "
                f"the tuned record {trial['val_accuracy']}"
            )
        if found is not None and found.metrics["test"] is not None:
            problems.append(f"trial {number} ({trial['fingerprint']}) read the test split")
    best = best_trial(accuracies)
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


def _val_accuracy(record: RunRecord) -> float | None:
    val = record.metrics["val"]
    return None if val is None else val["accuracy"]
