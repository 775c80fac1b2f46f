"""How long a sweep will still take, from the cells measured so far and from how far the running one is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from peftbench.sweep.plan import PlannedCell

# from the most to the least alike: what two cells must share for one to tell the other's time
_LIKENESS = (("backbone", "method", "dataset"), ("backbone", "method"), ("backbone", "dataset"), ("backbone",), ())


class CellTimes:
    """Seconds of measured cells, and what they say about others."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, ...], list[float]] = {}

    def add(self, labels: Mapping[str, str], seconds: float) -> None:
        for likeness in _LIKENESS:
            self._seconds.setdefault(_key(labels, likeness), []).append(seconds)

    def expect(self, labels: Mapping[str, str]) -> float | None:
        """Mean over the measured cells most like this one; None before any is measured."""
        for likeness in _LIKENESS:
            seconds = self._seconds.get(_key(labels, likeness))
            if seconds:
                return sum(seconds) / len(seconds)
        return None

    def total(self, cells: Iterable[PlannedCell]) -> float | None:
        """Expected seconds of all cells together."""
        expected = [self.expect(cell.labels) for cell in cells]
        known = [seconds for seconds in expected if seconds is not None]
        return sum(known) if len(known) == len(expected) else None


def recorded_times(cells: Iterable[PlannedCell]) -> CellTimes:
    """The times in the records that cells have already."""
    times = CellTimes()
    for cell in cells:
        seconds = recorded_seconds(Path(cell.record_path))
        if seconds is not None:
            times.add(cell.labels, seconds)
    return times


def recorded_seconds(path: Path) -> float | None:
    """How long the cell of a record took; None when there is no readable record."""
    try:
        seconds = json.loads(path.read_text(encoding="utf-8"))["provenance"]["seconds"]
        return None if seconds is None else float(seconds)
    except (OSError, ValueError, KeyError, TypeError):
        return None


class SweepClock:
    """`cell 12/240, ETA 1 h 03 min` at any moment of a sweep."""

    def __init__(self, times: CellTimes, num_cells: int, left: list[PlannedCell], num_workers: int = 1) -> None:
        self.times, self.num_cells, self.num_workers = times, num_cells, num_workers
        self._left = {cell.fingerprint: cell for cell in left}

    def settle(self, cell: PlannedCell, seconds: float | None = None) -> None:
        """A cell is over; `seconds` when it was measured here."""
        self._left.pop(cell.fingerprint, None)
        if seconds is not None:
            self.times.add(cell.labels, seconds)

    def line(self, cell: PlannedCell, elapsed: float, fraction: float) -> str:
        """While `cell` runs since `elapsed` seconds and `fraction` (0..1) of its training is done."""
        number = self.num_cells - len(self._left) + 1
        return f"cell {number}/{self.num_cells}, ETA {self._eta(cell, elapsed, fraction)}"

    def _eta(self, cell: PlannedCell, elapsed: float, fraction: float) -> str:
        whole = self.times.expect(cell.labels)
        projected = elapsed / fraction if fraction > 0 else None
        if projected is not None:
            # the cell's own course says more the further it is
            whole = projected if whole is None else fraction * projected + (1 - fraction) * whole
        if whole is None:
            return "not known yet"
        others = [other for other in self._left.values() if other is not cell]
        expected = sum(self.times.expect(other.labels) or whole for other in others)
        return duration(max(whole - elapsed, 0.0) + expected / self.num_workers)


def duration(seconds: float) -> str:
    """1 h 03 min, 4 min 20 s, 7 s."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def _key(labels: Mapping[str, str], likeness: tuple[str, ...]) -> tuple[str, ...]:
    return (*likeness, *(labels[name] for name in likeness))
