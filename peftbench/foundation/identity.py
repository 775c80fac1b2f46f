"""Identity of a cell: the plain dict of everything that can change its numbers, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(identity: dict[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical(identity).encode()).hexdigest()[:16]


def group_fingerprint(identity: dict[str, Any]) -> str:
    """The same without the seed: cells of one group are repetitions and may be averaged."""
    return fingerprint({key: value for key, value in identity.items() if key != "seed"})
