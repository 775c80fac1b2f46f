"""A pass over the training images that takes gradients and no step."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from peftbench.train.batches import Batches, in_groups
from peftbench.train.options import OptimSpec, TrainSpec
from peftbench.train.step import Step, size_of

# what is done ahead of an epoch, given its number from 0
Ahead = Callable[[int], None]


class Survey:
    """The training images with the tensors as they are, ahead of an epoch (`methods.observation.Survey`).

    Each pass has an order and draws of its own, which no epoch of training has.
    """

    def __init__(self, step: Step, batches: Batches, optim: OptimSpec, train: TrainSpec) -> None:
        self._step, self._batches, self._train = step, batches, train
        self.tensors: list[Tensor] = step.tensors
        self.clip_norm = optim.clip_norm

    def __call__(self, epoch: int) -> Iterator[tuple[float, int]]:
        # progress counts steps
        told, self._batches.on_batch = self._batches.on_batch, None
        try:
            for group in in_groups(self._batches.epoch(self._train.epochs + epoch), self._train.accumulate):
                yield self._step.slopes(group), sum(map(size_of, group))
                self._step.forget()
        finally:
            self._batches.on_batch = told


def nothing_ahead(_: Survey) -> Ahead | None:
    """Of a method that does nothing between epochs."""
    return None
