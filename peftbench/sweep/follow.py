"""Watching workers in other processes: one line whenever the sweep has got further."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from peftbench.sweep.clock import duration, recorded_times
from peftbench.sweep.plan import Plan, PlannedCell
from peftbench.sweep.state import missing_of, running_in


@contextmanager
def followed(plan: Plan, enabled: bool = True, every_seconds: float = 5.0) -> Iterator[None]:
    """Write progress to stderr while the workers of a plan run elsewhere."""
    ended = threading.Event()
    thread = threading.Thread(target=_follow, args=(plan, ended, every_seconds), daemon=True)
    if enabled:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if enabled:
            thread.join()


def _follow(plan: Plan, ended: threading.Event, every_seconds: float) -> None:
    started, said, said_at = time.monotonic(), (-1, -1), 0.0
    first = len(missing_of(plan.cells))
    while not ended.wait(every_seconds):
        left = missing_of(plan.cells)
        counts, now = (len(left), len(running_in(left))), time.monotonic()
        if counts != said or now - said_at > 60:
            eta = _eta(plan, left, first - len(left), now - started)
            over = len(plan.cells) - len(left)
            print(f"cell {over}/{len(plan.cells)} over, {counts[1]} running, ETA {eta}", file=sys.stderr, flush=True)
            said, said_at = counts, now


def _eta(plan: Plan, left: list[PlannedCell], num_new: int, elapsed: float) -> str:
    if num_new:
        # the workers' own pace counts start-up, queueing and how many of them there really are
        return duration(elapsed / num_new * len(left))
    total = recorded_times(plan.cells).total(left)
    return "not known yet" if total is None else duration(total / max(1, len(running_in(left))))
