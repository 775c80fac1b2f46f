"""What the committed board says of each method: what a training step costs, and where the method stands high."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BOARD = Path(__file__).resolve().parent.parent / "results" / "leaderboard" / "leaderboard.json"
SUITE = "vit_micro"
# memory of a training step as a share of full fine-tuning's
LOW, MIDDLE = 0.35, 0.75
NUM_HIGH = 5
UNMEASURED = {"cost class": "", "mean of groups": "", "among the first five on": ""}


def board_facts() -> dict[str, dict[str, str]]:
    """Method -> its cells of the page, from the board of the embedded backbone."""
    tables = json.loads(BOARD.read_text(encoding="utf-8"))["tables"]
    table = next(table for table in tables if table["backbone"] == SUITE)
    rows = {row["method"]: row for row in table["rows"] if row["complete"]}
    full = rows["full"]
    peft = [row for name, row in rows.items() if name != "full"]
    places = {
        dataset: sorted(peft, key=lambda row, d=dataset: -row["cells"][d]["mean"])[:NUM_HIGH]  # type: ignore[misc]
        for dataset in table["means_over"]
    }
    return {
        name: {
            "cost class": _cost(row, full),
            "mean of groups": f"{row['mean_of_groups']['mean']:.1f}",
            "among the first five on": ", ".join(dataset for dataset, first in places.items() if row in first),
        }
        for name, row in rows.items()
    }


def _cost(row: dict[str, Any], full: dict[str, Any]) -> str:
    memory, flops = (row[name] / full[name] for name in ("memory_bytes", "train_flops_per_image"))
    word = "low" if memory <= LOW else "middle" if memory <= MIDDLE else "high"
    return f"{word} ({memory:.2f}, {flops:.2f})"
