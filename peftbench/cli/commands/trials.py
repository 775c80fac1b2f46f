"""`python -m peftbench trials`: the trials behind tuned records, and whether their choice follows from the records."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table as Grid

from peftbench.boards.escaping import csv_text
from peftbench.boards.reliability import expected_best_with
from peftbench.cli.arguments import Arguments, a_csv, a_folder
from peftbench.cli.tables import check_table
from peftbench.foundation.errors import MissingInput
from peftbench.foundation.files import replace_text
from peftbench.foundation.terminal import print_fitted, table_width
from peftbench.records.index import say_skipped
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from peftbench.records.trials import choice_problems

# that say which curve a line of it belongs to
FACTS = ("backbone", "method", "dataset", "seed", "tuned", "record")


def main(words: list[str]) -> int:
    """Exit code 0, or 1 when a choice does not follow. Raises `MissingInput` when there is no tuned record."""
    parser = Arguments.of("trials", __doc__)
    parser.add_argument("--results", type=a_folder, default=Path("results"), help="folder with records/ (%(default)s)")
    parser.add_argument(
        "--out", type=a_csv, metavar="FILE.csv", help="write the best validation score after 1, 2, ... trials"
    )
    arguments = parser.parse_args(words)
    check_table(arguments.out, FACTS)
    return _show(arguments.results, arguments.out)


def _show(results: Path, out: Path | None) -> int:
    records, skipped = Store(results).scan()
    say_skipped(skipped)
    by_fingerprint = {record.fingerprint: record for record in records}
    tuned = [record for record in records if record.tuning is not None]
    if not tuned:
        raise MissingInput(
            f"no tuned records under {results / 'records'}; make one: python -m peftbench tune=random ..."
        )
    console = Console(width=table_width())
    wrong = 0
    for record in tuned:
        problems = choice_problems(record, by_fingerprint)
        wrong += bool(problems)
        console.print(_grid(record))
        console.print("; ".join(problems) or "the trials' records give the same choice", markup=False)
        print_fitted(_budget_line(record))
    if out:
        replace_text(out, csv_text(pd.DataFrame([line for record in tuned for line in _budget_rows(record)])))
        print_fitted(f"wrote {out}")
    return 1 if wrong else 0


def _drawn(record: RunRecord) -> bool:
    """Whether the trials behind the first, which is the cell as it stood, are independent draws.

    Others have an order that matters: a grid's levels follow each other, and TPE learns from the scores before.
    """
    return bool((record.tuning or {}).get("strategy") == "random")


def _after(record: RunRecord) -> list[float]:
    """The best validation score after 1, 2, ... trials; a diverged one counts as the worst of the others.

    Of a random search it is expected over the draws. Elsewhere it is the best so far of the trials that were made.
    """
    metric = record.metric
    scores = [trial[f"val_{metric.name}"] for trial in (record.tuning or {})["trials"]]
    known = [metric.goodness(score) for score in scores if score is not None]
    if not known:
        return []
    first, *others = [min(known) if score is None else metric.goodness(score) for score in scores]
    best = expected_best_with(first, others) if _drawn(record) else list(accumulate([first, *others], max))
    return [metric.goodness(value) for value in best]


def _budget_line(record: RunRecord) -> str:
    after = _after(record)
    shown = [(n, after[n - 1]) for n in range(1, len(after) + 1) if n & (n - 1) == 0 or n == len(after)]
    values = ", ".join(f"{n}: {record.metric.shown(value, 1)}" for n, value in shown)
    if _drawn(record):
        return f"expected best val after n trials, the first as the cell stood: {values}"
    return f"best val after n trials, in the order in which they were made: {values}"


def _budget_rows(record: RunRecord) -> list[dict[str, Any]]:
    labels = [record.labels[name] for name in FACTS[:3]]
    facts = dict(zip(FACTS, (*labels, record.seed, (record.tuning or {})["label"], record.fingerprint), strict=True))
    kind = "expected_best" if _drawn(record) else "best_so_far"
    scale, name = record.metric.scale, f"{kind}_val_{record.metric.name}"
    return [{**facts, "trials": n, name: scale * value} for n, value in enumerate(_after(record), start=1)]


def _grid(record: RunRecord) -> Grid:
    tuning, labels = record.tuning or {}, record.labels
    test, metric = record.score("test"), record.metric
    title = f"{labels['method']} on {labels['dataset']} ({labels['backbone']}, seed {record.seed}), {tuning['label']}"
    grid = Grid(title=f"{title}: test {metric.shown(test)}" if test is not None else title, title_justify="left")
    names = list(tuning["trials"][0]["setting"])
    for name in ("trial", *names, "val", "record"):
        grid.add_column(name, justify="right" if name != "record" else "left")
    for number, trial in enumerate(tuning["trials"], start=1):
        score = trial[f"val_{metric.name}"]
        chosen = " (chosen)" if trial["fingerprint"] == tuning["chosen"] else ""
        values = [f"{trial['setting'][name]:g}" for name in names]
        grid.add_row(
            str(number), *values, "diverged" if score is None else metric.shown(score, 1), trial["fingerprint"] + chosen
        )
    return grid
