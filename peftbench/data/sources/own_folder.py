"""Options that sets of files with maps or boxes share: where they lie, what they are called, who validates."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from peftbench.data.base import GROUPS, PIXELS, DatasetSpec, Source
from peftbench.data.parts import PartsSource
from peftbench.data.raw import RawSplit
from peftbench.foundation.errors import MissingInput
from peftbench.foundation.location import user_path
from peftbench.foundation.spec import option


@dataclass(frozen=True)
class OwnFolder(DatasetSpec, ABC):
    """Base of sets in a folder of the user's.

    `root` may also be a folder that holds one called `title`, so that one word serves a suite. `title`: what tables
    print. `split_seed` decides which tenth of the training images validates where there are no validation images, and
    VTAB-sized draws.
    """

    root: str | None = option(None, location=True)
    title: str | None = option(None)
    group_name: str = option("dense", choices=GROUPS)
    pixels: str = option("unknown", choices=PIXELS)
    split_seed: int = option(0, ge=0)
    follow_links: bool = option(False, location=True)

    @property
    def label(self) -> str:
        return self.title or (self._place().name if self.root else self.name)

    @property
    def group(self) -> str:
        return self.group_name

    def places(self) -> list[Path]:
        return [self._place()]

    def _place(self) -> Path:
        place = user_path(self.root or "", "dataset.root").absolute()
        return place / self.title if self.root and self.title and (place / self.title).is_dir() else place

    def _folder(self, layout: str) -> Path:
        """The folder. Raises `MissingInput` where none is named or it is not there; `layout`: what it should hold."""
        if self.root is None:
            raise MissingInput(f"{self.label}: set dataset.root=<folder>, which holds {layout}")
        if not self._place().is_dir():
            raise MissingInput(f"{self.label}: dataset.root={self.root} is no folder; set it to one with {layout}")
        return self._place()

    def _source(self, kind: type[PartsSource], class_names: tuple[str, ...], parts: Mapping[str, RawSplit]) -> Source:
        """All images of the parts: `train`, `test`, perhaps `val`."""
        return kind.of(parts, "own", class_names=class_names, pixels=self.pixels, notes=(), seed=self.split_seed)
