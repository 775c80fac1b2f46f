"""What stands in the way of reading a data set: the first ends a run, `data verify` names all of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from peftbench.foundation.errors import BadInput

_collected: ContextVar[list[str] | None] = ContextVar("collected", default=None)


@contextmanager
def collecting() -> Iterator[list[str]]:
    """Within it `refuse` adds to the list, each obstacle once, and reading goes on without what it names."""
    found: list[str] = []
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


def is_collecting() -> bool:
    """Whether whoever reads wants to hear of every image, so that a faulty one is to be left to them."""
    return _collected.get() is not None


def refuse(error: BadInput) -> None:
    """Raises `error`, or notes it while obstacles are collected."""
    found = _collected.get()
    if found is None:
        raise error
    if str(error) not in found:
        found.append(str(error))
