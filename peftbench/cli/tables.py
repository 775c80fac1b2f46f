"""Tables that commands write as CSV files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from peftbench.foundation.overwriting import refuse_other


def check_table(path: Path | None, columns: Sequence[str], inputs: Iterable[Path] = ()) -> None:
    """What is refused of a place for a table, ahead of the work; nothing for None.

    `columns`: those that every table of the command begins with. Raises as `refuse_other`.
    """

    def is_own(file: Path) -> bool:
        with file.open(encoding="utf-8", errors="replace", newline="") as stream:
            header = stream.readline(100_000)
        try:
            return next(csv.reader([header]), [])[: len(columns)] == list(columns)
        except csv.Error:
            return False

    if path is not None:
        refuse_other(path, f"table with the columns {', '.join(columns[:3])}, ...", is_own, inputs)
