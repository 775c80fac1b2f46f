"""`python -m peftbench trials`: the trials behind tuned records, and whether their choice follows from the records."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from peftbench.errors import MissingInput, PeftbenchError
from peftbench.results.record import RunRecord
from peftbench.results.store import Store


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


def main(argv: list[str]) -> int:
    """Show the trials of every tuned record; exit code 1 when a choice does not follow, 2 when there is nothing."""
    parser = argparse.ArgumentParser(prog="python -m peftbench trials", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder with records/ (%(default)s)")
    arguments = parser.parse_args(argv)
    try:
        return _show(arguments.results)
    except PeftbenchError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def _show(results: Path) -> int:
    records, skipped = Store(results).scan()
    for line in skipped:
        print(f"skipped {line}", file=sys.stderr)
    by_fingerprint = {record.fingerprint: record for record in records}
    tuned = [record for record in records if record.tuning is not None]
    if not tuned:
        raise MissingInput(
            f"no tuned records under {results / 'records'}; make one: python -m peftbench tune=random ..."
        )
    console = Console() if sys.stdout.isatty() else Console(width=140)
    wrong = 0
    for record in tuned:
        problems = choice_problems(record, by_fingerprint)
        wrong += bool(problems)
        console.print(_grid(record))
        console.print("; ".join(problems) or "the trials' records give the same choice", markup=False)
    return 1 if wrong else 0


def _grid(record: RunRecord) -> Grid:
    tuning, labels = record.tuning or {}, record.labels
    test = record.metrics["test"]
    title = f"{labels['method']} on {labels['dataset']} ({labels['backbone']}, seed {record.seed}), {tuning['label']}"
    grid = Grid(title=f"{title}: test {test['accuracy']:.2%}" if test else title, title_justify="left")
    names = list(tuning["trials"][0]["setting"])
    for name in ("trial", *names, "val", "record"):
        grid.add_column(name, justify="right" if name != "record" else "left")
    for number, trial in enumerate(tuning["trials"], start=1):
        score = trial["val_accuracy"]
        chosen = " (chosen)" if trial["fingerprint"] == tuning["chosen"] else ""
        values = [f"{trial['setting'][name]:g}" for name in names]
        grid.add_row(
            str(number), *values, "diverged" if score is None else f"{score:.1%}", trial["fingerprint"] + chosen
        )
    return grid


def _val_accuracy(record: RunRecord) -> float | None:
    val = record.metrics["val"]
    return None if val is None else val["accuracy"]
