"""A source made of a training and a test part (and perhaps a validation part) of any size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from peftbench.data.base import FULL_SPLITS, SPLIT_SIZES, FullSource
from peftbench.data.raw import RawSplit
from peftbench.data.splits import joined
from peftbench.data.tfds_order import NUM_TRAIN, NUM_VAL, hash_order
from peftbench.foundation.errors import BadInput

# The share of the training images that validates where a dataset names no validation images, as in VPT's FGVC splits.
VAL_PERCENT = 10


@dataclass(frozen=True)
class PartsSource(FullSource):
    """Serves all images (`train`, `val`, `trainval`) and VTAB-sized draws of them (`train800`, `val200`, both).

    Without `given_val` a tenth of the training images validates. Draws are stratified by class and depend on `seed`.
    """

    given_train: RawSplit
    given_val: RawSplit | None
    test_part: RawSplit
    seed: int
    tasks: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def class_tasks(self) -> tuple[str, ...]:
        return self.tasks

    @classmethod
    def of(
        cls, parts: Mapping[str, RawSplit], tested: str, divided: str = "", *, membership: str = "full", **fields: Any
    ) -> Self:
        """Of `train`, `test`, perhaps `val`. `tested`: whose the test images are, `divided`: how, where it was here."""
        test = ":".join(filter(None, [tested, str(len(parts["test"])), divided]))
        given, val = parts["train"], parts.get("val")
        return cls(
            membership=membership, test=test, given_train=given, given_val=val, test_part=parts["test"], **fields
        )

    def split(self, name: str) -> RawSplit:
        if name == "test":
            return self.test_part
        if name == "trainval":
            return self.given_train if self.given_val is None else joined(self.given_train, self.given_val)
        if name in FULL_SPLITS:
            return self._train_and_val()[FULL_SPLITS.index(name)]
        train800, val200 = self._vtab_sized()
        return {"train800": train800, "val200": val200}.get(name) or joined(train800, val200)

    def membership_of(self, name: str) -> str:
        return f"vtab1k-style:stratified-seed{self.seed}" if name in SPLIT_SIZES else self.membership

    def pool(self) -> RawSplit:
        return self.given_train

    def val_pool(self) -> RawSplit | None:
        return self.given_val

    def _train_and_val(self) -> tuple[RawSplit, RawSplit]:
        if self.given_val is not None:
            return self.given_train, self.given_val
        return full_split(self.given_train, "train", self.seed), full_split(self.given_train, "val", self.seed)

    def _vtab_sized(self) -> tuple[RawSplit, RawSplit]:
        """800 training and 200 validation images; the latter from the validation part when it has that many."""
        train, val = self.given_train, self.given_val
        own_val = val is not None and len(val) >= NUM_VAL
        if train.grouped and val is not None and not own_val:
            raise BadInput(
                f"val200 needs {NUM_VAL} clips of recordings that do not train and there are {len(val)}; "
                "use protocol=full"
            )
        needed = NUM_TRAIN if own_val else NUM_TRAIN + NUM_VAL
        if len(train) < needed:
            raise BadInput(
                f"train800 and val200 need {needed:,} training images and there are {len(train):,}; "
                "use all of them with protocol=full, or a few of each class with protocol=fewshot"
            )
        order = stratified_order(train.labels, self.seed)
        if val is not None and own_val:
            return train.take(order[:NUM_TRAIN]), val.take(stratified_order(val.labels, self.seed)[:NUM_VAL])
        return train.take(order[:NUM_TRAIN]), train.take(order[NUM_TRAIN:needed])


def full_split(whole: RawSplit, name: str, seed: int = 0) -> RawSplit:
    """`trainval` (all of `whole`), or of a stratified draw the last tenth (`val`) or the rest (`train`)."""
    if name == "trainval":
        return whole
    order = stratified_order(whole.labels, seed)
    if len(order) < 2:
        raise BadInput("val: there are too few training images to set some aside for validation")
    num_val = num_held_out(len(order))
    return whole.take(order[-num_val:] if name == "val" else order[:-num_val])


def num_held_out(num_train: int) -> int:
    """How many of so many training images validate where a dataset names no validation images."""
    return max(num_train * VAL_PERCENT // 100, 1)


def stratified_order(labels: np.ndarray, seed: int, keys: Iterable[str] | None = None) -> np.ndarray:
    """An order of the images whose every beginning holds the classes in proportion: int64 [num_images].

    A beginning as long as the number of classes holds one image of each. Within a class the order is that of the
    hashes of `keys` (by default the positions), so that the same seed gives the same order on every machine.
    """
    shuffled = hash_order(f"stratified-seed{seed}:", range(len(labels)) if keys is None else keys)
    rank, counts = ranks_within_class(labels[shuffled])
    return shuffled[np.argsort(rank / counts, kind="stable")]


def ranks_within_class(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each image, how many of its class come before it, and how many there are in all: int64 [num_images] each."""
    by_class = np.argsort(labels, kind="stable")
    _, start, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    rank = np.empty(len(labels), dtype=np.int64)
    rank[by_class] = np.arange(len(labels)) - np.repeat(start, counts)
    size = np.empty(len(labels), dtype=np.int64)
    size[by_class] = np.repeat(counts, counts)
    return rank, size


def class_notes(label: str, class_names: Sequence[str], parts: Mapping[str, np.ndarray]) -> list[str]:
    """A note on classes that are never tested. Raises `BadInput` for classes that are tested and never trained on.

    `parts`: labels by part, `train`, `test` and perhaps `val`.
    """
    present = {name: set(labels.tolist()) for name, labels in parts.items()}
    unlearnt = sorted((present["test"] | present.get("val", set())) - present["train"])
    if unlearnt:
        other = {class_names[index].lower(): class_names[index] for index in sorted(present["train"])}
        name = class_names[unlearnt[0]]
        if name.lower() in other:
            raise BadInput(
                f"{label}: classes '{other[name.lower()]}' and '{name}' differ only by case, and the second has no "
                "training image; give both the same name"
            )
        raise BadInput(
            f"{label}: {len(unlearnt)} of {len(class_names)} classes have no training image, first "
            f"'{class_names[unlearnt[0]]}'; put some in the train part or take the class away"
        )
    untested = sorted(present["train"] - present["test"])
    if not untested:
        return []
    first = class_names[untested[0]]
    return [f"{label}: {len(untested)} of {len(class_names)} classes have no test image, first '{first}'"]
