"""An optional look at the curve in Weights & Biases. Results never depend on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from peftbench.cells.cell import Cell
from peftbench.config.runtime import RuntimeSpec
from peftbench.foundation.errors import ConfigError

Row = dict[str, Any]


@contextmanager
def open_logger(cell: Cell, runtime: RuntimeSpec) -> Iterator[Callable[[Row], None] | None]:
    """A function that logs one epoch's row, or None when logging is off.

    Raises `ConfigError` when wandb is asked for and not installed.
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
    run = wandb.init(
        project=runtime.wandb_project,
        mode="online" if runtime.wandb == "online" else "offline",
        dir=str(folder),
        name=cell.fingerprint,
        group=f"{cell.labels['backbone']}/{cell.labels['dataset']}",
        config={"labels": cell.labels, "identity": cell.identity},
        settings=wandb.Settings(silent=True, console="off"),
    )
    try:
        yield lambda row: run.log({key: value for key, value in row.items() if value is not None}, step=row["epoch"])
    finally:
        run.finish()
