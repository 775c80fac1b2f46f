"""Rows of measurements in a csv file."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any


def append(path: Path, row: dict[str, Any]) -> None:
    """Adds one row and shows it; a new file gets its names as the first."""
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
