"""RandAugment (arXiv:1909.13719) as timm has it, from one number for each picture."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL.Image import Image, Resampling

# at 10 timm posterises to no bits at all, which Pillow refuses
_HIGHEST = 9.99


@dataclass(frozen=True)
class RandAugment:
    """`number` of timm's operations for `rand-mM-nN-mstd0.5-inc1`, each with a chance of one half, of `magnitude` 0 to
    10 with a deviation of 0.5. Pictures with the same seed are changed alike.
    """

    number: int
    magnitude: int = 7

    def __call__(self, picture: Image, interpolation: str, seed: int) -> Image:
        with _chance_of(seed):
            changed: Image = _policy(self.number, self.magnitude, interpolation)(picture)
        return changed


@cache
def _policy(number: int, magnitude: int, interpolation: str) -> Any:
    from timm.data.auto_augment import rand_augment_transform

    options = {
        "interpolation": Resampling[interpolation.upper()],
        "img_mean": (128, 128, 128),
        "translate_pct": 0.45,
        "magnitude_max": _HIGHEST,
    }
    return rand_augment_transform(f"rand-m{magnitude}-n{number}-mstd0.5-inc1", options)


@contextmanager
def _chance_of(seed: int) -> Iterator[None]:
    """timm draws from the global generators of Python and NumPy: they start from `seed`, and are put back behind."""
    kept = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
