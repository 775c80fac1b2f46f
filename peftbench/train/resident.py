"""Batches that the device makes by itself, from tensors that are written once an epoch."""

from __future__ import annotations

import torch
from torch import Tensor

from peftbench.train.augment import Draws
from peftbench.train.batches import Batch, Batches


class ResidentEpoch:
    """The same batches as `batches.epoch(epoch)` gives, one for each call of `next`, without a word from the host.

    Order and random numbers of an epoch are copied to the device by `begin`, always into the same tensors, and a
    counter there tells where the epoch is: so the work of `next` can be recorded once and replayed.
    `batches.needs_host` must be empty.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._order, self._draws, self._mixing = (
            {name: tensor.to(batches.device, copy=True) for name, tensor in tables.items()}
            for tables in self._tables(0)
        )
        self._step = torch.zeros(1, dtype=torch.int64, device=batches.device)

    def begin(self, epoch: int) -> None:
        """Write what `epoch` has of its own."""
        for kept, tables in zip((self._order, self._draws, self._mixing), self._tables(epoch), strict=True):
            for name, tensor in tables.items():
                kept[name].copy_(tensor)
        self._step.zero_()

    def next(self, size: int) -> Batch:
        """The next batch, of `size` samples."""
        index = self._of_step(self._order["order"])[:size]
        mixing = {name: self._of_step(drawn) for name, drawn in self._mixing.items()}
        if mixing:
            mixing["partner"] = mixing["partner"][:size]
        batch = self._batches.gathered(index, {name: draw[index] for name, draw in self._draws.items()}, mixing)
        self._step += 1
        return batch

    def _of_step(self, table: Tensor) -> Tensor:
        """Its row; not by a number without axes, which Python would read from the device."""
        return table.index_select(0, self._step)[0]

    def _tables(self, epoch: int) -> tuple[dict[str, Tensor], Draws, Draws]:
        """Order and mixing by step, draws by sample; a short last batch has as long a row as the others."""
        batches = self._batches
        drawn = [batches.mixing(epoch, step, size) for step, size in enumerate(batches.sizes)]
        for mixing in drawn:
            if mixing:
                missing = batches.batch_size - len(mixing["partner"])
                mixing["partner"] = torch.nn.functional.pad(mixing["partner"], (0, missing))
        mixings = {name: torch.stack([mixing[name] for mixing in drawn]) for name in drawn[0]}
        order = batches.order(epoch)[: sum(batches.sizes)]
        missing = len(batches) * batches.batch_size - len(order)
        rows = torch.nn.functional.pad(order, (0, missing)).view(len(batches), batches.batch_size)
        return {"order": rows}, batches.draws(epoch), mixings
