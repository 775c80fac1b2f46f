"""TFDS's order of examples, which fixes the official 1,000 images of VTAB, rebuilt without TensorFlow.

Within a split, examples are sorted by the 128-bit MD5 of the split's name followed by the example's key
(tensorflow_datasets, core/hashing.py); VTAB's samples are slices of that order (arXiv:1910.04867, appendix A).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from peftbench.foundation.errors import BadInput

NUM_TRAIN, NUM_VAL = 800, 200


def hash_order(salt: str, keys: Iterable[str | int]) -> np.ndarray:
    """Positions of `keys` in the order of their salted MD5: int64 [num_keys]. `salt` is the TFDS name of the split.

    Integer keys are hashed as decimal text.
    """
    prefix = hashlib.md5(salt.encode(), usedforsecurity=False)
    hashes = bytearray()
    for key in keys:
        keyed = prefix.copy()
        keyed.update(str(key).encode())
        hashes += keyed.digest()
    halves = np.frombuffer(bytes(hashes), dtype=[("high", ">u8"), ("low", ">u8")])
    return np.lexsort((halves["low"], halves["high"])).astype(np.int64)


def train_and_val(num_images: int, percent: int = 90) -> tuple[np.ndarray, np.ndarray]:
    """Indices of train800 and val200 for sources keyed by a running index: train[:800] and the first 200 after a cut.

    Returns int64 [800] and [200]. Raises `BadInput` when the split is too small for the two not to overlap.
    """
    cut = num_images * percent // 100
    if cut < NUM_TRAIN or num_images - cut < NUM_VAL:
        raise BadInput(
            f"the train split has {num_images} images; "
            f"choosing {NUM_TRAIN} + {NUM_VAL} of them by VTAB's rule needs about 2,000"
        )
    order = hash_order("train", range(num_images))
    return order[:NUM_TRAIN], order[cut : cut + NUM_VAL]
