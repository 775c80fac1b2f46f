"""`python -m peftbench reproduce RECORD`: run a record's cell again and compare, bit for bit where that is claimed."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from peftbench.cells.cell import plan
from peftbench.cells.restore import find_record, record_config
from peftbench.cells.run import run_cell
from peftbench.cli.record_words import TRAINING, record_parser, refuse_unused, results_folder
from peftbench.foundation import attention, matmul
from peftbench.foundation.progress import Progress
from peftbench.foundation.terminal import print_fitted
from peftbench.records.owned import own_predictions
from peftbench.records.record import RunRecord
from peftbench.records.store import Store


def main(words: list[str]) -> int:
    """Exit code 0 when curve, metrics and predictions, if kept, equal the record's bit for bit, 1 when they differ."""
    arguments = record_parser("reproduce", __doc__).parse_args(words)
    refuse_unused("reproduce", arguments.options, TRAINING)
    record, store = find_record(arguments.record, results_folder(arguments.results, arguments.options))
    with tempfile.TemporaryDirectory(prefix="peftbench-reproduce-") as folder:
        again = rerun(record, arguments.options, Store(folder))
        differences = number_differences(record, again)
        differences += _prediction_differences(record, store, again, Store(folder))
    compared = ("metrics", "curve", *(["predictions"] if record.predictions else []))
    print_fitted("\n".join(verdict(differences, setting_differences(record, again), compared)))
    return 1 if differences else 0


def rerun(record: RunRecord, options: list[str], store: Store) -> RunRecord:
    """The record of the same cell, run now; the results folder of the old one is not touched.

    Raises `MissingInput` when data or weights are not here, `RecordError` when they or the code are not the record's.
    """
    # bits depend on how many threads share a product
    threads = record.provenance["machine"].get("threads") or 0
    config, chosen = record_config(record, [f"runtime.threads={threads}", *options])
    chosen = dataclasses.replace(chosen, results=str(store.root), wandb="off", save_adapter=False, measure_cost=False)
    progress = Progress(chosen.progress)
    progress.say(_threads_line(threads, chosen.threads))
    return run_cell(plan(config), chosen, store, progress)


def _threads_line(recorded: int, used: int) -> str:
    """On how many threads the cell runs now, and why."""
    if not recorded:
        return "the record does not say how many threads it ran on; this run takes as many as torch chooses"
    if used == recorded:
        return f"running on {recorded} threads, as the record says: sums over threads decide the last bits"
    return (
        f"running on {used or 'as many threads as torch chooses'}; the record says {recorded}: the last bits may differ"
    )


def number_differences(record: RunRecord, again: RunRecord) -> list[str]:
    """What differs between the numbers of two runs of one cell, one line each; [] when all bits agree."""
    lines = []
    for split in ("val", "test"):
        old, new = record.metrics[split], again.metrics[split]
        for name in old or {}:
            if old[name] != new[name]:
                lines.append(f"{split} {name}: {old[name]!r} -> {new[name]!r}")
    first = next((pair for pair in zip(record.curve, again.curve, strict=True) if _numbers(*pair)), None)
    if first is not None:
        epoch = first[0]["epoch"]
        largest = max(abs(a["loss"] - b["loss"]) for a, b in zip(record.curve, again.curve, strict=True))
        lines.append(f"curve: equal before epoch {epoch}, there {', '.join(_numbers(*first))}; losses by {largest:.1e}")
    for split, old in record.data["splits"].items():
        new = again.data["splits"][split]
        if old and new and old["digest"] != new["digest"]:
            lines.append(f"data of {split}: images or labels differ")
    return lines


# what a record means that leaves this out
_UNSAID = {"matmul": matmul.TORCH, "attention_grad": attention.TORCH}


def setting_differences(record: RunRecord, again: RunRecord) -> list[str]:
    """Software, machine and code that differ: why two runs of one cell need not agree in every bit."""
    lines = []
    for part in ("versions", "machine"):
        old, new = record.provenance[part], again.provenance[part]
        for name in dict.fromkeys([*old, *new]):
            if old.get(name) != new.get(name):
                unsaid = _UNSAID.get(name, "not said")
                lines.append(f"{name}: {old.get(name, unsaid)} -> {new.get(name, unsaid)}")
    old_code, new_code = (_code(run) for run in (record, again))
    return lines + ([f"code: {old_code} -> {new_code}"] if old_code != new_code else [])


def verdict(numbers: list[str], settings: list[str], compared: Sequence[str] = ()) -> list[str]:
    """The lines that are shown. `compared`: what was, in words."""
    *first, last = compared or ("numbers",)
    words = f"{', '.join(first)} and {last}" if first else last
    lines = [f"reproduced bit for bit: {words}" if not numbers else "not the same numbers:"]
    lines += [f"  {line}" for line in numbers]
    if settings:
        lines += ["what else differs:", *(f"  {line}" for line in settings)]
    elif numbers:
        lines.append("software, machine and code are the record's: this should not be")
    return lines


def _prediction_differences(record: RunRecord, store: Store, again: RunRecord, again_store: Store) -> list[str]:
    if record.predictions is None or again.predictions is None:
        return []
    if record.predictions["sha256"] == again.predictions["sha256"]:
        return []
    old, new = own_predictions(store, record), own_predictions(again_store, again)
    if old is None or new is None:
        return ["predictions: they differ (the old ones are not here to be counted)"]
    return [counted_differences(old, new)]


def counted_differences(old: np.ndarray, new: np.ndarray) -> str:
    """How many samples of two arrays of predictions [num, ...] differ, and in how many pixels where they are maps."""
    differ = old != new
    several = differ.reshape(len(differ), -1).any(axis=1)
    line = f"predictions: {int(several.sum()):,} of {len(old):,} differ"
    if old.ndim != 3 or old.dtype.kind == "f":
        return line
    return f"{line}, in {int(differ.sum()):,} of {old.size:,} pixels"


def _numbers(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [f"{name} {old[name]!r} -> {new[name]!r}" for name in old if old[name] != new.get(name)]


def _code(record: RunRecord) -> str:
    dirty = " with local changes" if record.provenance["git_dirty"] else ""
    return f"{record.provenance['version']} at {str(record.provenance['git_commit'])[:12]}{dirty}"
