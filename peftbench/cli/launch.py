"""From words to cells: composed, typed, planned; a single cell is run here, a sweep is handed to workers.

Nothing here needs torch until a cell is to be run.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from typing import Any

from peftbench.cells.cell import plan
from peftbench.cells.lines import skipped_line, summary
from peftbench.cli.commands.status import found_states, status_lines
from peftbench.cli.shortcut import note_finished
from peftbench.cli.showing import show
from peftbench.config.cautions import cautions
from peftbench.config.compose import Trees
from peftbench.config.gate import Builder, from_tree
from peftbench.config.overrides import named_options
from peftbench.config.words import problems_of
from peftbench.foundation.errors import ConfigError, PeftbenchError, RecordError, printable
from peftbench.foundation.location import default_cache_dir
from peftbench.foundation.terminal import print_fitted
from peftbench.records.store import Store
from peftbench.sweep.follow import followed
from peftbench.sweep.grid import plan_grid
from peftbench.sweep.outdated import outdated, outdated_in
from peftbench.sweep.plan import Plan
from peftbench.sweep.state import recorded, states
from peftbench.sweep.summary import left_out_lines, sweep_lines

SWEEP_FLAGS = {"-m", "--multirun"}
DRY_RUN = "--dry-run"
SWEEP_KEYS = ("suite", "+suite", "launcher")


def launch(words: list[str]) -> int:
    """Run what the words ask for and return the exit code. Raises `PeftbenchError` when a single cell fails."""
    flags = {word for word in words if word.startswith("-")}
    overrides = [word for word in words if word not in flags]
    if DRY_RUN in flags and flags <= {DRY_RUN, *SWEEP_FLAGS}:
        return dry_run(overrides)
    if not flags <= SWEEP_FLAGS:
        return show(words, {*SWEEP_FLAGS, DRY_RUN})
    if flags or any(word.partition("=")[0] in SWEEP_KEYS for word in overrides):
        return sweep(overrides)
    problems = problems_of(overrides)
    if problems:
        raise ConfigError(problems)
    run_or_skip(Trees().of(overrides), overrides)
    return 0


def dry_run(words: list[str]) -> int:
    """Say what the words would run, how long that may take and what is missing, and start nothing.

    Returns 1 where cells cannot be planned, as the sweep would.
    """
    grid, _ = plan_grid(words)
    found = found_states(grid)
    lines = ["dry run: nothing is started", *status_lines(grid, found, "method")]
    if any(state == "missing" for state, _ in found.values()):
        lines.append("neither networks nor images were opened: what they refuse is said when a cell is run")
    print(printable("\n".join(lines)), flush=True)
    return 1 if grid.problems else 0


def sweep(words: list[str]) -> int:
    """Plan the grid, let the launcher's workers run what is left of it, and sum up. Returns the exit code."""
    grid, launcher = plan_grid(words)
    first = grid.cells[0]
    num_left = sum(outcome.state == "missing" for outcome in states(grid))
    _note(outdated_in(grid))
    try:
        if num_left:
            _note([*left_out_lines(grid.left_out), *sweep_cautions(grid)])
            file = grid.write(first.results / "work" / "sweeps")
            with followed(grid, enabled=first.config["runtime"]["progress"] and not launcher.in_process):
                launcher.run(file, num_left)
    except PeftbenchError:
        raise  # the launcher's, which found no place for its workers: there is nothing to sum up
    except BaseException:
        _sum_up(grid)
        raise
    return _sum_up(grid)


def sweep_cautions(grid: Plan) -> list[str]:
    """What a user should hear before the cells that are left are run, each line once."""
    left = [cell.config for cell in grid.cells if cell.record is None or cell.reruns]
    # most cells of a sweep differ in what plays no part here
    telling = {
        json.dumps([tree[part] for part in ("dataset", "backbone", "optim", "protocol", "tune")]): tree for tree in left
    }
    builder = Builder(outline=True)
    return list(dict.fromkeys(line for tree in telling.values() for line in cautions(from_tree(tree, (), builder)[0])))


def _note(lines: list[str]) -> None:
    for line in lines:
        print_fitted(f"note: {line}", sys.stderr)


def _sum_up(grid: Plan) -> int:
    """Print what became of the cells; the exit code that says so."""
    outcomes = states(grid)
    print(printable("\n".join([*left_out_lines(grid.left_out), *sweep_lines(outcomes)])), flush=True)
    return 1 if any(outcome.state in ("failed", "missing") for outcome in outcomes) else 0


def run_or_skip(tree: dict[str, Any], words: list[str]) -> None:
    """Run the cell of a tree, or find it done. Raises `PeftbenchError` when it fails."""
    config, runtime = from_tree(tree, named_options(words), Builder(outline=True))
    planned_ns = time.time_ns()
    cell = plan(config)
    store = Store(runtime.results_root)
    path = store.find(cell.fingerprint, cell.labels)
    if path is not None and runtime.on_existing == "error":
        raise RecordError(f"{path} already holds this cell (runtime.on_existing=error)")
    if runtime.on_existing == "rerun":
        # refuses a packed record while nothing has been imported for training
        store.to_replace(cell.labels, cell.fingerprint, replace=True)
    if path is not None and runtime.on_existing == "skip":
        record = recorded(cell, store)
        print_fitted(skipped_line(summary(record), path))
        if changed := outdated(config, record):
            # said the next time as well: nothing is noted of these words
            _note(changed)
            return
    else:
        _note(cautions(config))
        if runtime.progress and sys.stderr.isatty():
            # the first bar comes seconds later: torch has to be imported
            print_fitted(f"starting {cell.title}", sys.stderr)
        from peftbench.sweep.attempt import run_claimed  # imports torch

        # the outline has the same identity; what it cannot do is run
        run_claimed(replace(cell, config=from_tree(tree, named_options(words))[0]), runtime, store)
    inputs = cell.inputs() if runtime.on_existing == "skip" else None
    if inputs is not None:
        path = path or store.path_of(cell.labels, cell.fingerprint)
        said = summary(store.get(cell.fingerprint))
        note_finished(words, default_cache_dir(), path, inputs, said, planned_ns)
