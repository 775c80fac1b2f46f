"""What data sets of the few-shot literature have in common: images in one folder, and lists of parts and classes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from peftbench.data.base import DatasetSpec
from peftbench.data.sources.image_lists import ImageList, lists_digest, none_there, sizes_of_all
from peftbench.data.splits import FileSplit
from peftbench.foundation.errors import BadInput, MissingInput

Parts = dict[str, ImageList]


class Expected(Protocol):
    """What is known of a data set before its files are read."""

    @property
    def num_classes(self) -> int: ...

    @property
    def counts(self) -> Mapping[str, int]: ...


@dataclass(frozen=True)
class ListedSet(DatasetSpec):
    """One set from one folder, whose parts and class names lists give."""

    @property
    def group(self) -> str:
        return "fewshot"

    @property
    @abstractmethod
    def _folder(self) -> Path:
        """Where the images and the lists lie."""

    @abstractmethod
    def _read(self) -> tuple[Parts, Sequence[str]]:
        """Parts by name and the class names. Raises `MissingInput` or `BadInput`."""

    @abstractmethod
    def _missing(self, why: str) -> MissingInput:
        """What to get and where to put it. `why`: a statement that names the folder."""

    def revision(self) -> str:
        return lists_digest(self._folder, self._read()[0])

    def check(self) -> None:
        sizes_of_all(self._folder, self._read()[0])

    def places(self) -> list[Path]:
        return [self._folder]

    def _file_splits(self, parts: Parts) -> dict[str, FileSplit]:
        return {
            part: FileSplit([self._folder / path for path in listed.paths], listed.labels)
            for part, listed in parts.items()
        }

    def _read_as(
        self, expected: Expected, read: Callable[[Path], tuple[Parts, Sequence[str]]], again: str
    ) -> tuple[Parts, Sequence[str]]:
        """What `read(folder)` gives, counted; `again` says how to get the lists anew where they are other ones."""
        if not self._folder.is_dir():
            raise self._missing(f"there is no folder {self._folder}")
        try:
            parts, names = read(self._folder)
        except FileNotFoundError as error:
            raise self._missing(f"there is no {self._folder / error.filename}") from error
        except OSError as error:
            raise BadInput(f"{error.filename or self._folder}: cannot be read ({error.strerror or error})") from error
        counts = {part: len(listed.paths) for part, listed in parts.items()}
        if (counts, len(names)) != (expected.counts, expected.num_classes):
            raise BadInput(
                f"{self.label}: {_in_words(counts)} and {len(names)} classes in {self._folder}, expected "
                f"{_in_words(expected.counts)} and {expected.num_classes}; {again}"
            )
        if why := none_there(self._folder, parts):
            raise self._missing(f"in {self._folder} {why}")
        return parts, names


def _in_words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {part} images" for part, count in counts.items())
