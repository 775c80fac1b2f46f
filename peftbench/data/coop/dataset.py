"""CoOp's sets as `coop/<name>`: splits of their own, which are neither VTAB's nor torchvision's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftbench.data.base import DATASETS, DatasetSpec, RawSplit, Source
from peftbench.data.coop.lists import Listed, files_of, read_lists
from peftbench.data.coop.tasks import ALL_SETS, CoopSet
from peftbench.data.parts import PartsSource
from peftbench.data.sources.image_lists import listed_files, lists_digest, refuse_overlap, sizes_of_all
from peftbench.data.splits import FileSplit
from peftbench.foundation.errors import BadInput, MissingInput
from peftbench.foundation.location import user_path
from peftbench.foundation.spec import option

_LISTS_FROM = "the links in DATASETS.md of https://github.com/KaiyangZhou/CoOp"


@DATASETS.add("coop")
@dataclass(frozen=True)
class Coop(DatasetSpec):
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
    def group(self) -> str:
        return "fewshot"

    @property
    def _facts(self) -> CoopSet:
        return ALL_SETS[self.task]

    @property
    def _folder(self) -> Path:
        return user_path(self.root, "dataset.root") / self._facts.folder

    def revision(self) -> str:
        return lists_digest(self._folder, self._read()[0])

    def check(self) -> None:
        sizes_of_all(self._folder, self._read()[0])

    def inputs(self) -> list[Path]:
        parts, _ = self._read()
        return [*(self._folder / name for name in files_of(self._facts)), *listed_files(self._folder, parts)]

    def places(self) -> list[Path]:
        return [self._folder]

    def open(self) -> Source:
        parts, names = self._read()
        sizes_of_all(self._folder, parts)
        refuse_overlap(self._folder, parts)
        splits = {
            part: FileSplit([self._folder / path for path in listed.paths], listed.labels)
            for part, listed in parts.items()
        }
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

    def _read(self) -> Listed:
        facts = self._facts
        if not self._folder.is_dir():
            raise self._missing("there is no such folder")
        try:
            parts, names = read_lists(self._folder, facts)
        except FileNotFoundError as error:
            raise self._missing(f"it lacks {error.filename}") from error
        except OSError as error:
            raise BadInput(f"{error.filename or self._folder}: cannot be read ({error.strerror or error})") from error
        counts = {part: len(listed.paths) for part, listed in parts.items()}
        if (counts, len(names)) != (facts.counts, facts.num_classes):
            raise BadInput(
                f"{self.label}: {_in_words(counts)} and {len(names)} classes in {self._folder}, expected "
                f"{_in_words(facts.counts)} and {facts.num_classes}; get the lists again by {_LISTS_FROM}"
            )
        return parts, names

    def _missing(self, why: str) -> MissingInput:
        facts = self._facts
        lists = " and ".join(files_of(facts))
        return MissingInput(
            f"{self.label}: {self._folder}: {why}. Get the images ({facts.megabytes:,} MB): {facts.where}; and {lists} "
            f"by {_LISTS_FROM}; or set dataset.root=<folder that holds {facts.folder}>.",
            "dataset=digits needs no files.",
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


def _in_words(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {part} images" for part, count in counts.items())
