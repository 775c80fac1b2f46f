"""A VTAB-1k task by name, from the first source that has it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from peftbench.data.base import DATASETS, DatasetSpec, Source
from peftbench.data.shipped import NO_FILES_NEEDED
from peftbench.data.vtab.folder import VtabFolder
from peftbench.data.vtab.hub import REPOSITORY, VtabHub
from peftbench.data.vtab.original import VtabOriginal
from peftbench.data.vtab.spec import VtabSpec
from peftbench.foundation.errors import MissingInput
from peftbench.foundation.location import user_path
from peftbench.foundation.spec import option

SOURCES = ("folder", "hub", "original")


@DATASETS.add("vtab")
@dataclass(frozen=True)
class Vtab(VtabSpec):
    """One VTAB-1k task; `sources` says where to look and in which order.

    `folder` is the processed VTAB-1k folder at `root`, `hub` the same folder from the Hugging Face dataset `repo`,
    `original` the archive VTAB was made from, below `originals`; the last two are fetched when `download` is true.
    Processed and original pixels differ, so they are different data in every record: the identity is that of the
    source which was found, and not of this search.
    """

    root: str = option("data/vtab-1k", location=True)
    repo: str = option(REPOSITORY, location=True)
    commit: str | None = option(None, location=True)
    originals: str | None = option(None, location=True)
    download: bool = option(False, location=True)
    sources: list[str] = option(list(SOURCES), choices=SOURCES, location=True)

    def problems(self) -> list[str]:
        return [] if self.sources else [f"dataset.sources must name at least one of {', '.join(SOURCES)}"]

    @cached_property
    def found(self) -> DatasetSpec:
        """The first source that has the task.

        Raises `MissingInput` with every source's reason when none has.
        A damaged source stops the search: going on would change the data behind a name without a word.
        """
        reasons = []
        for spec in self.candidates():
            try:
                spec.check()
                return spec
            except MissingInput as error:
                reasons.append(error)
        what = "; ".join(reason.what.removeprefix(f"{self.label}: ") for reason in reasons)
        advice = dict.fromkeys(line for reason in reasons for line in reason.advice)
        raise MissingInput(f"{self.label}: {what}", *advice, instead=NO_FILES_NEEDED)

    def candidates(self) -> list[DatasetSpec]:
        """One spec for each of `sources`."""
        made: dict[str, DatasetSpec] = {
            "folder": VtabFolder(task=self.task, root=self.root),
            "hub": VtabHub(task=self.task, repo=self.repo, commit=self.commit, download=self.download),
            "original": VtabOriginal(task=self.task, originals=self.originals, download=self.download),
        }
        return [made[name] for name in self.sources]

    def revision(self) -> str:
        return self.found.revision()

    def check(self) -> None:
        self.found.check()

    def inputs(self) -> list[Path] | None:
        # a folder that appears later would be found first
        folders = [user_path(self.root, "dataset.root") / name for name in ("", *self.facts.folders)]
        found = self.found.inputs()
        return None if found is None else [*found, *(folders if "folder" in self.sources else [])]

    def places(self) -> list[Path]:
        return self.found.places()

    @property
    def download_megabytes(self) -> int | None:
        sizes = [spec.download_megabytes for spec in self.candidates()]
        return next((size for size in sizes if size is not None), None)

    def identity(self) -> dict[str, Any]:
        spec = self.found
        return {"kind": spec.name} | spec.identity()

    def open(self) -> Source:
        return self.found.open()
