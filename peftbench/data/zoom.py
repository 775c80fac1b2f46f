"""The middle of an image, enlarged to its size: of the corruptions that zoom."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def zoomed(x: NDArray[Any], factor: float) -> NDArray[Any]:
    """x [size, size, channels] linearly enlarged by `factor` and cut to its size again."""
    size = x.shape[0]
    part = int(np.ceil(size / factor))
    top = (size - part) // 2
    large = ndimage.zoom(x[top : top + part, top : top + part], (factor, factor, 1), order=1)
    trim = (large.shape[0] - size) // 2
    middle: NDArray[Any] = large[trim : trim + size, trim : trim + size]
    return middle
