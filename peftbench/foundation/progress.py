"""What a person sees while a cell runs: one bar with an ETA on a terminal, plain lines elsewhere. Writes to stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column

from peftbench.foundation.metric import ACCURACY, Metric
from peftbench.foundation.terminal import fitted

Row = dict[str, Any]
# (title, total) -> a context that yields a function told how many were just done: `Progress.counted` to those below it
Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]

# columns of a terminal below which a bar is short, and columns below which a title says nothing
NARROW, LEAST_TITLE = 120, 8
# the longest note beside a bar
NOTE = len("loss 12.3456, val 100.0%")
# without a terminal: lines of a sweep are this far apart, but the first one with a measured ETA comes early
LINE_SECONDS = 30.0
FIRST_LINE_SECONDS = 3.0


class Watched(Protocol):
    """Batches of an epoch, which call `on_batch` after each."""

    on_batch: Callable[[], None] | None

    def __len__(self) -> int: ...


class Progress:
    """Bars and messages; silent when `enabled` is false. `listeners` also get every epoch's row (loggers).

    `headline` says how far a sweep is, given the share (0..1) of this cell's training that is done.
    """

    def __init__(
        self,
        enabled: bool = True,
        listeners: tuple[Callable[[Row], None], ...] = (),
        headline: Callable[[float], str] | None = None,
    ) -> None:
        self.console = Console(stderr=True, quiet=not enabled, highlight=False, soft_wrap=True)
        self.listeners = listeners
        self.headline = headline

    def say(self, message: str) -> None:
        self.console.print(fitted(message, self.console.width if self.console.is_terminal else None), markup=False)

    @contextmanager
    def counted(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar over images or files; yields a function told how many were just done."""
        with self._bars(len(f"{total}/{total}")) as bars:
            task = bars.add_task(title, total=total, count=f"0/{total}", note="")
            done = 0

            def advance(number: int) -> None:
                nonlocal done
                done += number
                bars.update(task, completed=done, count=f"{done}/{total}")

            yield advance

    @contextmanager
    def epochs(
        self, title: str, num_epochs: int, batches: Watched, metric: Metric = ACCURACY
    ) -> Iterator[Callable[[Row], None]]:
        """A bar over the steps of all epochs with the last loss; yields the loop's `on_epoch`."""
        steps_per_epoch = len(batches)
        num_steps = num_epochs * steps_per_epoch
        step, say_at = 0, time.monotonic() + FIRST_LINE_SECONDS

        def full_title(fraction: float) -> str:
            return title if self.headline is None else f"{self.headline(fraction)}: {title}"

        with self._bars(len(f"epoch {num_epochs}/{num_epochs} ") + NOTE) as bars:
            task = bars.add_task(full_title(0.0), total=num_steps, count=f"epoch 1/{num_epochs}", note="")
            self._line(full_title(0.0))

            def on_batch() -> None:
                nonlocal step, say_at
                step += 1
                epoch = min(step // steps_per_epoch + 1, num_epochs)
                bars.update(
                    task,
                    completed=step,
                    count=f"epoch {epoch}/{num_epochs}",
                    description=full_title(step / num_steps),
                )
                if time.monotonic() > say_at:
                    say_at = time.monotonic() + LINE_SECONDS
                    self._line(f"{full_title(step / num_steps)}, epoch {epoch}/{num_epochs}")

            def on_epoch(row: Row) -> None:
                note = f"loss {row['loss']:.4f}"
                if row[f"val_{metric.name}"] is not None:
                    note += f", val {metric.shown(row[f'val_{metric.name}'])}"
                bars.update(task, note=note)
                for listener in self.listeners:
                    listener(row)

            batches.on_batch = on_batch
            try:
                yield on_epoch
            finally:
                batches.on_batch = None

    def _line(self, text: str) -> None:
        """How far a sweep is, where no bar can show it."""
        if self.headline is not None and not self.console.is_terminal:
            self.say(text)

    def _bars(self, numbers: int) -> Bars:
        """Bars whose count and note take so many columns; where there is little room the title gives way to them."""
        narrow = self.console.width < NARROW
        bar = 8 if narrow else 24
        # spaces between the parts included
        room = self.console.width - len("  ETA 12:34:56  ") - bar - numbers - (0 if narrow else len("12:34:56 "))
        title = Column(max_width=room, no_wrap=True, overflow="ellipsis")
        columns = (
            *((TextColumn("{task.description}", table_column=title),) if room >= LEAST_TITLE else ()),
            BarColumn(bar_width=bar),
            TextColumn("{task.fields[count]}"),
            *(() if narrow else (TimeElapsedColumn(),)),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        return Bars(*columns, console=self.console, disable=not self.console.is_terminal)
