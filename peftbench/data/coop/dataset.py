"""CoOp's sets as `coop/<name>`: splits of their own, which are neither VTAB's nor torchvision's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftbench.data.base import DATASETS, Source
from peftbench.data.coop.lists import files_of, read_lists
from peftbench.data.coop.tasks import ALL_SETS, CoopSet
from peftbench.data.fewshot.listed import ListedSet, Parts
from peftbench.data.parts import PartsSource
from peftbench.data.raw import RawSplit
from peftbench.data.shipped import NO_FILES_NEEDED
from peftbench.data.sources.image_lists import listed_files, refuse_overlap, sizes_of_all
from peftbench.foundation.errors import BadInput, MissingInput
from peftbench.foundation.location import user_path
from peftbench.foundation.spec import option

_LISTS_FROM = "the links in DATASETS.md of https://github.com/KaiyangZhou/CoOp"


@DATASETS.add("coop")
@dataclass(frozen=True)
class Coop(ListedSet):
    """One set from `<root>/<folder>`, laid out as CoOp's DATASETS.md says.

    `protocol=fewshot_coop` draws from it as CoOp does. Class names are the lists' own; `templates` holds CoOp's prompt.
    The variants of ImageNet are for testing alone.
    """

    task: str = option("caltech101", choices=lambda: list(ALL_SETS))
    root: str = option("data/coop", location=True)
    split_seed: int = option(0, ge=0)

    @property
    def label(self) -> str:
        return f"coop/{self.task}"

    @property
    def _facts(self) -> CoopSet:
        return ALL_SETS[self.task]

    @property
    def _folder(self) -> Path:
        return user_path(self.root, "dataset.root") / self._facts.folder

    def inputs(self) -> list[Path]:
        parts, _ = self._read()
        return [*(self._folder / name for name in files_of(self._facts)), *listed_files(self._folder, parts)]

    def open(self) -> Source:
        parts, names = self._read()
        sizes_of_all(self._folder, parts)
        refuse_overlap(self._folder, parts)
        splits = self._file_splits(parts)
        own_lists = "coop-lists" if self._facts.lists else "official"
        test = f"{own_lists}:{len(splits['test'])}"
        common: dict[str, Any] = {
            "class_names": tuple(names),
            "membership": "full",
            "pixels": "original",
            "test": test,
            "notes": (),
            "test_part": splits["test"],
            "template": self._facts.template,
        }
        if "train" not in splits:
            return VariantSource(**common, label=self.label)
        return CoopSource(**common, given_train=splits["train"], given_val=splits.get("val"), seed=self.split_seed)

    def _read(self) -> tuple[Parts, Sequence[str]]:
        return self._read_as(
            self._facts, lambda folder: read_lists(folder, self._facts), f"get the lists again by {_LISTS_FROM}"
        )

    def _missing(self, why: str) -> MissingInput:
        facts = self._facts
        lists = " and ".join(files_of(facts))
        return MissingInput(
            f"{self.label}: {why}. Get the images ({facts.megabytes:,} MB): {facts.where}; and {lists} "
            f"by {_LISTS_FROM}; or set dataset.root=<folder that holds {facts.folder}>.",
            instead=NO_FILES_NEEDED,
        )


@dataclass(frozen=True)
class CoopSource(PartsSource):
    """Parts with the prompt that CoOp's line of work writes for them."""

    template: str

    @property
    def templates(self) -> tuple[str, ...]:
        return (self.template,)


@dataclass(frozen=True)
class VariantSource(Source):
    """A test split and nothing to train on."""

    test_part: RawSplit
    template: str
    label: str

    @property
    def templates(self) -> tuple[str, ...]:
        return (self.template,)

    @property
    def splits(self) -> tuple[str, ...]:
        return ("test",)

    def split(self, name: str) -> RawSplit:
        if name == "test":
            return self.test_part
        raise BadInput(
            f"{self.label} is for testing alone; train on coop/imagenet, then "
            f"`python -m peftbench evaluate RECORD dataset={self.label}`"
        )
