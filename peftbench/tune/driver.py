"""From a cell that is to be tuned to the cell that is reported: trials on validation, a choice, nothing else."""

from __future__ import annotations

import statistics
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from peftbench.cells.cell import Cell, plan
from peftbench.cells.run import run_cell
from peftbench.cells.shared import sharing
from peftbench.config.gate import RunConfig, option_of, with_options
from peftbench.config.presets import HparamsSpec
from peftbench.config.protocol import TUNED_ON, ProtocolSpec
from peftbench.config.runtime import RuntimeSpec
from peftbench.config.tuning import TuneSpec
from peftbench.foundation.errors import AlreadyRecorded, PeftbenchError, TrainingDiverged
from peftbench.foundation.progress import Progress
from peftbench.records.claims import claims_of
from peftbench.records.store import Store
from peftbench.records.trials import best_trial
from peftbench.tune.doubt import FEW_IMAGES, smallest_difference
from peftbench.tune.samplers import Sampler, Setting, settings
from peftbench.tune.space import search_space


@dataclass(frozen=True)
class Trial:
    """One setting and what it reached on the validation images; None when its training diverged."""

    fingerprint: str
    setting: Setting
    val_score: float | None


def tuned(cell: Cell, runtime: RuntimeSpec, store: Store) -> Cell:
    """The cell with its hyperparameters chosen, ready to be trained; as it is when there is nothing to choose.

    Trials are ordinary cells of the tuning protocol: those with a record are not run again, so an interrupted tuning
    goes on where it stopped, and the cells of other seeds find the trials done, or wait for the worker that holds one.
    Their adapters are not kept. Raises
    `ConfigError` for a range that an option refuses, and `PeftbenchError` when every trial diverged.
    """
    config = cell.config
    if not config.needs_tuning:
        return cell
    axes = search_space(config)
    for axis in axes:
        # a bound that the gate would refuse is found before any training
        with_options(config, {axis.option: axis.at(0.0)})
    runtime = replace(runtime, save_adapter=False)
    say = Progress(runtime.progress).say
    metric = config.task.metric
    trials: list[Trial] = []
    seconds: list[float] = []
    sampler = settings(config.tune, axes, metric.worst)
    setting: Setting | None = next(sampler)
    with sharing():
        while setting is not None:
            trial = plan(trial_config(config, setting))
            started = time.perf_counter()
            score, known = _measured(trial, runtime, store)
            if not known:
                seconds.append(time.perf_counter() - started)
            trials.append(Trial(trial.fingerprint, setting, score))
            say(_line(config, trials, seconds, known))
            setting = _next(sampler, None if score is None else metric.goodness(score))
    best = best_trial([trial.val_score for trial in trials], metric)
    if best is None:
        rates = [trial.setting.get("optim.lr", config.optim.lr) for trial in trials]
        raise PeftbenchError(
            f"all {len(trials)} trials diverged, at learning rates from {min(rates):.3g} to {max(rates):.3g}; "
            "lower optim.lr, or give tune.lr=[LOW,HIGH]"
        )
    say(f"chosen: {_words(trials[best].setting)} (trial {best + 1}, val {_shown(config, trials[best])})")
    num_val = (store.get(trials[best].fingerprint).metrics["val"] or {}).get("n")
    if metric.name == "accuracy" and num_val and num_val < FEW_IMAGES:
        say(smallest_difference(num_val, trials[best].val_score or 0.0))
    chosen = final_config(config, trials[best].setting)
    return replace(cell, config=chosen, tuning=_tuning(config, trials, best))


def trial_config(config: RunConfig, setting: Setting) -> RunConfig:
    """The cell of one trial: no test split, and the seed of the tuning instead of the reported run's."""
    cell = replace(config, protocol=trial_protocol(config.protocol), tune=TuneSpec(), seed=config.tune.seed)
    return with_options(cell, setting)


def trial_protocol(protocol: ProtocolSpec) -> ProtocolSpec:
    """The protocol that measures on validation images what `protocol` reports on the test split."""
    train, val = TUNED_ON[protocol.train_split]
    return replace(protocol, title=f"{protocol.title}_tune", train_split=train, val_split=val, report_test=False)


def final_config(config: RunConfig, setting: Setting) -> RunConfig:
    """The reported cell: the setting, and which values it replaced."""
    replaced = {name: option_of(config, name) for name in setting}
    return replace(with_options(config, setting), hparams=HparamsSpec(replaced=replaced))


def _measured(trial: Cell, runtime: RuntimeSpec, store: Store) -> tuple[float | None, bool]:
    """A trial's validation score, and whether it was found in a record: an old one, or that of another worker.

    A trial that another worker holds, for another seed of the same cell, is waited for. A diverged one is noted like
    any failed cell.
    """
    if store.find(trial.fingerprint, trial.labels) is None:
        with claims_of(store).wait_for(trial.fingerprint):
            if store.find(trial.fingerprint, trial.labels) is None:
                return _run(trial, runtime, store), False
    return store.get(trial.fingerprint).score("val"), True


def _run(trial: Cell, runtime: RuntimeSpec, store: Store) -> float | None:
    try:
        return run_cell(trial, runtime, store, Progress(runtime.progress)).score("val")
    except AlreadyRecorded:
        # another host took this worker for dead and was faster
        return store.get(trial.fingerprint).score("val")
    except TrainingDiverged as error:
        store.put_failure(trial.fingerprint, trial.labels, str(error), traceback.format_exc())
        return None


def _next(sampler: Sampler, goodness: float | None) -> Setting | None:
    try:
        return sampler.send(goodness)
    except StopIteration:
        return None


def _tuning(config: RunConfig, trials: Sequence[Trial], best: int) -> dict[str, Any]:
    """What the reported record says about its tuning: enough to choose again from the trials' records."""
    said = f"val_{config.task.metric.name}"
    return {
        "label": config.tune.label,
        **config.tune.identity(),
        said: trials[best].val_score,
        "chosen": trials[best].fingerprint,
        "trials": [
            {"fingerprint": trial.fingerprint, "setting": trial.setting, said: trial.val_score} for trial in trials
        ],
    }


def _line(config: RunConfig, trials: Sequence[Trial], seconds: Sequence[float], known: bool) -> str:
    trial, num = trials[-1], config.tune.num_trials
    score = "diverged" if trial.val_score is None else f"val {_shown(config, trial)}"
    spent = "from its record" if known else f"{seconds[-1]:.1f} s"
    # the reported run still follows the trials
    left = (num - len(trials) + 1) * statistics.fmean(seconds) if seconds else None
    eta = "" if left is None else f", ETA {left:.0f} s"
    return f"trial {len(trials)}/{num} of {config.method.name}: {_words(trial.setting)}: {score}, {spent}{eta}"


def _words(setting: Setting) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in setting.items())


def _shown(config: RunConfig, trial: Trial) -> str:
    return "diverged" if trial.val_score is None else config.task.metric.shown(trial.val_score)
