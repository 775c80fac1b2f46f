"""`python -m peftbench trials`: the trials behind tuned records, and whether their choice follows from the records."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table as Grid

from peftbench.cli.arguments import Arguments, a_folder
from peftbench.foundation.errors import MissingInput
from peftbench.foundation.terminal import table_width
from peftbench.records.index import say_skipped
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from peftbench.records.trials import choice_problems


def main(words: list[str]) -> int:
    """Exit code 0, or 1 when a choice does not follow. Raises `MissingInput` when there is no tuned record."""
    parser = Arguments.of("trials", __doc__)
    parser.add_argument("--results", type=a_folder, default=Path("results"), help="folder with records/ (%(default)s)")
    return _show(parser.parse_args(words).results)


def _show(results: Path) -> int:
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
    return 1 if wrong else 0


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
