"""An optional look at a cell in Weights & Biases: one run for each cell. Results never depend on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from peftbench.cells.cell import Cell
from peftbench.config.gate import as_tree
from peftbench.config.runtime import RuntimeSpec
from peftbench.foundation.errors import ConfigError
from peftbench.foundation.identity import group_fingerprint
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
    cells which differ in the seed alone, so that seeds average. Raises `ConfigError` when wandb is asked for and not
    installed.
    """
    if runtime.wandb == "off":
        yield None
        return
    try:
        import wandb
    except ImportError as error:
        raise ConfigError(
            [f"runtime.wandb={runtime.wandb} needs the package wandb: pip install 'peftbench[wandb]'"]
        ) from error
    # absolute: wandb's writer is one process for all runs and keeps the working folder it was started in
    folder = (runtime.results_root / "work").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    online = runtime.wandb == "online"
    labels, group = cell.labels, group_fingerprint(cell.identity)
    run = wandb.init(
        project=runtime.wandb_project,
        mode="online" if online else "offline",
        dir=str(folder),
        id=cell.fingerprint,
        resume="allow" if online else None,
        name=f"{labels['method']}/{labels['dataset']}/seed{cell.config.seed}",
        group=f"{labels['method']}/{labels['dataset']}/{labels['backbone']}/{group}",
        job_type=labels["protocol"],
        config={"labels": labels, "identity": cell.identity, **_options(cell, runtime)},
        settings=wandb.Settings(silent=True, console="off"),
    )

    def log(row: Row) -> None:
        run.log({key: value for key, value in row.items() if value is not None}, step=row["epoch"])

    try:
        yield Logger(log, lambda record: run.summary.update(end_of(record)))
    finally:
        run.finish()


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
