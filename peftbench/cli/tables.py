"""Tables that commands write as CSV files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from peftbench.foundation.overwriting import columns_of, refuse_other


def check_table(path: Path | None, columns: Sequence[str], inputs: Iterable[Path] = ()) -> None:
    """What is refused of a place for a table, ahead of the work; nothing for None.

    `columns`: those that every table of the command begins with. Raises as `refuse_other`.
    """
    if path is not None:
        refuse_other(
            path,
            f"table with the columns {', '.join(columns[:3])}, ...",
            lambda file: columns_of(file)[: len(columns)] == list(columns),
            inputs,
        )
