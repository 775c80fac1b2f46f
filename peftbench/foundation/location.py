"""Where peftbench keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache_dir() -> Path:
    """The folder named by PEFTBENCH_CACHE, else ~/.cache/peftbench."""
    named = os.environ.get("PEFTBENCH_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "peftbench"
