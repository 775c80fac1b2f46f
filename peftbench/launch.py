"""From words to cells: Hydra composes, the gate types, and each cell is run, skipped, or noted as failed."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass

import hydra
from omegaconf import DictConfig

from peftbench.cell import Cell, plan
from peftbench.config import FIXED, NAMED, config_dir, register_schemas, to_run_config
from peftbench.data.location import default_cache_dir
from peftbench.errors import ConfigError, NotApplicable, PeftbenchError, RecordError
from peftbench.loggers import open_logger
from peftbench.overrides import named_options, word_problems
from peftbench.progress import Progress
from peftbench.report import finished_line, skipped_line, summary, sweep_lines
from peftbench.results.store import Store
from peftbench.runner import run_cell
from peftbench.runtime import RuntimeSpec
from peftbench.shortcut import note_finished
from peftbench.tune.driver import tuned

SWEEP_FLAGS = {"-m", "--multirun"}


@dataclass(frozen=True)
class Outcome:
    """What became of one cell; `state` is done, skipped, failed or not applicable."""

    state: str
    title: str
    message: str = ""
    error: Exception | None = None


def launch(words: list[str]) -> int:
    """Run what the words ask for and return the exit code. Raises `PeftbenchError` when a single cell fails."""
    flags = {word for word in words if word.startswith("-")}
    overrides = [word for word in words if word not in flags]
    if flags <= SWEEP_FLAGS:
        problems = word_problems(overrides, config_dir(), [*FIXED, *NAMED, "seed"])
        if problems:
            raise ConfigError(problems)
    register_schemas()
    outcomes: list[Outcome] = []
    compose = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")
    compose(lambda tree: outcomes.append(attempt(tree, overrides)))()
    if flags & SWEEP_FLAGS:
        print("\n".join(sweep_lines([(o.state, o.title, o.message) for o in outcomes])))
        return 1 if any(outcome.state == "failed" for outcome in outcomes) else 0
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    return 0


def attempt(tree: DictConfig, words: list[str]) -> Outcome:
    """Run one composed cell. Errors end in the outcome, not in Hydra, so that a sweep goes on to its next cell."""
    title = " ".join(words)
    try:
        config, runtime = to_run_config(tree, named_options(words))
        cell = plan(config)
    except PeftbenchError as error:
        return Outcome("failed", title, str(error), error)
    store = Store(runtime.results_root)
    try:
        return _run_or_skip(cell, runtime, store, words)
    except NotApplicable as error:
        return Outcome("not applicable", cell.title, str(error), error)
    except Exception as error:
        shown = _explained(error)
        note = store.put_failure(cell.fingerprint, cell.labels, str(shown), traceback.format_exc())
        if shown is not error:
            shown = PeftbenchError(f"{shown} (traceback in {note})")
        return Outcome("failed", cell.title, str(shown), shown)


def _run_or_skip(cell: Cell, runtime: RuntimeSpec, store: Store, words: list[str]) -> Outcome:
    existing = store.find(cell.fingerprint, cell.labels)
    if existing is not None:
        if runtime.on_existing == "error":
            raise RecordError(f"{existing} already holds this cell (runtime.on_existing=error)")
        print(skipped_line(summary(store.get(cell.fingerprint)), existing), flush=True)
    else:
        started = time.perf_counter()
        with open_logger(cell, runtime) as log_epoch:
            progress = Progress(runtime.progress, (log_epoch,) if log_epoch else ())
            record = run_cell(tuned(cell, runtime, store), runtime, store, progress)
        print(
            finished_line(summary(record), store.path_of(cell.labels, cell.fingerprint), time.perf_counter() - started),
            flush=True,
        )
    path = store.path_of(cell.labels, cell.fingerprint) if existing is None else existing
    note_finished(words, default_cache_dir(), path, cell.inputs, summary(store.get(cell.fingerprint)))
    return Outcome("done" if existing is None else "skipped", cell.title)


def _explained(error: Exception) -> Exception:
    """Errors of ours as they are; anything else named, with what to do where that is known."""
    if isinstance(error, PeftbenchError):
        return error
    if "out of memory" in str(error).lower() or isinstance(error, MemoryError):
        return PeftbenchError(
            "out of memory; try a smaller train.batch_size with train.accumulate, or train.precision=bf16"
        )
    return PeftbenchError(f"unexpected {type(error).__name__}: {error}")
