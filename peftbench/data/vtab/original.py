"""VTAB-1k tasks from the original archives: the official 1,000 images, rebuilt without TensorFlow."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from peftbench.data.base import DATASETS, Source
from peftbench.data.raw import RawSplit
from peftbench.data.sources.torchvision_sets import TorchvisionSet
from peftbench.data.splits import joined
from peftbench.data.tfds_order import NUM_TRAIN, NUM_VAL, hash_order
from peftbench.data.vtab.originals.examples import Examples, Splits
from peftbench.data.vtab.originals.facts import BY_TORCHVISION, OFFICIAL, ORIGINALS, UNAVAILABLE, Original
from peftbench.data.vtab.originals.fetch import fetch
from peftbench.data.vtab.spec import VtabSpec
from peftbench.data.vtab.tasks import VTAB_TASKS
from peftbench.foundation.entries import all_below, matching
from peftbench.foundation.errors import BadInput, MissingInput
from peftbench.foundation.location import default_cache_dir, user_path
from peftbench.foundation.spec import option

_VERSION = 2
T = TypeVar("T")


@DATASETS.add("vtab_original")
@dataclass(frozen=True)
class VtabOriginal(VtabSpec):
    """One VTAB-1k task from its original archive, with VTAB's sample and VTAB's labels.

    `originals`: the folder of unpacked archives, by default `torchvision` in the cache folder, laid out as torchvision
    does it. `download`: fetch what is missing, where torchvision can.
    """

    task: str = option("svhn", choices=lambda: list(VTAB_TASKS))
    originals: str | None = option(None, location=True)
    download: bool = option(False, location=True)

    @property
    def root(self) -> Path:
        return user_path(self.originals, "dataset.originals") if self.originals else default_cache_dir() / "torchvision"

    @property
    def download_megabytes(self) -> int | None:
        if self.task in BY_TORCHVISION:
            return 169
        return ORIGINALS[self.task].megabytes if self.task in ORIGINALS else None

    def revision(self) -> str:
        if self.task in BY_TORCHVISION:
            return self._by_torchvision(lambda spec: spec.revision())
        source = self.open()
        digest = hashlib.sha256()
        for name in ("train800", "val200", "test"):
            split = source.split(name)
            digest.update(f"{name}\n{split.content_digest()}\n".encode() + split.labels.tobytes())
        return f"original:{self.task}:v{_VERSION}:{digest.hexdigest()}"

    def check(self) -> None:
        if self.task in BY_TORCHVISION:
            self._by_torchvision(lambda spec: spec.check())
            return
        original = self._facts()
        if self._absent(original) and not (self.download and original.download):
            raise self._missing(original)

    def inputs(self) -> list[Path]:
        if self.task in BY_TORCHVISION:
            return []
        return [path for place in self.places() for path in (place, *all_below(place))]

    def places(self) -> list[Path]:
        if self.task in BY_TORCHVISION:
            return self._by_torchvision(lambda spec: spec.places())
        tops = dict.fromkeys(marker.split("/")[0] for marker in self._facts().markers)
        return [path for top in tops for path in matching(self.root, top)]

    def open(self) -> Source:
        if self.task in BY_TORCHVISION:
            return self._by_torchvision(lambda spec: spec.open())
        original = self._facts()
        if self._absent(original):
            if not (self.download and original.download):
                raise self._missing(original)
            fetch(self.label, original, self.root)
        try:
            splits, class_names = original.read(self.root)
        except FileNotFoundError as error:
            raise MissingInput(
                f"{error.filename}: there is no such file; get {original.where}, below {self.root}"
            ) from error
        except OSError as error:
            raise BadInput(f"{error.filename or self.root}: cannot be read ({error.strerror or error})") from error
        self._check(original, splits, class_names)
        return self._source(original, splits, class_names)

    def _facts(self) -> Original:
        if self.task in UNAVAILABLE:
            raise MissingInput(f"{self.label}: {UNAVAILABLE[self.task]}; use the processed folder (dataset.root)")
        return ORIGINALS[self.task]

    def _by_torchvision(self, ask: Callable[[TorchvisionSet], T]) -> T:
        try:
            return ask(TorchvisionSet(task=self.task, root=self.originals, download=self.download))
        except MissingInput as error:
            # the reader's own advice names its own options
            what = error.what.partition(". Put ")[0]
            raise MissingInput(
                f"vtab/{what} (dataset.originals); `python -m peftbench data prepare {self.label}` downloads it"
            ) from error

    def _absent(self, original: Original) -> list[str]:
        return [marker for marker in original.markers if not any(matching(self.root, marker))]

    def _missing(self, original: Original) -> MissingInput:
        how = (
            f"`python -m peftbench data prepare {self.label}` downloads it ({original.megabytes:,} MB), or get"
            if original.download
            else f"get ({original.megabytes:,} MB)"
        )
        return MissingInput(
            f"{self.label}: no original in {self.root} (dataset.originals; lacks {', '.join(self._absent(original))}): "
            f"{how} {original.where}"
        )

    def _check(self, original: Original, splits: Splits, class_names: tuple[str, ...]) -> None:
        """Counts decide the slices, so that a copy with other counts cannot give the official sample."""
        problems = [
            f"{len(splits[name].keys):,} images in {name}, expected {count:,}"
            for name, count in original.counts.items()
            if len(splits[name].keys) != count
        ]
        if len(class_names) != self.facts.num_classes:
            problems.append(f"{len(class_names)} classes, expected {self.facts.num_classes}")
        if problems:
            raise BadInput(
                f"{self.label}: the original in {self.root} is not complete: {'; '.join(problems)}; "
                f"unpack it again: {original.where}"
            )

    def _source(self, original: Original, splits: Splits, class_names: tuple[str, ...]) -> Source:
        train = _slice(splits, ("train", 0), NUM_TRAIN)
        val = _slice(splits, original.val, NUM_VAL)
        test = _slice(splits, original.test, None)
        membership, notes = original.membership, original.notes
        if original.probes not in (None, (key_digest(*train), key_digest(*val))):
            membership = "vtab1k-style:tfds-order"
            notes = (*notes, f"{self.label}: its file names are not the published ones, so this is no official sample")
        official = membership == OFFICIAL
        num_test = len(test[1])
        return OriginalSource(
            class_names=class_names,
            membership=membership,
            pixels="original",
            test=f"official:{num_test}" if official else f"subset:{num_test}:{membership.split(':')[1]}",
            notes=notes,
            train=train,
            val=val,
            test_rows=test,
        )


# examples of one TFDS split and the rows chosen from them, in order
Chosen = tuple[Examples, np.ndarray]


@dataclass(frozen=True)
class OriginalSource(Source):
    """Slices of TFDS's order over the originals."""

    train: Chosen
    val: Chosen
    test_rows: Chosen

    def split(self, name: str) -> RawSplit:
        if name == "train800val200":
            return joined(self.split("train800"), self.split("val200"))
        examples, rows = {"train800": self.train, "val200": self.val, "test": self.test_rows}[name]
        return examples.pick(rows)


def key_digest(examples: Examples, rows: np.ndarray) -> str:
    """First 16 hex digits of the SHA-256 over the chosen keys, one a line, in order."""
    text = "\n".join(str(examples.keys[row]) for row in rows)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _slice(splits: Splits, start: tuple[str, int], num: int | None) -> Chosen:
    """`num` examples (None: all that follow) of a split's order, from a percentage of it on."""
    name, percent = start
    examples = splits[name]
    order = hash_order(name, examples.keys)
    first = len(order) * percent // 100
    return examples, order[first:] if num is None else order[first : first + num]
