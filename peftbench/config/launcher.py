"""What a launcher is: options, and starting workers on a plan. What is run, and by whom, the workers settle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from peftbench.foundation.errors import MissingInput
from peftbench.foundation.registry import Registry
from peftbench.foundation.spec import Spec

LAUNCHERS: Registry[Launcher]


@dataclass(frozen=True)
class Launcher(Spec):
    """Base of all launchers. `in_process` ones show their own progress, others are watched from outside."""

    section: ClassVar[str] = "launcher"
    name: ClassVar[str] = ""
    in_process: ClassVar[bool] = False

    def run(self, plan_file: Path, num_cells: int) -> None:
        """Start workers on a plan with `num_cells` cells to run, and return when they have ended.

        Raises `MissingInput` when its package or its cluster is not here.
        """
        raise NotImplementedError


LAUNCHERS = Registry("launcher", "peftbench.launchers", base=Launcher)


def needs(package: str, launcher: str) -> MissingInput:
    """The error for a package that an extra brings."""
    return MissingInput(f"launcher={launcher} needs the package {package}: pip install 'peftbench[{launcher}]'")
