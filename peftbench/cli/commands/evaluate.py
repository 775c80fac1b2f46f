"""`python -m peftbench evaluate RECORD`: restore a cell's adapter and reproduce its recorded test accuracy."""

from __future__ import annotations

import hashlib
from pathlib import Path

from peftbench.adapters.hf_peft import CONFIG
from peftbench.cells.elsewhere import evaluate_elsewhere, names_dataset
from peftbench.cells.foreign import evaluate_peft
from peftbench.cells.restore import find_record, restore_and_evaluate
from peftbench.cli.record_words import MEASURING, record_parser, refuse_unused, results_folder
from peftbench.foundation.terminal import print_fitted
from peftbench.records.owned import predictions_bytes


def main(words: list[str]) -> int:
    """Exit code 0 when predictions and accuracy equal the record's, 1 when they differ.

    In place of a record, a folder with an adapter in PEFT's format, with `dataset=...` and `backbone=...`. With
    `dataset=...` a record that reads class names is measured on another data set, and no record is made of that.
    """
    arguments = record_parser("evaluate", __doc__).parse_args(words)
    refuse_unused("evaluate", arguments.options, MEASURING)
    if (Path(arguments.record) / CONFIG).is_file():
        metrics = evaluate_peft(Path(arguments.record), arguments.options).metrics
        print_fitted(
            f"{arguments.record}: {metrics['accuracy']:.2%} of {metrics['n']:,} test images; no record is made of it"
        )
        return 0
    record, store = find_record(arguments.record, results_folder(arguments.results, arguments.options))
    if names_dataset(arguments.options):
        moved = evaluate_elsewhere(record, store, arguments.options)
        found, metric = moved.evaluation.metrics, moved.metric
        shown = metric.shown(float(found[metric.name]), 4)
        print_fitted(f"{moved.label}: {shown} of {found['n']:,} test images; no record is made of it")
        return 0
    result = restore_and_evaluate(record, store, arguments.options)
    recorded, now, metric = record.metrics["test"], result.metrics, record.metric
    # where no predictions were kept, all numbers stand for them
    names = (metric.name, "n") if record.predictions is not None else tuple(recorded)
    same = all(now.get(name) == recorded[name] for name in names)
    if record.predictions is not None and result.predictions is not None:
        same = (
            same and hashlib.sha256(predictions_bytes(result.predictions)).hexdigest() == record.predictions["sha256"]
        )
    old, new = (metric.shown(scores[metric.name], 4) for scores in (recorded, now))
    print_fitted(f"recorded {old} of {recorded['n']:,}; now {new} of {now['n']:,}")
    counted = f" by {now['correct'] - recorded['correct']:+d} images" if "correct" in recorded else ""
    print("reproduced exactly" if same else f"differs{counted}, in its predictions")
    return 0 if same else 1
