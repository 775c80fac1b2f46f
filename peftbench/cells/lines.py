"""The lines a finished or skipped cell leaves on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peftbench.records.record import RunRecord


def summary(record: RunRecord) -> dict[str, Any]:
    """The few facts of a record that its one line shows."""
    name, scores = ("test", record.metrics["test"]) if record.metrics["test"] else ("val", record.metrics["val"])
    return {
        "method": record.labels["method"],
        "dataset": record.labels["dataset"],
        "backbone": record.labels["backbone"],
        "seed": record.seed,
        "split": name,
        "metric": record.primary,
        "score": record.metric.shown(scores[record.primary]),
        "n": scores["n"],
        "params_method": record.params["method"],
        "params_head": record.params["head"],
    }


def finished_line(facts: Mapping[str, Any], path: Path, seconds: float, apart: Sequence[str] = ()) -> str:
    """`apart`: words that tell the cell from the others of its sweep."""
    return f"{_facts(facts, apart)}, {seconds:.0f} s\nrecord {path}"


def skipped_line(facts: Mapping[str, Any], path: Path) -> str:
    return f"already done: {_facts(facts)}\nrecord {path}"


def _facts(facts: Mapping[str, Any], apart: Sequence[str] = ()) -> str:
    where = ", ".join([str(facts["backbone"]), f"seed {facts['seed']}", *apart])
    return (
        f"{facts['method']} on {facts['dataset']} ({where}): "
        f"{facts['split']} {facts['metric']} {facts['score']} of {facts['n']:,} images, "
        f"{facts['params_method']:,} + {facts['params_head']:,} trainable parameters (method + head)"
    )
