"""Few-shot training sets: the same number of images of every class, drawn from any dataset."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from peftbench.data.around import SourceAround
from peftbench.data.base import Source
from peftbench.data.parts import ranks_within_class
from peftbench.data.raw import RawSplit
from peftbench.data.tfds_order import hash_order
from peftbench.foundation.errors import BadInput

# A tuning set of more images than this per class would no longer be few-shot (CoOp, arXiv:2109.01134).
MAX_VAL_SHOTS = 4
FEW_SHOT_SPLITS = ("fewshot", "fewshot_val")


NESTED, COOP = "nested", "coop"


def few_shot(source: Source, shots: int, seed: int, membership: str, order: str = NESTED) -> Source:
    """`source` with the splits `fewshot` (`shots` images of every class) and `fewshot_val` (at most 4, others).

    Draws of one seed are nested: 4 shots hold the images of 2 shots; those of the `order` "coop" are not, and equal
    the published ones (see `CoopDraw`). `membership` is what records say of the draw.
    """
    kind = CoopDraw if order == COOP else FewShotSource
    return kind(
        class_names=source.class_names,
        membership=membership,
        pixels=source.pixels,
        test=source.test,
        notes=source.notes,
        whole=source,
        shots=shots,
        seed=seed,
    )


@dataclass(frozen=True)
class FewShotSource(SourceAround):
    """`whole` and a draw of `shots` images a class from its pool.

    Where recordings are known, `fewshot_val` is drawn from the validation part, which has recordings of its own.
    """

    shots: int
    seed: int

    @property
    def splits(self) -> tuple[str, ...]:
        return (*FEW_SHOT_SPLITS, *self.whole.splits)

    def split(self, name: str) -> RawSplit:
        if name not in FEW_SHOT_SPLITS:
            return self.whole.split(name)
        pool = self.whole.pool()
        if pool.maps:
            raise BadInput("images with maps have no class to draw a few of each; choose a protocol without shots")
        return self._drawn(name, pool)

    def _drawn(self, name: str, pool: RawSplit) -> RawSplit:
        num_val = min(self.shots, MAX_VAL_SHOTS) if name == "fewshot_val" else 0
        apart = self.whole.val_pool() if num_val and pool.grouped else None
        if apart is None:
            self._check_counts(pool, self.shots + num_val)
        else:
            # near copies of what trains would choose what knows those; a class with fewer gives all it has
            pool = apart
        order = hash_order(f"few-shot-seed{self.seed}:", range(len(pool)))
        rank, counts = ranks_within_class(pool.labels[order])
        # out of one pool those that validate are the last, and those that train the first
        chosen = rank >= counts - num_val if num_val and apart is None else rank < (num_val or self.shots)
        # by rank, then class: the draw for fewer shots is a beginning of the one for more
        rows = order[chosen][np.lexsort((pool.labels[order][chosen], rank[chosen]))]
        return pool.take(rows)

    def membership_of(self, name: str) -> str:
        return self.membership if name in FEW_SHOT_SPLITS else self.whole.membership_of(name)

    def pool(self) -> RawSplit:
        return self.whole.pool()

    def _check_counts(self, pool: RawSplit, needed: int) -> None:
        counts = np.bincount(pool.labels, minlength=self.num_classes)
        scarce = int(counts.argmin())
        if counts[scarce] < needed:
            advice = f"at most protocol.shots={counts[scarce]} can be drawn" if counts[scarce] else "none can be drawn"
            raise BadInput(
                f"protocol.shots={self.shots} needs {needed} training images of every class and class "
                f"'{self.class_names[scarce]}' has {counts[scarce]}; {advice} from this dataset"
            )


@dataclass(frozen=True)
class CoopDraw(FewShotSource):
    """CoOp's draw (KaiyangZhou/Dassl.pytorch, `generate_fewshot_dataset`), path for path and in its order.

    Python's own generator, once seeded: `shots` of every class of the training images, the classes in the order in
    which they first appear, then in the same stream at most 4 of every class of the validation images, or of the
    training images that are left where there are no others. A class with fewer gives all it has.
    """

    def _drawn(self, name: str, pool: RawSplit) -> RawSplit:
        stream = random.Random(self.seed)
        rows = _sampled(stream, pool.labels, np.arange(len(pool)), self.shots)
        if name == "fewshot":
            self._check_counts(pool, 1)
            return pool.take(rows)
        val = self.whole.val_pool()
        left = np.setdiff1d(np.arange(len(pool)), rows) if val is None else np.arange(len(val))
        chosen = _sampled(stream, (pool if val is None else val).labels, left, min(self.shots, MAX_VAL_SHOTS))
        if not len(chosen):
            raise BadInput(f"protocol.shots={self.shots} leaves no image to validate on; take fewer shots")
        return (pool if val is None else val).take(chosen)


def _sampled(stream: random.Random, labels: np.ndarray, rows: np.ndarray, shots: int) -> np.ndarray:
    """`shots` of the `rows` of every label, as `random.sample` chooses and orders them."""
    by_label: dict[int, list[int]] = {}
    for row in rows.tolist():
        by_label.setdefault(int(labels[row]), []).append(row)
    drawn = [stream.sample(found, shots) if len(found) >= shots else found for found in by_label.values()]
    return np.array([row for found in drawn for row in found], dtype=np.int64)
