"""Files of Matlab up to version 7.2, whatever is wrong with them said in one line."""

from __future__ import annotations

import struct
import zlib
from typing import Any, BinaryIO

from peftbench.foundation.errors import BadInput


def variables(stream: BinaryIO, name: str, **choice: Any) -> dict[str, Any]:
    """The variables by name; `choice` is scipy's. Raises `BadInput`, calling the file `name`, for what is none."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        found: dict[str, Any] = loadmat(stream, **choice)
    except (
        MatReadError,
        NotImplementedError,
        OSError,
        EOFError,
        ValueError,
        TypeError,
        LookupError,
        struct.error,
        zlib.error,
    ) as error:
        raise BadInput(f"{name}: it is no Matlab file up to version 7.2 ({error}); copy it again") from error
    return found
