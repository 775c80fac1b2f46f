"""What cells that run one after the other in a process share: backbone, data set and frozen work of the last."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeAlias, TypeVar

from torch import Tensor

from peftbench.backbones.base import Backbone
from peftbench.backbones.build import build_backbone
from peftbench.backbones.options import BackboneSpec
from peftbench.backbones.source import weights_id
from peftbench.config.gate import RunConfig
from peftbench.data.base import Source
from peftbench.data.fewshot.draw import few_shot
from peftbench.data.halves import base_classes
from peftbench.data.ready import Split

T = TypeVar("T")

# Outputs of frozen calls for all samples of a split, by what the calls and their batches are. The split is held so that
# its id, which is part of the key, stays its own.
Held: TypeAlias = dict[Any, tuple[Split, list[Tensor]]]


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


@dataclass
class Shared:
    backbone: Last[Backbone] = field(default_factory=Last)
    data: Last[Opened] = field(default_factory=Last)
    frozen: Last[Held] = field(default_factory=Last)
    _asked: tuple[RunConfig, tuple[Any, Any]] | None = None

    def keys(self, config: RunConfig) -> tuple[Any, Any]:
        """What the backbone and the data of a cell are, found once for each cell: that takes a look at every file."""
        if self._asked is None or self._asked[0] is not config:
            self._asked = config, (_backbone_key(config), _data_key(config))
        return self._asked[1]


_shared: ContextVar[Shared | None] = ContextVar("shared", default=None)


@contextmanager
def sharing() -> Iterator[None]:
    """Cells that run in here find backbone, data and frozen work of the cell before, where theirs are the same.

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
    shared, asked = _shared.get(), _asked_backbone(config)
    if shared is None:
        return build_backbone(*asked)
    return copy.deepcopy(shared.backbone.of(shared.keys(config)[0], lambda: build_backbone(*asked)))


def opened(config: RunConfig) -> Opened:
    """The data set of a cell, with a few-shot draw from it where the protocol asks for one.

    Raises what opening it does.
    """
    shared = _shared.get()
    if shared is None:
        return Opened(_open(config))
    # what an earlier cell held for others of its kind may be large, and goes first
    held_frozen(config)
    return shared.data.of(shared.keys(config)[1], lambda: Opened(_open(config)))


def held_frozen(config: RunConfig) -> Held:
    """Where the frozen work of a cell is held for the next: empty, or what a cell of the same kind has left.

    Cells of a kind differ in seed, rates and length alone. What a seed may have changed in frozen tensors is for the
    caller to see.
    """
    shared, train = _shared.get(), config.train
    if shared is None:
        return {}
    key = shared.keys(config), config.method, config.task, train.precision, train.frozen_bf16, train.last_block
    return shared.frozen.of(key, dict)


def _asked_backbone(config: RunConfig) -> tuple[BackboneSpec, float, int]:
    return config.backbone, config.train.drop_path, config.dataset.clip_length


def _backbone_key(config: RunConfig) -> Any:
    # the digest too: a file may be another one by now
    return *_asked_backbone(config), weights_id(config.backbone)


def _data_key(config: RunConfig) -> Any:
    protocol = config.protocol
    draw = protocol.drawn(config.seed) if protocol.shots else None
    # a fresh copy: a spec may remember what it has found
    return config.dataset, replace(config.dataset).revision(), protocol.shots, draw, config.task.base_only


def _open(config: RunConfig) -> Source:
    source, protocol = config.dataset.open(), config.protocol
    if protocol.shots:
        source = few_shot(source, protocol.shots, *protocol.drawn(config.seed))
    return base_classes(source) if config.task.base_only else source
