"""`python -m peftbench robustness RECORD`: a cell's adapter on corrupted copies of its test images."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table as Grid

from peftbench.cells.restore import find_record, with_restored
from peftbench.cells.robustness import scores_on_corruptions
from peftbench.cli.record_words import MEASURING, record_parser, refuse_unused, results_folder
from peftbench.data.corruptions import CORRUPTIONS, FROST, LARGE, SEVERITIES
from peftbench.data.frost import frost_folder, frost_photos
from peftbench.foundation.errors import RecordError
from peftbench.foundation.metric import Metric
from peftbench.foundation.terminal import print_fitted, table_width
from peftbench.records.robustness import Robustness, put


def main(words: list[str]) -> int:
    """Exit code 0 once the scores are written. Raises what `with_restored` raises."""
    parser = record_parser("robustness", __doc__)
    parser.add_argument(
        "--corruption",
        nargs="+",
        choices=(*CORRUPTIONS, FROST),
        default=list(CORRUPTIONS),
        help=f"only these (all but {FROST}, which needs photographs)",
    )
    parser.add_argument(
        "--severity", nargs="+", type=int, choices=SEVERITIES, default=list(SEVERITIES), help="only these (1 to 5)"
    )
    parser.add_argument(
        "--frost", type=Path, metavar="FOLDER", help="the authors' photographs, frost1.png to frost5.jpg"
    )
    _run(parser.parse_args(words))
    return 0


def _run(arguments: argparse.Namespace) -> None:
    refuse_unused("robustness", arguments.options, MEASURING)
    record, store = find_record(arguments.record, results_folder(arguments.results, arguments.options))
    if record.metrics["test"] is None:
        raise RecordError(f"record {record.fingerprint} has no test result to stand beside")
    metric = record.metric

    def say(name: str, scores: dict[int, float]) -> None:
        print_fitted(f"{name}: {', '.join(metric.shown(score, 1) for score in scores.values())}")

    asked, severities = {*arguments.corruption, *([FROST] if arguments.frost else [])}, sorted(set(arguments.severity))
    names = [name for name in (*CORRUPTIONS, FROST) if name in asked]
    photos = frost_photos(frost_folder(arguments.frost)) if FROST in asked else ()
    clean, found = with_restored(
        record,
        store,
        arguments.options,
        lambda config, parts: scores_on_corruptions(config, parts, names, severities, say, photos),
    )
    result = Robustness(record.fingerprint, metric.name, clean, found)
    Console(width=table_width()).print(_grid(result, metric, severities))
    print_fitted(
        f"{record.labels['method']} on {record.labels['dataset']}: test {metric.shown(clean)}, corrupted "
        f"{metric.shown(result.mean)}; strengths of ImageNet-C from {LARGE} px on, of CIFAR-10-C below"
    )
    print_fitted(f"wrote {put(store.root, result)}; leaderboard --reliability shows it")


def _grid(found: Robustness, metric: Metric, severities: list[int]) -> Grid:
    grid = Grid()
    grid.add_column("corruption")
    for severity in severities:
        grid.add_column(str(severity), justify="right")
    for name, scores in found.corrupted.items():
        grid.add_row(name, *(metric.shown(score, 1) for score in scores.values()))
    return grid
