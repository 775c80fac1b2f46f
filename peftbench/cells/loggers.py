"""An optional look at a cell in Weights & Biases: one run for each cell. Results never depend on it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from peftbench.cells.cell import Cell
from peftbench.config.gate import as_tree
from peftbench.config.runtime import RuntimeSpec
from peftbench.foundation.errors import LoggingUnavailable, brief
from peftbench.foundation.identity import group_fingerprint
from peftbench.foundation.terminal import print_fitted
from peftbench.records.record import RunRecord

Row = dict[str, Any]


@dataclass(frozen=True)
class Logger:
    """`epoch` takes each row of the curve, `record` what the cell ended with."""

    epoch: Callable[[Row], None]
    record: Callable[[RunRecord], None]


@contextmanager
def open_logger(cell: Cell, runtime: RuntimeSpec) -> Iterator[Logger | None]:
    """The run of a cell, or None when logging is off.

    A run's id is the cell's fingerprint, so that running a cell again goes on in the same run; its group is that of all
    cells which differ in the seed alone, so that seeds average. Raises `LoggingUnavailable` when wandb is asked for and
    does not start. What fails later ends the logging with one warning, and the cell goes on.
    """
    if runtime.wandb == "off":
        yield None
        return
    # absolute: wandb's writer is one process for all runs and keeps the working folder it was started in
    folder = (runtime.results_root / "work").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    run = _started(cell, runtime, str(folder))
    logging = True

    def attempt(action: Callable[[], object]) -> None:
        nonlocal logging
        if not logging:
            return
        try:
            action()
        except Exception as error:
            logging = False
            print_fitted(f"warning: wandb logs no more of {cell.title}, which goes on: {_reason(error)}", sys.stderr)

    def log(row: Row) -> None:
        shown = {key: value for key, value in row.items() if value is not None}
        attempt(lambda: run.log(shown, step=row["epoch"]))

    try:
        yield Logger(log, lambda record: attempt(lambda: run.summary.update(end_of(record))))
    finally:
        attempt(run.finish)


def _started(cell: Cell, runtime: RuntimeSpec, folder: str) -> Any:
    """wandb's run. Raises `LoggingUnavailable`, with the way without a network, whatever stopped it."""
    online = runtime.wandb == "online"
    labels, group = cell.labels, group_fingerprint(cell.identity)
    try:
        import wandb

        return wandb.init(
            project=runtime.wandb_project,
            mode="online" if online else "offline",
            dir=folder,
            id=cell.fingerprint,
            resume="allow" if online else None,
            name=f"{labels['method']}/{labels['dataset']}/seed{cell.config.seed}",
            group=f"{labels['method']}/{labels['dataset']}/{labels['backbone']}/{group}",
            job_type=labels["protocol"],
            config={"labels": labels, "identity": cell.identity, **_options(cell, runtime)},
            settings=wandb.Settings(silent=True, console="off"),
        )
    except ImportError as error:
        raise LoggingUnavailable(
            f"runtime.wandb={runtime.wandb} needs the package wandb: pip install 'peftbench[wandb]'"
        ) from error
    except Exception as error:
        offline = "runtime.wandb=offline needs neither key nor network (`wandb sync` sends its files later)"
        way = offline if online else "runtime.wandb=off goes without it"
        raise LoggingUnavailable(
            f"runtime.wandb={runtime.wandb}: wandb did not start, so nothing was run: {_reason(error)}; {way}"
        ) from error


def _reason(error: Exception) -> str:
    """What wandb said, on one line."""
    return f"{type(error).__name__}: {brief(' '.join(str(error).split()).rstrip('.'), 300)}"


def end_of(record: RunRecord) -> dict[str, Any]:
    """The numbers of a record that tables show, by the names they have there."""
    facts = {f"{split}/{record.primary}": record.score(split) for split in ("val", "test")}
    facts |= {f"params/{name}": record.params[name] for name in ("method", "head", "share")}
    facts |= {
        "memory_bytes": (record.cost["memory"] or {}).get("total_bytes"),
        "peak_bytes": record.cost["peak_bytes"],
        "train_seconds": record.cost["train_seconds"],
        "epoch_selected": record.selection["epoch"],
    }
    return {name: value for name, value in facts.items() if value is not None}


def _options(cell: Cell, runtime: RuntimeSpec) -> dict[str, Any]:
    """Every option, without what only this machine knows."""
    return {name: value for name, value in as_tree(cell.config, runtime).items() if name != "runtime"}
