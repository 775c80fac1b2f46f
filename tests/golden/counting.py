"""What the tests of trainable-parameter counts share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# (method, options) -> number of parameters that train
Count = Callable[[str, dict[str, Any]], int]
