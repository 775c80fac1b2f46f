"""What a command may write over: what it wrote itself at another time, and never what it reads."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from pathlib import Path

from peftbench.foundation.errors import ConfigError
from peftbench.foundation.system import unreadable


def refuse_other(
    target: Path,
    kind: str,
    is_own: Callable[[Path], bool],
    inputs: Iterable[Path] = (),
    instead: str = "name another file",
) -> None:
    """Raises `ConfigError` where `target` is one of the `inputs`, or a file that `is_own` does not know as of `kind`.

    Asked ahead of the work. An empty file holds nothing to lose. `instead`: what else to do than to move it away.
    Raises `BadInput` where it cannot be looked at.
    """
    try:
        if not target.is_file():
            return
        if any(path.is_file() and path.samefile(target) for path in inputs):
            raise ConfigError([f"{target} is what this command reads and would be written over; {instead}"])
        if target.stat().st_size and not is_own(target):
            words = f"{target} would be written over, and what is there is no {kind} of this package"
            raise ConfigError([f"{words}; move it away, or {instead}"])
    except OSError as error:
        raise unreadable(error) from error


def begins_with(path: Path, title: str) -> bool:
    """Whether a page has these words near its start."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        return title in stream.read(1000)


def columns_of(path: Path) -> list[str]:
    """The names in the first line of a CSV file; none where that is no line of CSV."""
    with path.open(encoding="utf-8", errors="replace", newline="") as stream:
        header = stream.readline(100_000)
    try:
        return next(csv.reader([header]), [])
    except csv.Error:
        return []


def refuse_within(target: Path, folders: Iterable[Path]) -> None:
    """Raises `ConfigError` where `target` lies in one of the `folders`: there it would be read with the rest."""
    place = target.resolve().parent
    for folder in folders:
        if folder.is_dir() and place.is_relative_to(folder.resolve()):
            raise ConfigError([f"{target} lies in {folder}, among the data that is read; name another file with --out"])
