"""What drawn datasets share: an endless sequence of samples for each seed, and where the splits lie in it."""

from __future__ import annotations

import hashlib

import numpy as np

BOUNDS = {"train800": (0, 800), "val200": (800, 1000), "train800val200": (0, 1000), "test": (1000, 2000)}


def random_of(name: str, seed: int, index: int) -> np.random.RandomState:
    """The random numbers of one sample.

    RandomState: its stream is frozen, the newer Generator's may change between numpy versions.
    """
    entropy = hashlib.sha256(f"{name}:{seed}:{index}".encode()).digest()
    return np.random.RandomState(np.frombuffer(entropy, dtype="<u4"))
