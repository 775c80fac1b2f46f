"""How much memory this process may still take."""

from __future__ import annotations

from pathlib import Path

_GROUP = Path("/sys/fs/cgroup")


def free_memory() -> int:
    """Bytes of main memory that are free or held by caches that give way; a container's limit counts. 0: not known."""
    free = [free for free in (_of_machine(), _of_group()) if free is not None]
    return max(0, min(free, default=0))


def _of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else None


def _of_group() -> int | None:
    """What the control group leaves (cgroup v2); its cached files give way."""
    try:
        limit, used = ((_GROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        facts = dict(line.split() for line in (_GROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else int(limit) - int(used) + int(facts.get("inactive_file", 0))
