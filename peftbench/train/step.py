"""One optimiser step, for every method: forward, backward, clip and update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from peftbench.train.batches import Batch, in_groups
from peftbench.train.loss import LossFn, Model
from peftbench.train.optim import Schedule, build_optimizer, rates
from peftbench.train.options import OptimSpec, TrainSpec
from peftbench.train.precision import autocast


class Step:
    """A call takes the micro-batches of one optimiser step.

    All that changes from step to step lies in tensors that are written in place, and nothing waits for the device, so
    the work of a call can be recorded once and replayed (see `capture`). `losses`, float32 [micro-batches of an epoch],
    are those since `begin`.
    """

    def __init__(
        self,
        forward: Model,
        loss_fn: LossFn,
        groups: list[dict[str, Any]],
        optim: OptimSpec,
        train: TrainSpec,
        schedule: Schedule,
        device: torch.device,
        num_micro_batches: int,
    ) -> None:
        self._forward, self._loss_fn = forward, loss_fn
        self._optim, self._train, self._device = optim, train, device
        self.tensors: list[Tensor] = [tensor for group in groups for tensor in group["params"]]
        self._optimizer = build_optimizer(groups, optim)
        self._rates = rates(self._optimizer, schedule, device)
        self._scaler = torch.amp.GradScaler(device.type, enabled=scales(train, device))
        self.losses = torch.zeros(num_micro_batches, device=device)
        self._places = torch.arange(num_micro_batches, device=device)
        self._place = torch.zeros((), dtype=torch.int64, device=device)

    def begin(self) -> None:
        """An epoch begins."""
        self._place.zero_()

    def __call__(self, micro_batches: Sequence[Batch]) -> None:
        self._rates.advance()
        for loss in self._backward(micro_batches):
            # Kept on the device: asking for it every step would stall the queue.
            torch.where(self._places == self._place, loss, self.losses, out=self.losses)
            self._place += 1
        if self._optim.clip_norm is not None:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self.tensors, self._optim.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)

    def slopes(self, micro_batches: Sequence[Batch]) -> float:
        """The mean loss of a step that is not taken; its gradients, neither scaled nor clipped, stay until the next.

        Those before are dropped. Where they overflowed, losses are scaled less from here on, as behind a step.
        """
        self.forget()
        sizes = [size_of(batch) for batch in micro_batches]
        losses = [float(loss) * size for loss, size in zip(self._backward(micro_batches), sizes, strict=True)]
        self._scaler.unscale_(self._optimizer)
        self._scaler.update()
        return sum(losses) / sum(sizes)

    def forget(self) -> None:
        """The gradients of `slopes` are dropped."""
        self._optimizer.zero_grad(set_to_none=True)

    def _backward(self, micro_batches: Sequence[Batch]) -> Iterator[Tensor]:
        """Adds to the gradients those of the micro-batches of a step; the loss of each as it comes."""
        num_in_step = sum(map(size_of, micro_batches))
        for batch in micro_batches:
            with autocast(self._device, self._train.precision):
                loss = self._loss_fn(self._forward, batch)
            # Weighted by size, so that a short last micro-batch counts as it would in one large batch.
            share = size_of(batch) / num_in_step
            self._scaler.scale(loss if share == 1 else loss * share).backward()
            yield loss.detach()


def steps_of(batches: Iterable[Batch], epoch: int, num_batches: int, accumulate: int) -> Iterator[list[Batch]]:
    """The micro-batches of every step of an epoch of so many batches, each with `epoch` and `step` (see `Started`)."""
    first = epoch * -(-num_batches // accumulate)
    for number, micro_batches in enumerate(in_groups(batches, accumulate), first):
        yield [batch | _place(batch["index"], epoch, number) for batch in micro_batches]


def _place(index: Tensor, epoch: int, step: int) -> Batch:
    """Where in training a batch of these samples is."""
    return {"epoch": torch.full_like(index, epoch), "step": torch.full(index.shape, step, dtype=torch.int64)}


def size_of(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def scales(train: TrainSpec, device: torch.device) -> bool:
    """Whether losses are scaled up, and steps skipped where gradients overflowed: fp16 on CUDA."""
    return train.precision == "fp16" and device.type == "cuda"
