"""The lines a sweep ends with: what failed, a table by method, and the counts."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from peftbench.sweep.state import STATES, CellState


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
