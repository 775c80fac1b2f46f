"""What of a cell's training need not be computed in every epoch: found, computed once, checked, and handed out."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from peftbench.cells.parts import Parts
from peftbench.cells.shared import held_frozen
from peftbench.config.gate import RunConfig
from peftbench.config.runtime import RuntimeSpec
from peftbench.data.ready import Split
from peftbench.foundation import matmul
from peftbench.foundation.memory import free_memory
from peftbench.train.augment import Augment
from peftbench.train.batches import Batches
from peftbench.train.frozen import FrozenCall, FrozenWork, frozen_work
from peftbench.train.precision import autocast
from peftbench.train.replay import Replay, agree, kept_values, repeats

# with less of either, keeping costs about what it spares
LEAST_SHARE = 0.25
LEAST_EPOCHS = 3
_NUM_PROBED = 3


@dataclass(frozen=True)
class Kept:
    """A model without its frozen work, and batches of what the rest of it reads."""

    module: Replay
    batches: Batches
    values: list[Tensor] = field(repr=False)

    @property
    def num_bytes(self) -> int:
        return sum(values.nbytes for values in self.values)


class Keeper:
    """Keeps the frozen work of a cell, within a budget.

    facts: what the record says of it: the `share` of the forward pass's floating-point operations that is not
    repeated in training, the `bytes` that takes, `why` nothing was kept where much could have been, and whether it was
    `found` with an earlier cell of the same process.
    """

    def __init__(self, config: RunConfig, runtime: RuntimeSpec, parts: Parts) -> None:
        self._config, self._runtime, self._parts = config, runtime, parts
        self._held = held_frozen(config)
        self._left, self._on_disk = _budget(runtime, parts.data.device)
        self.facts: dict[str, float | int | str] = {}

    def pooled(self, split: Split, training: bool) -> Kept:
        """The head on pooled features from evaluation batches: what `train.cache_features` says."""
        backbone = self._parts.model.backbone
        call = FrozenCall(backbone, 0, (backbone.feature_dim,), torch.float32, (0,))
        in_order = self._parts.data.evaluation(split)
        return self._kept(split, FrozenWork((call,), (), False, 1.0), in_order, training, mode=False)

    def training(self, split: Split) -> Kept | None:
        """The rest of the model for training; None where little is frozen, room is short, or bits would differ.

        What is kept is computed in batches of the training size, in the order of the split. That the shuffled
        batches of an epoch give the very same bits is tried on a few of them.
        """
        if not self._wanted():
            return None
        data, train = self._parts.data, self._config.train
        in_order = data.evaluation(split, batch_size=train.batch_size)
        if (work := self._work(in_order, training=True)) is None:
            return None
        self.facts = {"share": round(work.share, 4), "bytes": 0}
        if why := self._no_room(work, split, in_order):
            self.facts["why"] = why
            return None
        kept = self._kept(split, work, in_order, training=True, mode=True)
        if not repeats(kept.module.train(), data.training(split), train.precision, kept.values):
            self._left += kept.num_bytes
            self._held.clear()
            self.facts["why"] = "batches of other samples give other bits"
            return None
        self.facts["bytes"] = kept.num_bytes
        return kept

    def validation(self, split: Split) -> Kept | None:
        """The same for validation, whose batches hold the same samples every time."""
        if not self._wanted():
            return None
        in_order = self._parts.data.evaluation(split)
        if (work := self._work(in_order, training=False)) is None:
            return None
        if self._no_room(work, split, in_order):
            return None
        kept = self._kept(split, work, in_order, training=False, mode=False)
        return kept if repeats(kept.module.eval(), in_order, self._config.train.precision, kept.values, 1) else None

    def _wanted(self) -> bool:
        config, train = self._config, self._config.train
        lasting = train.epochs >= LEAST_EPOCHS and not (train.compile or train.recompute)
        return self._runtime.feature_cache != "off" and lasting and same_inputs(config) and config.objective.plain

    def _work(self, batches: Batches, training: bool) -> FrozenWork | None:
        """What is frozen in a mode, None where that is little."""
        model = self._parts.model.train(training)
        inputs = tuple(values.new_zeros(_NUM_PROBED, *values.shape[1:]) for values in _first(batches))
        with autocast(batches.device, self._config.train.precision):
            work = frozen_work(model, inputs)
        return work if work.share >= LEAST_SHARE and work.kept else None

    def _no_room(self, work: FrozenWork, split: Split, in_order: Batches) -> str:
        needed = work.bytes_per_sample * len(split)
        if needed <= self._left or self._key(split, work.kept, in_order) in self._held:
            return ""
        return f"it needs {needed / 1e9:.1f} GB where runtime.feature_cache allows {self._left / 1e9:.1f}"

    def _kept(self, split: Split, work: FrozenWork, in_order: Batches, training: bool, mode: bool) -> Kept:
        """`mode`: train or eval mode of the model while its frozen work is computed."""
        data, model = self._parts.data, self._parts.model.train(mode)
        values = self._values(split, work.kept, in_order)
        shapes = [tuple(given.shape[1:]) for given in _first(in_order)]
        module = Replay(model, work, dict(zip(model.inputs, shapes, strict=True)))
        inputs = {**(split.inputs if module.read else {}), **dict(zip(module.kept, values, strict=True))}
        batches = data.training(split, inputs) if training else data.evaluation(split, inputs=inputs)
        return Kept(module, batches, values)

    def _values(self, split: Split, calls: Sequence[FrozenCall], in_order: Batches) -> list[Tensor]:
        """Outputs of the calls for the whole split: those of an earlier cell where they are the same, or new ones."""
        model, precision = self._parts.model, self._config.train.precision
        key = self._key(split, calls, in_order)
        if key in self._held:
            values = self._held[key][1]
            if agree(model, calls, in_order, precision, values):
                self.facts["found"] = 1
                return values
            del self._held[key], values
        values = [self._room(len(split), call) for call in calls]
        kept_values(model, calls, in_order, precision, values)
        self._left -= sum(tensor.nbytes for tensor in values)
        self._held[key] = split, values
        return values

    def _key(self, split: Split, calls: Sequence[FrozenCall], in_order: Batches) -> Any:
        """Which outputs are meant, beside what `held_frozen` tells cells apart by."""
        model = self._parts.model
        names = {module: name for name, module in model.named_modules()}
        of_calls = tuple((names[call.module], call.number, call.shape, call.dtype, call.order) for call in calls)
        sums = torch.get_num_threads(), matmul.in_use()
        return of_calls, id(split), in_order.batch_size, model.training, in_order.device, *sums

    def _room(self, num_samples: int, call: FrozenCall) -> Tensor:
        """An empty tensor [num_samples, *packed_shape], in memory or, where that is short, in a file without a name."""
        shape, device = (num_samples, *call.packed_shape), self._parts.data.device
        size = num_samples * call.bytes_per_sample
        if device.type != "cpu" or size == 0 or not self._on_disk:
            return torch.empty(shape, dtype=call.dtype, device=device)
        folder = self._runtime.cache_root
        with tempfile.NamedTemporaryFile(dir=folder, prefix="frozen.") as file:
            flat = torch.from_file(file.name, shared=True, size=size // call.dtype.itemsize, dtype=call.dtype)
        return flat.view(shape)


def _first(batches: Batches) -> tuple[Tensor, ...]:
    """The inputs of the first batch."""
    return batches.inputs_of(next(iter(batches.epoch(0))))


def same_inputs(config: RunConfig) -> bool:
    """Whether a sample reaches the model as the same numbers in every epoch."""
    train = config.train
    return not (Augment.of(train).active or train.mixup or train.cutmix)


def _budget(runtime: RuntimeSpec, device: torch.device) -> tuple[int, bool]:
    """Bytes that may be kept, and whether on disk."""
    half = (_free_on_gpu(device) if device.type == "cuda" else free_memory()) // 2
    asked = runtime.feature_gb
    if asked is None or asked * 1e9 <= half:
        return (half if asked is None else int(asked * 1e9)), False
    if device.type != "cpu":
        return half, False
    folder = runtime.cache_root
    folder.mkdir(parents=True, exist_ok=True)
    return min(int(asked * 1e9), shutil.disk_usage(folder).free // 2), True


def _free_on_gpu(device: torch.device) -> int:
    """With what torch keeps of memory that was given back, such as that of the cell before."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept
