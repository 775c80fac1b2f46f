"""`python -m peftbench status [words of a sweep]`: how far its grid is, from the files of the results folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tabulate import tabulate

from peftbench.cli.arguments import Arguments
from peftbench.foundation.errors import printable
from peftbench.foundation.terminal import number_of
from peftbench.sweep.clock import duration, recorded_times
from peftbench.sweep.grid import plan_grid
from peftbench.sweep.places import Places
from peftbench.sweep.plan import Plan
from peftbench.sweep.state import running_in, state_of
from peftbench.sweep.summary import left_out_lines, unplanned_lines

COLUMNS = ("done", "running", "failed", "missing", "not applicable")
ROWS = ("method", "dataset", "backbone", "group", "seed", "cell")


def main(words: list[str]) -> int:
    """Exit code 0 when every cell is done or not applicable, 1 otherwise."""
    parser = Arguments.of("status", __doc__)
    parser.add_argument(
        "words", nargs="*", default=[], help="as for the sweep, e.g. +suite=vtab method=lora,ssf seed=0,1,2"
    )
    parser.add_argument("--by", choices=ROWS, default="method", help="one row for each of these (default: method)")
    parser.add_argument("-m", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    grid, _ = plan_grid([word for word in arguments.words if not word.startswith("runtime.on_")])
    found = found_states(grid)
    print(printable("\n".join(status_lines(grid, found, arguments.by))))
    return 0 if all(state in ("done", "not applicable") for state, _ in found.values()) and not grid.problems else 1


def found_states(grid: Plan) -> dict[str, tuple[str, str]]:
    """Fingerprint -> one of `COLUMNS`, and what there is to say about it."""
    running, places = running_in(grid.cells), Places()
    found = {}
    for cell in grid.cells:
        state, message = state_of(cell, places)
        if state == "missing" and cell.fingerprint in running:
            state, message = "running", running[cell.fingerprint]
        elif state == "missing" and cell.inapplicable:
            # nobody has tried it yet, and its options say what the attempt would
            state, message = "not applicable", cell.inapplicable
        found[cell.fingerprint] = ("done" if state == "skipped" else state, message)
    return found


def status_lines(grid: Plan, found: dict[str, tuple[str, str]], by: str) -> list[str]:
    """The table, what is running, what failed, and when the rest will be done."""
    rows: dict[str, list[str]] = {}
    for cell in grid.cells:
        name = {"seed": str(cell.seed), "cell": f"{cell.fingerprint} {cell.title}"}.get(by) or cell.labels[by]
        rows.setdefault(name, []).append(found[cell.fingerprint][0])
    table = [[name, *_counts(states)] for name, states in rows.items()]
    if len(table) > 1:
        table.append(["all", *_counts([state for states in rows.values() for state in states])])
    lines = tabulate(table, headers=[by, *COLUMNS], tablefmt="simple").splitlines()
    for cell in grid.cells:
        state, message = found[cell.fingerprint]
        if state in ("running", "failed"):
            lines.append(f"{state}: {cell.title}: {message}")
    lines += [*unplanned_lines(grid.problems), *left_out_lines(grid.left_out)]
    return [*lines, _eta(grid, found)]


def _eta(grid: Plan, found: dict[str, tuple[str, str]]) -> str:
    left = [cell for cell in grid.cells if found[cell.fingerprint][0] in ("running", "missing")]
    num_running = sum(found[cell.fingerprint][0] == "running" for cell in left)
    if not left:
        return "nothing left to run"
    seconds = recorded_times(grid.cells).total(left)
    if seconds is None:
        return f"{number_of(len(left), 'cell')} left; how long they take is known once one is done"
    workers = max(1, num_running)
    return f"{number_of(len(left), 'cell')} left: {duration(seconds / workers)} with {number_of(workers, 'worker')}"


def _counts(states: Sequence[str]) -> list[int]:
    return [states.count(column) for column in COLUMNS]
