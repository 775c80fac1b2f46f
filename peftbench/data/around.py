"""A source around another one: what the data is stays, which images are served changes."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.data.base import Source


@dataclass(frozen=True)
class SourceAround(Source):
    """Base of sources that serve a choice of the images of `whole`."""

    whole: Source

    @property
    def targets(self) -> tuple[str, ...]:
        return self.whole.targets

    @property
    def templates(self) -> tuple[str, ...]:
        return self.whole.templates

    @property
    def class_tasks(self) -> tuple[str, ...]:
        return self.whole.class_tasks

    @property
    def mirrors(self) -> bool:
        return self.whole.mirrors
