"""What every source of a VTAB-1k task has in common: the task, its name in tables, and its group."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass

from peftbench.data.base import DatasetSpec
from peftbench.data.vtab.tasks import VTAB_TASKS, VtabTask, canonical_task
from peftbench.foundation.spec import option


@dataclass(frozen=True)
class VtabSpec(DatasetSpec, ABC):
    """Base of the sources of one VTAB-1k task.

    `task` may also be a folder name or a known spelling (`pets`, `pcam`); it is kept as VTAB's own id.
    """

    task: str = option("caltech101", choices=lambda: list(VTAB_TASKS))

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", canonical_task(self.task))
        super().__post_init__()

    @property
    def label(self) -> str:
        return f"vtab/{self.task}"

    @property
    def group(self) -> str:
        return self.facts.group

    @property
    def facts(self) -> VtabTask:
        return VTAB_TASKS[self.task]
