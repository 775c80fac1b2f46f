"""Draws what `benchmarks/step.py` measured: a row per method, its time here over that of the others.

python benchmarks/plot_step.py [--batch 16] [--precision fp32] [--out benchmarks/results/step.svg]
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text, which is smaller
matplotlib.rcParams["svg.hashsalt"] = "step"  # the same rows draw the same file
from matplotlib import pyplot  # noqa: E402

RESULTS = Path(__file__).parent / "results"
CHOSEN = ("model", "batch", "precision")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=Path, default=RESULTS / "step.csv")
    parser.add_argument("--model", default="vit_micro_patch4_32")
    parser.add_argument("--batch", default="16")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--out", type=Path, default=RESULTS / "step.svg")
    asked = parser.parse_args()
    with asked.rows.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if all(row[k] == getattr(asked, k) for k in CHOSEN)]
    assert rows, "no rows of this model, batch and precision"
    rows.sort(key=lambda row: float(row["ours_over_bare"]), reverse=True)
    figure, axes = pyplot.subplots(figsize=(6, 1 + 0.16 * len(rows)))
    for column, label, mark in (("bare", "the bare loop, same model", "o"), ("hand", "written by hand", "D")):
        found = [(float(row[f"ours_over_{column}"]), place) for place, row in enumerate(rows) if row[f"{column}_ms"]]
        axes.plot(*zip(*found, strict=True), mark, markersize=4, label=label)
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row["method"] for row in rows], fontsize=6)
    axes.set_ylim(-1, len(rows))
    machines = sorted(
        {f"{row['device']}, {row['cpu']}, {row['threads']} thread(s), torch {row['torch']}" for row in rows}
    )
    axes.set_xlabel("time of a step here over")
    axes.set_title("\n".join([f"{asked.model}, batch {asked.batch}, {asked.precision}", *machines]), fontsize=7)
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(asked.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
