"""What a person sees while a cell runs: one bar with an ETA on a terminal, plain lines elsewhere. Writes to stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

Row = dict[str, Any]


class Progress:
    """Bars and messages; silent when `enabled` is false. `listeners` also get every epoch's row (loggers)."""

    def __init__(self, enabled: bool = True, listeners: tuple[Callable[[Row], None], ...] = ()) -> None:
        self.console = Console(stderr=True, quiet=not enabled, highlight=False, soft_wrap=True)
        self.listeners = listeners

    def say(self, message: str) -> None:
        self.console.print(message, markup=False)

    @contextmanager
    def images(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar over images being decoded; yields a function told how many were just done."""
        with self._bars() as bars:
            task = bars.add_task(title, total=total, note="")
            yield lambda done: bars.advance(task, done)

    @contextmanager
    def epochs(self, title: str, total: int) -> Iterator[Callable[[Row], None]]:
        """A bar over epochs with the last loss; yields the loop's `on_epoch`."""
        with self._bars() as bars:
            task = bars.add_task(title, total=total, note="")

            def on_epoch(row: Row) -> None:
                note = f"loss {row['loss']:.4f}"
                if row["val_accuracy"] is not None:
                    note += f", val {row['val_accuracy']:.2%}"
                bars.update(task, advance=1, note=note)
                for listener in self.listeners:
                    listener(row)

            yield on_epoch

    def _bars(self) -> Bars:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        return Bars(*columns, console=self.console, disable=not self.console.is_terminal)
