"""Few-shot training sets: the same number of images of every class, drawn from any dataset."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from peftbench.data.base import RawSplit, Source
from peftbench.data.parts import ranks_within_class
from peftbench.data.tfds_order import hash_order
from peftbench.foundation.errors import BadInput

# A tuning set of more images than this per class would no longer be few-shot (CoOp, arXiv:2109.01134).
MAX_VAL_SHOTS = 4
FEW_SHOT_SPLITS = ("fewshot", "fewshot_val")


def few_shot(source: Source, shots: int, seed: int, membership: str) -> Source:
    """`source` with the splits `fewshot` (`shots` images of every class) and `fewshot_val` (at most 4, others).

    Draws of one seed are nested: 4 shots hold the images of 2 shots. `membership` is what records say of the draw.
    """
    return FewShotSource(
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
class FewShotSource(Source):
    """`whole` and a draw of `shots` images a class from its pool."""

    whole: Source
    shots: int
    seed: int

    @property
    def targets(self) -> tuple[str, ...]:
        return self.whole.targets

    @property
    def splits(self) -> tuple[str, ...]:
        return (*FEW_SHOT_SPLITS, *self.whole.splits)

    def split(self, name: str) -> RawSplit:
        if name not in FEW_SHOT_SPLITS:
            return self.whole.split(name)
        pool = self.whole.pool()
        if pool.maps:
            raise BadInput("images with maps have no class to draw a few of each; choose a protocol without shots")
        order = hash_order(f"few-shot-seed{self.seed}:", range(len(pool)))
        rank, counts = ranks_within_class(pool.labels[order])
        num_val = min(self.shots, MAX_VAL_SHOTS) if name == "fewshot_val" else 0
        self._check_counts(pool, self.shots + num_val)
        chosen = rank >= counts - num_val if num_val else rank < self.shots
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
