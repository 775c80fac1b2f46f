"""What cells that run one after the other in a process have in common: the last backbone and the last data set."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from peftbench.backbones.base import Backbone
from peftbench.backbones.build import build_backbone
from peftbench.backbones.source import weights_id
from peftbench.config.gate import RunConfig
from peftbench.data.base import Source, Split
from peftbench.data.fewshot.draw import few_shot

T = TypeVar("T")


class Last(Generic[T]):
    """The thing that was made last, and what it was made from."""

    def __init__(self) -> None:
        self._made: tuple[Any, T] | None = None

    def of(self, key: Any, make: Callable[[], T]) -> T:
        if self._made is None or self._made[0] != key:
            # let go first: two large ones need not fit at once
            self._made = None
            self._made = key, make()
        return self._made[1]


@dataclass
class Opened:
    """A source, and those of its splits that were asked for, by what they were made from."""

    source: Source
    splits: dict[Any, Split] = field(default_factory=dict)

    def split(self, key: Any, load: Callable[[], Split]) -> Split:
        if key not in self.splits:
            self.splits[key] = load()
        return self.splits[key]


@dataclass(frozen=True)
class Shared:
    backbone: Last[Backbone] = field(default_factory=Last)
    data: Last[Opened] = field(default_factory=Last)


_shared: ContextVar[Shared | None] = ContextVar("shared", default=None)


@contextmanager
def sharing() -> Iterator[None]:
    """Cells that run in here find the backbone and the data of the cell before, where theirs are the same.

    Nothing else passes from cell to cell, and no number changes: each has its own copy of the untouched weights.
    """
    if _shared.get() is not None:
        yield
        return
    token = _shared.set(Shared())
    try:
        yield
    finally:
        _shared.reset(token)


def backbone_of(config: RunConfig) -> Backbone:
    """The frozen backbone of a cell, on the CPU, the cell's own to change. Raises what `build_backbone` does."""
    shared = _shared.get()
    asked = config.backbone, config.train.drop_path, config.dataset.clip_length
    if shared is None:
        return build_backbone(*asked)
    # the digest too: a file may be another one by now
    key = *asked, weights_id(config.backbone)
    return copy.deepcopy(shared.backbone.of(key, lambda: build_backbone(*asked)))


def opened(config: RunConfig) -> Opened:
    """The data set of a cell, with a few-shot draw from it where the protocol asks for one.

    Raises what opening it does.
    """
    shared, protocol = _shared.get(), config.protocol
    if shared is None:
        return Opened(_open(config))
    draw = protocol.drawn(config.seed) if protocol.shots else None
    # a fresh copy: a spec may remember what it has found
    key = config.dataset, replace(config.dataset).revision(), protocol.shots, draw
    return shared.data.of(key, lambda: Opened(_open(config)))


def _open(config: RunConfig) -> Source:
    source, protocol = config.dataset.open(), config.protocol
    return few_shot(source, protocol.shots, *protocol.drawn(config.seed)) if protocol.shots else source
