"""`python -m peftbench evaluate RECORD`: restore a cell's adapter and reproduce its recorded test accuracy."""

from __future__ import annotations

import sys

from peftbench.cells.restore import find_record, restore_and_evaluate
from peftbench.cli.record_words import record_parser


def main(words: list[str]) -> int:
    """Exit code 0 when predictions and accuracy equal the record's, 1 when they differ."""
    arguments = record_parser("evaluate", __doc__).parse_args(words)
    record, store = find_record(arguments.record, arguments.results)
    result = restore_and_evaluate(record, store, arguments.options)
    recorded = record.metrics["test"]
    same = result.correct == recorded["correct"] and result.n == recorded["n"]
    print(f"recorded {recorded['accuracy']:.4%} of {recorded['n']:,}; now {result.accuracy:.4%} of {result.n:,}")
    print(
        "reproduced exactly" if same else f"differs by {result.correct - recorded['correct']:+d} images",
        file=sys.stdout,
    )
    return 0 if same else 1
