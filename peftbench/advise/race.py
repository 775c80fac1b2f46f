"""Successive halving on validation images: many settings for a few epochs, the better ones for three times as many.

Synchronous halving (Jamieson and Talwalkar, AISTATS 2016): within a rung everyone trains for equally many epochs from
scratch, so that scores of a rung may be compared. Every trial is an ordinary cell with a record, found again when the
race is resumed. After the first rung, which settles each method's rate, a method stands with its best rate alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from peftbench.config.ours import own_rates
from peftbench.foundation.errors import MissingInput, NotApplicable, PeftbenchError
from peftbench.records.record import RunRecord

ETA = 3
# rates tried of each method
NUM_RATES = 2
# of the method's own rate, where no trials found a better one
LOWER = 0.3
# the embedded recipe's warm-up of half an epoch asks for more than that
FEWEST_EPOCHS, MOST_EPOCHS = 2, 11
# of the budget, for the race and the last training; the rest is for looking, exporting and the page
SHARE = 0.85


@dataclass(frozen=True)
class Entry:
    """One setting in the race: a method at a factor of its own learning rate."""

    method: str
    factor: float


@dataclass(frozen=True)
class Trial:
    """An entry trained for `epochs` and measured on the validation images."""

    entry: Entry
    rung: int
    epochs: int
    record: RunRecord

    @property
    def accuracy(self) -> float:
        return float(self.record.metrics["val"]["accuracy"])

    @property
    def rate(self) -> float:
        return float(self.record.identity["optim"]["lr"])

    @property
    def order(self) -> tuple[float, float, int]:
        """Best first: accuracy, then loss, then fewer parameters."""
        val = self.record.metrics["val"]
        assert val is not None
        return -self.accuracy, float(val["loss"] or 0.0), int(self.record.params["method"])


@dataclass(frozen=True)
class Plan:
    """How many enter each rung and for how many epochs they train there."""

    sizes: tuple[int, ...]
    epochs: tuple[int, ...]

    @property
    def num_epochs(self) -> float:
        """Epochs of training in all. The winner is trained once more, on a quarter more images."""
        raced = sum(size * epochs for size, epochs in zip(self.sizes, self.epochs, strict=True))
        return raced + 1.25 * self.last_epochs

    @property
    def last_epochs(self) -> int:
        """Epochs of the reported training: those of the last rung, whose winner it is."""
        return self.epochs[-1]


@dataclass
class Race:
    """What has been run so far. `dropped`: entry -> why it left. `cut`: whether time ended the race early.

    `found`: fingerprints of the trials that an earlier run of the same words has left.
    """

    plan: Plan
    trials: list[Trial] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    found: set[str] = field(default_factory=set)

    def rung(self, number: int) -> list[Trial]:
        """The trials of a rung, best first."""
        return sorted((trial for trial in self.trials if trial.rung == number), key=lambda trial: trial.order)

    def of(self, entry: Entry) -> list[Trial]:
        """All trials of one setting, the shortest first."""
        return sorted((trial for trial in self.trials if trial.entry == entry), key=lambda trial: trial.epochs)

    @property
    def standing(self) -> list[Trial]:
        """Best first: the last rung that two or more finished, then those that left before it, rung by rung."""
        done = [self.rung(number) for number in range(len(self.plan.sizes))]
        last = max((number for number, trials in enumerate(done) if len(trials) > 1), default=0)
        seen: set[str] = set()
        ranked: list[Trial] = []
        for number in range(last, -1, -1):
            for trial in done[number]:
                if trial.entry.method not in seen:
                    seen.add(trial.entry.method)
                    ranked.append(trial)
        return ranked


def entries_of(methods: Sequence[str], backbone: str) -> list[Entry]:
    """Every method at its own rate, then every one at another: the best of the trials of `hparams=ours`.

    Trials on another backbone do not count; where there are none, or they chose the method's own, it is a lower rate.
    """
    best = {row.method: row.factor for row in own_rates() if row.backbone == backbone and row.factor != 1}
    return [*(Entry(method, 1.0) for method in methods), *(Entry(name, best.get(name, LOWER)) for name in methods)]


def rung_sizes(num: int) -> tuple[int, ...]:
    """16 -> 16, 5, 2: each rung keeps a third, until three or fewer are left; the last one has a runner-up."""
    sizes = [num]
    while sizes[-1] > 3:
        sizes.append(max(2, round(sizes[-1] / ETA)))
    return tuple(sizes)


def plan_for(num_methods: int, seconds: float, per_epoch: float, per_cell: float) -> Plan | None:
    """The longest race of so many methods that fits into `seconds`, the winner's last training included.

    per_epoch and per_cell: seconds of one epoch, and of a cell besides. None where not even `FEWEST_EPOCHS` fit.
    """
    sizes = rung_sizes(num_methods * NUM_RATES)
    num_cells = sum(sizes) + 1
    first = int((seconds * SHARE - num_cells * per_cell) / (_plan(sizes, 1).num_epochs * per_epoch))
    return _plan(sizes, min(first, MOST_EPOCHS)) if first >= FEWEST_EPOCHS else None


def smallest_plan() -> Plan:
    """Two methods, for where nothing fits: some race is better than none."""
    return _plan(rung_sizes(2 * NUM_RATES), FEWEST_EPOCHS)


def _plan(sizes: tuple[int, ...], first: int) -> Plan:
    return Plan(sizes, tuple(first * ETA**rung for rung in range(len(sizes))))


def run_race(
    race: Race,
    entries: Sequence[Entry],
    run: Callable[[Entry, int], RunRecord],
    too_costly: Callable[[RunRecord], str],
    late: Callable[[], bool],
    say: Callable[[str], None],
) -> None:
    """Run the rungs. `run` trains an entry for so many epochs; `too_costly` says why a trial may not win, or "".

    What does not apply, diverges or fails leaves the race and is noted. A rung's trial that would begin when
    it is `late` is not run. Raises `MissingInput` and what is nobody's own fault.
    """
    left = list(entries)
    for rung, (size, epochs) in enumerate(zip(race.plan.sizes, race.plan.epochs, strict=True)):
        for number, entry in enumerate(left[:size] if rung else left):
            if late() and (rung > 0 or len(race.trials) > 1):
                race.cut = True
                return
            if f"{entry.method} x{entry.factor:g}" in race.dropped or entry.method in race.dropped:
                continue
            try:
                record = run(entry, epochs)
            except MissingInput:
                raise
            except NotApplicable as error:
                race.dropped[entry.method] = str(error)
                say(f"  {entry.method}: left out, {error}")
                continue
            except PeftbenchError as error:
                race.dropped[f"{entry.method} x{entry.factor:g}"] = str(error)
                say(f"  {entry.method}: {error}")
                continue
            if reason := too_costly(record):
                race.dropped[entry.method] = reason
                say(f"  {entry.method}: left out, {reason}")
                continue
            trial = Trial(entry, rung, epochs, record)
            race.trials.append(trial)
            say(
                f"  rung {rung + 1}, {number + 1}/{min(size, len(left))}: {entry.method}, rate {trial.rate:g}, "
                f"{epochs} epochs: {trial.accuracy:.1%}{', done before' if record.fingerprint in race.found else ''}"
            )
        left = [trial.entry for trial in _one_rate_each(race.rung(rung))]


def _one_rate_each(trials: Sequence[Trial]) -> list[Trial]:
    """The best trial of each method, best first."""
    best: dict[str, Trial] = {}
    for trial in trials:
        best.setdefault(trial.entry.method, trial)
    return list(best.values())
