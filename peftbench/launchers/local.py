"""One worker in this process: the default."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from peftbench.config.launcher import LAUNCHERS, Launcher


@LAUNCHERS.add("local")
@dataclass(frozen=True)
class Local(Launcher):
    """Cells one after the other. The same command in a second terminal, or on another host, shares the work."""

    in_process: ClassVar[bool] = True

    def run(self, plan_file: Path, num_cells: int) -> None:
        from peftbench.sweep.worker import work

        work(str(plan_file), progress=True)
