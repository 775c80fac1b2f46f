"""The lines a sweep ends with: what failed, a table by method, and the counts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from tabulate import tabulate

from peftbench.foundation.errors import said_once
from peftbench.foundation.terminal import number_of
from peftbench.sweep.state import STATES, UNPLANNED, CellState

MANY_CAUSES = 3


def sweep_lines(outcomes: Sequence[CellState]) -> list[str]:
    """Summary of a sweep: a line for each cell that failed or does not apply, a table by method, and the counts."""
    lines = [
        f"{outcome.state}: {outcome.title}: {outcome.message}"
        for outcome in outcomes
        if outcome.state in ("failed", "not applicable") and outcome.method != UNPLANNED
    ]
    lines += unplanned_lines((o.title, o.message) for o in outcomes if o.method == UNPLANNED)
    methods = list(dict.fromkeys(outcome.method for outcome in outcomes))
    rows = [[method, *_counts([o for o in outcomes if o.method == method])] for method in methods]
    if len(rows) > 1:
        lines += ["", *tabulate(rows, headers=["method", *STATES], tablefmt="simple").splitlines(), ""]
    lines.append(", ".join(f"{count} {state}" for count, state in zip(_counts(outcomes), STATES, strict=True)))
    num_running = sum(outcome.running for outcome in outcomes)
    if num_running:
        lines.append(f"{num_running} of the missing cells are being run by other workers")
    return lines


def unplanned_lines(problems: Iterable[tuple[str, str]]) -> list[str]:
    """What stands in the way of cells, given as (words, message): a line for each cause, then what to do about it.

    Where there are many causes their lines are cut to the first statement.
    """
    messages = [message for _, message in problems]
    causes = Counter(message.split("\n")[0] for message in messages)
    if not causes:
        return []
    many = len(causes) > MANY_CAUSES
    lines = [f"{number_of(len(messages), 'cell')} cannot be planned:"]
    for line in said_once(messages):
        count = f" ({number_of(causes[line], 'cell')})" if causes[line] > 1 else ""
        lines.append(f"  {_first_statement(line) if many and line in causes else line}{count}")
    if many:
        first = next(iter(causes)).partition(": ")[0]
        lines.append(f"  In full for one of them: `python -m peftbench data verify {first}`.")
    return lines


def left_out_lines(left_out: Sequence[tuple[str, str]]) -> list[str]:
    """Which methods of `method=all` a sweep goes without, given as (method, message); of many reasons one is told."""
    if not left_out:
        return []
    names = ", ".join(method for method, _ in left_out)
    noun = "combination" if any(" " in method for method, _ in left_out) else "method"
    count, reasons = number_of(len(left_out), noun), list(dict.fromkeys(message for _, message in left_out))
    if len(reasons) == 1:
        return [f"method=all without {names}: {reasons[0]}"]
    if len(reasons) <= MANY_CAUSES:
        return [f"method=all without {method}: {message}" for method, message in left_out]
    return [f"method=all without {count}, each for a reason like the first's ({reasons[0]}): {names}"]


def _first_statement(line: str) -> str:
    label, colon, rest = line.partition(": ")
    return f"{label}{colon}{re.split(r'[:;,] ', rest)[0]}"


def _counts(outcomes: Sequence[CellState]) -> list[int]:
    return [sum(outcome.state == state for outcome in outcomes) for state in STATES]
