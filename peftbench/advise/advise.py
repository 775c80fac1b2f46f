"""The straight line of an advice: look, shortlist, race, train the winner on everything, test once, export, page."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftbench.adapters.predictor import Predictor, command, snippet
from peftbench.advise.folder import FACTS, MODEL, PAGE, check_folder
from peftbench.advise.look import Look, dividing_words, look
from peftbench.advise.page import title_of, write_page
from peftbench.advise.race import SHARE, Entry, Plan, Race, Trial, entries_of, plan_for, run_race, smallest_plan
from peftbench.advise.request import Request
from peftbench.advise.shortlist import Candidate, applicable, shortlist
from peftbench.advise.verdict import Verdict
from peftbench.backbones.build import build_backbone
from peftbench.cells.export import export_record, unexportable
from peftbench.config.cautions import cautions
from peftbench.config.gate import RunConfig
from peftbench.config.runtime import RuntimeSpec
from peftbench.foundation.errors import ConfigError, NotApplicable, PeftbenchError
from peftbench.foundation.files import replace_text
from peftbench.foundation.location import user_path
from peftbench.foundation.metric import ACCURACY
from peftbench.foundation.progress import Progress
from peftbench.foundation.spec import build
from peftbench.methods.base import METHODS, Method
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from peftbench.sweep.single import found_or_run
from peftbench.sweep.single import planned as planned_cell

MOST_METHODS = 9
PACED_BY, PACE_EPOCHS = "lora", 2


@dataclass(frozen=True)
class Advice:
    """What an advice left: the verdict, the files, and in `use` the Python and the command line that use the model."""

    verdict: Verdict
    model: Path
    page: Path
    lines: tuple[str, ...]
    use: tuple[str, str]


class Adviser:
    """One advice in progress. Each step finds the records of an earlier run, so the same words go on where it ended."""

    def __init__(self, request: Request, say: Callable[[str], None]) -> None:
        self.request, self.say = request, say
        self.config, self.runtime = self._planned(request.words)
        self.words = (*request.words, *dividing_words(self.config.dataset, request.names))
        self.config, self.runtime = self._planned(self.words)
        source = self.config.dataset.open()
        whole = "train" in source.splits
        self.race_protocol, self.last_protocol = ("full_tune", "full") if whole else ("vtab1k_tune", "vtab1k")
        self._check_classes(source.targets)
        self.splits = ("train", "val", "test") if whole else ("train800", "val200", "test")
        self.out = request.out or Path("advice") / self.config.dataset.label.replace("/", "_")
        self.race: Race | None = None
        # seconds of every trial by its record, and fingerprints of those that were there before
        self._seconds: dict[str, float] = {}
        self._found: set[str] = set()
        # what the winner's last training takes at least, kept back from the race
        self._last_seconds = 0.0

    def run(self) -> Advice:
        """Raises `PeftbenchError` where no method can be raced; `KeyboardInterrupt` leaves what `keep_best` writes."""
        check_folder(self.out)
        seen = self._look()
        entries, plan = self._entries()
        self.race = Race(plan, found=self._found)
        allowed = self.request.seconds * SHARE - self._last_seconds

        def late() -> bool:
            return sum(self._seconds.values()) > allowed

        self.say(
            f"race: {len(entries)} settings of {len({e.method for e in entries})} methods, "
            f"{' -> '.join(map(str, plan.sizes))} for {' -> '.join(map(str, plan.epochs))} epochs; on {seen.num_val} "
            "validation images"
        )
        run_race(self.race, entries, self._trial, self._too_costly, late, self.say)
        standing = self.race.standing
        if not standing:
            raise PeftbenchError("no method finished the race: " + "; ".join(self.race.dropped.values()))
        winner, runner_up = standing[0], standing[1] if len(standing) > 1 else None
        self.say(f"training {winner.entry.method} on all {self.splits[0]} and {self.splits[1]} images")
        # where time ended a rung, the winner may have been trained for longer than those it was compared with
        epochs = max(self.race.of(winner.entry), key=lambda trial: (trial.accuracy, trial.epochs)).epochs
        record, found = found_or_run(self._words_of(winner.entry, epochs, self.last_protocol), silent=True)
        if found:
            self.say(f"  done before: record {record.fingerprint}")
        return self._finish(seen, Verdict(winner, runner_up, record, self.race))

    def _check_classes(self, targets: Sequence[str]) -> None:
        """Raises `ConfigError` for a task that is not judged by accuracy, for data without a class an image, and for
        models that cannot be exported.
        """
        task, words = self.config.task, list(self.request.words)
        label, fits = self.config.dataset.label, set(task.targets) <= set(targets)
        if "label" in targets and not fits:
            raise ConfigError([f"{label} has a class an image and nothing for task={task.name}; leave out task"])
        if task.metric != ACCURACY or not fits:
            if not fits:
                words = [word for word in words if not word.startswith(("task=", "task."))]
                words.append("task=segmentation" if "class_map" in targets else "task=detection")
            reason = f"advise is for a class an image, and {label} has {', '.join(targets)} (task={task.name})"
        elif why := unexportable(self.config):
            reason = f"advise ends with an export: {why}"
        else:
            return
        asked = shlex.join(["python", "-m", "peftbench", "-m", *words, "method=linear,lora,ssf"])
        raise ConfigError(
            [
                f"{reason}. Compare methods on validation images: {asked} protocol={self.race_protocol} train=short, "
                "then python -m peftbench leaderboard --select val"
            ]
        )

    def keep_best(self) -> list[str]:
        """After Ctrl-C: export the best of the race so far. Returns lines that say what there is and how to go on."""
        standing = self.race.standing if self.race else []
        if not standing:
            return ["nothing was trained yet; the same words start again"]
        best = standing[0]
        model = export_record(best.record, self._store, self._options, self.out / MODEL)
        return [
            f"best so far: {best.entry.method}, rate {best.rate:g}, {best.accuracy:.1%} of the validation images; "
            f"exported to {model}",
            "the test images were not read; the same words go on where the race stopped",
        ]

    def _look(self) -> Look:
        dataset = self.config.dataset
        source = dataset.open()
        total = sum(len(source.split(name)) for name in source.whole_splits)
        with Progress(self.runtime.progress).counted("looking at the images", total) as step:
            seen = look(dataset, self.splits, step)
        for line in seen.lines:
            self.say(line)
        for line in (*cautions(self.config), *seen.warnings):
            self.say(f"note: {line}")
        return seen

    def _entries(self) -> tuple[list[Entry], Plan]:
        """The settings that race and the plan of the race, from the pace of one short trial."""
        listed = self._shortlist(MOST_METHODS)
        paced, record = self._pace([*(c for c in listed if c.method == PACED_BY), *listed])
        paced_cost = next(candidate.cost for candidate in listed if candidate.method == paced)
        per_epoch = record.cost["train_seconds"] / PACE_EPOCHS
        per_cell = max(record.provenance["seconds"] - record.cost["train_seconds"], 0.0)
        self.say(f"pace: {per_epoch:.1f} s an epoch and {per_cell:.1f} s a trial besides ({paced})")
        # by the record alone, so that the same words race the same settings whatever of them is done
        left = self.request.seconds - record.provenance["seconds"]
        chosen, plan = self._fitting(listed, left, per_epoch / paced_cost, per_cell)
        for candidate in chosen:
            self.say(f"  {candidate.method}: {candidate.why}")
        return entries_of([candidate.method for candidate in chosen], self.config.backbone.title), plan

    def _fitting(
        self, listed: list[Candidate], seconds: float, per_epoch: float, per_cell: float
    ) -> tuple[list[Candidate], Plan]:
        """As many candidates as can race within the seconds; per_epoch: seconds of an epoch at LoRA's cost."""
        for num in range(min(MOST_METHODS, len(listed)), 1, -1):
            chosen = [*listed[: num - 1], listed[-1]]
            mean_cost = sum(candidate.cost for candidate in chosen) / num
            plan = plan_for(num, seconds, per_epoch * mean_cost, per_cell)
            if plan is not None or num == 2:
                break
        if plan is None:
            plan = smallest_plan()
            needed = plan.num_epochs * per_epoch * mean_cost + (sum(plan.sizes) + 1) * per_cell
            self.say(
                f"note: budget={self.request.seconds:.0f}s is too little here and ends the race early: at this pace "
                f"the smallest race of two methods takes about {needed / SHARE:.0f} s"
            )
        self._last_seconds = 1.25 * plan.epochs[0] * per_epoch + per_cell
        return chosen, plan

    def _pace(self, listed: list[Candidate]) -> tuple[str, RunRecord]:
        """A short trial of the first method that applies to the backbone; its record says how fast this machine is."""
        for candidate in listed:
            try:
                return candidate.method, self._trial(Entry(candidate.method, 1.0), PACE_EPOCHS)
            except NotApplicable:
                continue
        raise PeftbenchError("no method on the list applies to this backbone")

    def _shortlist(self, num: int) -> list[Candidate]:
        shape = build_backbone(self.config.backbone).shape
        fits = {}
        names = applicable()
        for name in names:
            method = build(METHODS.get(name), {})
            assert isinstance(method, Method)
            try:
                count = method.expected_params(shape)
            except (PeftbenchError, ValueError, IndexError, ZeroDivisionError):
                count = None
            fits[name] = self.request.params is None or count is None or count <= self.request.params
        return shortlist(num, {name: METHODS.get(name).family for name in names}, fits)

    def _trial(self, entry: Entry, epochs: int) -> RunRecord:
        """The record of a trial, which costs what it took when it was run, whether that was now or before.

        So the same words race the same settings, and stop at the same trial, whatever of them is done already.
        """
        begun = time.monotonic()
        try:
            record, found = found_or_run(self._words_of(entry, epochs, self.race_protocol), silent=True)
        except PeftbenchError:
            self._seconds[f"{entry} {epochs}"] = time.monotonic() - begun
            raise
        if found and record.fingerprint not in self._seconds:
            self._found.add(record.fingerprint)
        self._seconds[record.fingerprint] = record.provenance["seconds"]
        return record

    def _words_of(self, entry: Entry, epochs: int, protocol: str) -> list[str]:
        words = [*self.words, f"protocol={protocol}", "train=short", f"train.epochs={epochs}", f"method={entry.method}"]
        if entry.factor != 1:
            config, _ = self._planned(words)
            words.append(f"optim.lr={float(f'{config.optim.lr * entry.factor:.3g}')}")
        return words

    def _too_costly(self, record: RunRecord) -> str:
        params, memory = record.params["method"], (record.cost["memory"] or {}).get("total_bytes")
        if self.request.params is not None and params > self.request.params:
            return f"it trains {params:,} parameters and params={self.request.params:,.0f}"
        if self.request.memory_bytes is not None and memory and memory > self.request.memory_bytes:
            return f"training counts {memory / 1e6:,.0f} MB and memory={self.request.memory_bytes / 1e6:,.0f}MB"
        return ""

    def _finish(self, seen: Look, verdict: Verdict) -> Advice:
        model = export_record(verdict.record, self._store, self._options, self.out / MODEL)
        named = self.config.backbone.checkpoint
        # the page may be read from anywhere
        checkpoint = None if named is None else user_path(named, "backbone.checkpoint").absolute()
        test = seen.source.split("test")
        images = (test.read(row) for row in range(len(test)))
        probabilities = Predictor(model, checkpoint, self.runtime.device).probabilities(images)
        title = title_of(self.config.dataset.label)
        notes = [*cautions(self.config), *seen.warnings]
        page = write_page(
            self.out / PAGE,
            title,
            verdict.lines(),
            notes,
            seen.lines,
            verdict.race,
            seen.source.class_names,
            test,
            probabilities,
            snippet(model.name, checkpoint),
        )
        facts = {
            "record": verdict.record.fingerprint,
            "method": verdict.winner.entry.method,
            "accuracy": verdict.record.metrics["test"]["accuracy"],
            "interval95": verdict.interval,
            "trials": [_facts(trial) for trial in verdict.race.trials],
            "words": verdict.lines(),
        }
        replace_text(self.out / FACTS, json.dumps(facts, indent=1) + "\n")
        use = (snippet(model, checkpoint), command(model, checkpoint))
        return Advice(verdict, model, page, tuple(verdict.lines()), use)

    @property
    def _options(self) -> list[str]:
        """The words that may be laid over a record's configuration: single options, no groups and no launcher's."""
        names = {word: word.partition("=")[0] for word in self.words}
        return [word for word, name in names.items() if "." in name and not name.startswith("launcher.")]

    @property
    def _store(self) -> Store:
        return Store(self.runtime.results_root)

    def _planned(self, words: tuple[str, ...] | list[str]) -> tuple[RunConfig, RuntimeSpec]:
        cell, runtime = planned_cell(list(words))
        return cell.config, runtime


def _facts(trial: Trial) -> dict[str, Any]:
    return {
        "rung": trial.rung + 1,
        "method": trial.entry.method,
        "rate": trial.rate,
        "epochs": trial.epochs,
        "val_accuracy": trial.accuracy,
        "record": trial.record.fingerprint,
    }
