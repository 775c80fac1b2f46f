"""The lines a finished, skipped or failed cell leaves on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from peftbench.results.record import RunRecord
from peftbench.sweep.state import STATES, CellState


def summary(record: RunRecord) -> dict[str, Any]:
    """The few facts of a record that its one line shows."""
    name, scores = ("test", record.metrics["test"]) if record.metrics["test"] else ("val", record.metrics["val"])
    return {
        "method": record.labels["method"],
        "dataset": record.labels["dataset"],
        "backbone": record.labels["backbone"],
        "seed": record.seed,
        "split": name,
        "accuracy": scores["accuracy"],
        "n": scores["n"],
        "params_method": record.params["method"],
        "params_head": record.params["head"],
    }


def finished_line(facts: Mapping[str, Any], path: Path, seconds: float) -> str:
    return f"{_facts(facts)}, {seconds:.0f} s\nrecord {path}"


def skipped_line(facts: Mapping[str, Any], path: Path) -> str:
    return f"already done: {_facts(facts)}\nrecord {path}"


def _facts(facts: Mapping[str, Any]) -> str:
    return (
        f"{facts['method']} on {facts['dataset']} ({facts['backbone']}, seed {facts['seed']}): "
        f"{facts['split']} accuracy {facts['accuracy']:.2%} of {facts['n']:,} images, "
        f"{facts['params_method']:,} + {facts['params_head']:,} trainable parameters (method + head)"
    )


def sweep_lines(outcomes: Sequence[CellState]) -> list[str]:
    """Summary of a sweep: a line for each cell that failed or does not apply, a table by method, and the counts."""
    lines = [
        f"{outcome.state}: {outcome.title}: {outcome.message}"
        for outcome in outcomes
        if outcome.state in ("failed", "not applicable")
    ]
    methods = list(dict.fromkeys(outcome.method for outcome in outcomes))
    rows = [[method, *_counts([o for o in outcomes if o.method == method])] for method in methods]
    if len(rows) > 1:
        lines += ["", *tabulate(rows, headers=["method", *STATES], tablefmt="simple").splitlines(), ""]
    lines.append(", ".join(f"{count} {state}" for count, state in zip(_counts(outcomes), STATES, strict=True)))
    num_running = sum(outcome.running for outcome in outcomes)
    if num_running:
        lines.append(f"{num_running} of the missing cells are being run by other workers")
    return lines


def _counts(outcomes: Sequence[CellState]) -> list[int]:
    return [sum(outcome.state == state for outcome in outcomes) for state in STATES]
