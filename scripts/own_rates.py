"""Write peftbench/assets/own_rates.csv, the rates of hparams=ours, from the trials in results/records/rates.jsonl.gz.

    python scripts/own_rates.py [--check]

Every method of the table had the same number of trials, each rate one on every data set; the mean of their accuracies
chooses. With --check nothing is written; exit code 1 says that the table is not what the trials give.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

from peftbench.config.ours import TABLE, OwnRate, family_of
from peftbench.foundation.errors import RecordError
from peftbench.records.packed import read_pack
from peftbench.records.record import RunRecord

ROOT = Path(__file__).resolve().parent.parent
TRIALS = ROOT / "results" / "records" / "rates.jsonl.gz"
# what all trials share and a run has to share with them: another recipe wants another rate
RECIPE = ("optim.name", "train.epochs", "train.batch_size", "task.name", "objective.name")
PLAIN = {"task": {"name": "classification"}, "objective": {"name": "none"}}


def table(trials: Iterable[RunRecord]) -> str:
    """The table as text. Raises `SystemExit` where budgets differ, or a method's trials in more than their rate."""
    by_method: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for trial in trials:
        by_method[family_of(trial.config["backbone"]["model"]), trial.config["method"]["name"]].append(trial)
    if len({len(own) for own in by_method.values()}) > 1:
        raise SystemExit(f"unequal budgets: { ({name: len(own) for (_, name), own in by_method.items()}) }")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(field.name for field in dataclasses.fields(OwnRate))
    writer.writerows(dataclasses.astuple(row(family, own)) for (family, _), own in sorted(by_method.items()))
    return out.getvalue()


def row(family: str, trials: list[RunRecord]) -> OwnRate:
    """The choice among one method's trials: the highest mean over data sets, of equals the lowest rate."""
    by_rate: dict[float, list[RunRecord]] = defaultdict(list)
    for trial in trials:
        by_rate[_rate(trial)].append(trial)
    facts = {tuple(_facts(trial).items()) for trial in trials}
    datasets = sorted({trial.labels["dataset"] for trial in trials})
    repeats = any(sorted(trial.labels["dataset"] for trial in own) != datasets for own in by_rate.values())
    if len(facts) != 1 or repeats:
        raise SystemExit(
            f"trials of {trials[0].labels['method']} differ in more than their rate and data set, or lack or repeat one"
        )
    scores = {rate: 100 * fmean(trial.score("val") or 0.0 for trial in own) for rate, own in sorted(by_rate.items())}
    best = max(scores, key=lambda rate: (scores[rate], -rate))
    return OwnRate(
        family=family,
        lr=f"{best:g}",
        rates=" ".join(f"{rate:g}" for rate in scores),
        accuracies=" ".join(f"{score:.1f}" for score in scores.values()),
        datasets=" ".join(datasets),
        **dict(facts.pop()),
    )


def _rate(trial: RunRecord) -> float:
    return float(trial.config["optim"]["lr"])


def _facts(trial: RunRecord) -> dict[str, str]:
    config: dict[str, Any] = {**PLAIN, **trial.config}
    return {
        "method": config["method"]["name"],
        "backbone": trial.labels["backbone"],
        "num_val": str(trial.metrics["val"]["n"]),
        "recipe": " ".join(f"{name}={config[name.partition('.')[0]][name.partition('.')[2]]}" for name in RECIPE),
    }


def committed_trials() -> list[RunRecord]:
    found = list(read_pack(TRIALS))
    if broken := [entry for entry in found if isinstance(entry, RecordError)]:
        raise SystemExit(str(broken[0]))
    return [entry for entry in found if isinstance(entry, RunRecord)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only compare")
    check, text = parser.parse_args().check, table(committed_trials())
    if check:
        return int(TABLE.read_text(encoding="utf-8") != text)
    TABLE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
