"""A pass over the training images that takes gradients and no step."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from peftbench.train.batches import Batches
from peftbench.train.options import OptimSpec, TrainSpec
from peftbench.train.step import Step, size_of, steps_of

# what is done ahead of an epoch, given its number from 0
Ahead = Callable[[int], None]


class TrainingSurvey:
    """The training images with the tensors as they are, ahead of an epoch: a `methods.observation.Survey`.

    Each pass has an order and draws of its own, which no epoch of training has. Its batches say the epoch and the steps
    that come next. Buffers of the model, such as running statistics, are behind it as they were before.
    """

    def __init__(self, model: nn.Module, step: Step, batches: Batches, optim: OptimSpec, train: TrainSpec) -> None:
        self._model, self._step, self._batches, self._train = model, step, batches, train
        self.tensors: list[Tensor] = step.tensors
        self.clip_norm = optim.clip_norm

    def __call__(self, epoch: int) -> Iterator[tuple[float, int]]:
        # progress counts steps
        told, self._batches.on_batch = self._batches.on_batch, None
        kept = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        batches = self._batches.epoch(self._train.epochs + epoch)
        try:
            for micro_batches in steps_of(batches, epoch, len(self._batches), self._train.accumulate):
                yield self._step.slopes(micro_batches), sum(map(size_of, micro_batches))
        finally:
            self._step.forget()
            self._batches.on_batch = told
            with torch.no_grad():
                for buffer, value in kept:
                    buffer.copy_(value)


def nothing_ahead(_: TrainingSurvey) -> Ahead | None:
    """Of a method that does nothing between epochs."""
    return None
