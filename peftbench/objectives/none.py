"""The task's own loss and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from peftbench.objectives.base import OBJECTIVES, Objective


@OBJECTIVES.add("none")
@dataclass(frozen=True)
class NoObjective(Objective):
    """Cross-entropy of the classifier's logits, as every method is trained without further word."""

    plain: ClassVar[bool] = True
