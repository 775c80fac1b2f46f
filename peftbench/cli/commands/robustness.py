"""`python -m peftbench robustness RECORD`: a cell's adapter on corrupted copies of its test images."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table as Grid

from peftbench.cells.restore import find_record, with_restored
from peftbench.cells.robustness import Measured, scores_on_corruptions
from peftbench.cli.record_words import MEASURING, record_parser, refuse_unused, results_folder
from peftbench.data.corruptions import Pixels
from peftbench.data.frost import frost_folder, frost_photos
from peftbench.data.strengths import CORRUPTIONS, FROST, IMAGENET_C, SEVERITIES, SIZES, formerly, published_size
from peftbench.foundation.errors import MissingInput, RecordError
from peftbench.foundation.files import check_writable
from peftbench.foundation.metric import Metric
from peftbench.foundation.terminal import number_of, print_fitted, table_width
from peftbench.records.record import RunRecord
from peftbench.records.robustness import Robustness, add, left_out, path_of, read, writing
from peftbench.records.store import Store

# stands for the fifteen corruptions of ImageNet-C
_FIFTEEN = "imagenet_c"


def main(words: list[str]) -> int:
    """Exit code 0 once the scores are written. Raises what `with_restored` raises."""
    parser = record_parser("robustness", __doc__)
    parser.add_argument(
        "--corruption",
        nargs="+",
        choices=(*CORRUPTIONS, FROST, _FIFTEEN),
        default=list(CORRUPTIONS),
        help=f"only these (all but {FROST}, which needs photographs); {_FIFTEEN}: the fifteen of ImageNet-C, {FROST} "
        "where its photographs are",
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
    if (path := path_of(store.root, record.fingerprint)).exists():
        read(path)
    # what cannot be added to, and where nothing can be written, is told ahead of the work
    with writing(store):
        check_writable(path)
    metric = record.metric

    def say(name: str, scores: dict[int, float]) -> None:
        print_fitted(f"{name}: {', '.join(metric.shown(score, 1) for score in scores.values())}")

    names, photos = _asked(arguments)
    severities = sorted(set(arguments.severity))
    measured = with_restored(
        record,
        store,
        arguments.options,
        lambda config, parts: scores_on_corruptions(config, parts, names, severities, say, photos),
    )
    _show(record, store, measured, severities)


def _asked(arguments: argparse.Namespace) -> tuple[list[str], tuple[Pixels, ...]]:
    """The corruptions in their order, and the photographs of frost where it is among them."""
    asked = {*arguments.corruption, *([FROST] if arguments.frost else [])}
    named = FROST in asked
    asked |= set(IMAGENET_C) if _FIFTEEN in asked else set()
    photos: tuple[Pixels, ...] = ()
    if FROST in asked:
        try:
            photos = frost_photos(frost_folder(arguments.frost))
        except MissingInput as error:
            if named:
                raise
            asked.remove(FROST)
            print_fitted(f"without {FROST}: {error}")
    return [name for name in (*CORRUPTIONS, FROST) if name in asked], photos


def _show(record: RunRecord, store: Store, measured: Measured, severities: list[int]) -> None:
    """The scores, what the record's file holds with them, and whether tables show it."""
    metric, strengths = record.metric, published_size(measured.side)
    result = Robustness(record.fingerprint, metric.name, measured.clean, measured.corrupted, strengths)
    Console(width=table_width()).print(_grid(result, metric, severities))
    print_fitted(
        f"{record.labels['method']} on {record.labels['dataset']}: test {metric.shown(result.clean)}, corrupted "
        f"{metric.shown(result.mean)}, mean over {_counted(result)}; images of {measured.side} px, strengths of "
        f"{SIZES[strengths]} ({strengths} px)"
    )
    added = add(store, result, formerly(measured.side))
    if added.replaced:
        print_fitted(added.replaced)
    print_fitted(f"wrote {added.path}: mean {metric.shown(added.held.mean)} over {_counted(added.held)}")
    try:
        why = left_out(store.root, record.fingerprint)
    except RecordError as error:
        why = str(error)  # of another record's file, at which the table will stop
    print_fitted(f"leaderboard --reliability {f'does not show it: {why}' if why else 'shows it'}")


def _counted(found: Robustness) -> str:
    return number_of(len(found.corrupted), "corruption")


def _grid(found: Robustness, metric: Metric, severities: list[int]) -> Grid:
    grid = Grid()
    grid.add_column("corruption")
    for severity in severities:
        grid.add_column(str(severity), justify="right")
    for name, scores in found.corrupted.items():
        grid.add_row(name, *(metric.shown(score, 1) for score in scores.values()))
    return grid
