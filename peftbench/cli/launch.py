"""From words to cells: Hydra composes, the gate types; a single cell is run here, a sweep is handed to workers."""

from __future__ import annotations

import time

import hydra
from omegaconf import DictConfig

from peftbench.cells.cell import Cell, plan
from peftbench.cells.lines import skipped_line, summary
from peftbench.cli.shortcut import note_finished
from peftbench.config.gate import FIXED, NAMED, config_dir, register_schemas, to_run_config
from peftbench.config.overrides import named_options, word_problems
from peftbench.config.runtime import RuntimeSpec
from peftbench.foundation.errors import ConfigError, PeftbenchError, RecordError
from peftbench.foundation.location import default_cache_dir
from peftbench.records.claims import claims_of
from peftbench.records.store import Store
from peftbench.sweep.attempt import Outcome, run_noted
from peftbench.sweep.follow import followed
from peftbench.sweep.grid import plan_grid
from peftbench.sweep.state import states
from peftbench.sweep.summary import sweep_lines

SWEEP_FLAGS = {"-m", "--multirun"}
SWEEP_KEYS = ("suite", "+suite", "launcher")


def launch(words: list[str]) -> int:
    """Run what the words ask for and return the exit code. Raises `PeftbenchError` when a single cell fails."""
    flags = {word for word in words if word.startswith("-")}
    overrides = [word for word in words if word not in flags]
    if flags <= SWEEP_FLAGS:
        if flags or any(word.partition("=")[0] in SWEEP_KEYS for word in overrides):
            return sweep(overrides)
        problems = word_problems(overrides, config_dir(), [*FIXED, *NAMED, "seed"])
        if problems:
            raise ConfigError(problems)
    register_schemas()
    errors: list[Exception | None] = []
    compose = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")
    compose(lambda tree: errors.append(attempt(tree, overrides)))()
    for error in errors:
        if error is not None:
            raise error
    return 0


def sweep(words: list[str]) -> int:
    """Plan the grid, let the launcher's workers run what is left of it, and sum up. Returns the exit code."""
    grid, launcher = plan_grid(words)
    first = grid.cells[0]
    num_left = sum(outcome.state == "missing" for outcome in states(grid))
    try:
        if num_left:
            file = grid.write(first.results / "work" / "sweeps")
            with followed(grid, enabled=first.config["runtime"]["progress"] and not launcher.in_process):
                launcher.run(file, num_left)
    finally:
        outcomes = states(grid)
        print("\n".join(sweep_lines(outcomes)), flush=True)
    return 1 if any(outcome.state in ("failed", "missing") for outcome in outcomes) else 0


def attempt(tree: DictConfig, words: list[str]) -> Exception | None:
    """Run one composed cell, or find it done. Returns what went wrong; inside Hydra an error would lose its kind."""
    try:
        config, runtime = to_run_config(tree, named_options(words))
        planned_ns = time.time_ns()
        return _run_or_skip(plan(config), runtime, words, planned_ns).error
    except PeftbenchError as error:
        return error


def _run_or_skip(cell: Cell, runtime: RuntimeSpec, words: list[str], planned_ns: int) -> Outcome:
    store = Store(runtime.results_root)
    path = store.find(cell.fingerprint, cell.labels)
    if path is not None and runtime.on_existing == "error":
        raise RecordError(f"{path} already holds this cell (runtime.on_existing=error)")
    if path is not None and runtime.on_existing == "skip":
        print(skipped_line(summary(store.get(cell.fingerprint)), path), flush=True)
        outcome = Outcome("skipped", cell.title)
    else:
        claim = claims_of(store).take(cell.fingerprint)
        if claim is None:
            held = claims_of(store).holder(cell.fingerprint)
            raise RecordError(f"this cell is being run by {held.owner if held else 'another worker'}")
        with claim:
            outcome = run_noted(cell, runtime, store)
    inputs = cell.inputs() if outcome.error is None and runtime.on_existing == "skip" else None
    if inputs is not None:
        path = path or store.path_of(cell.labels, cell.fingerprint)
        said = summary(store.get(cell.fingerprint))
        note_finished(words, default_cache_dir(), path, inputs, said, planned_ns)
    return outcome
