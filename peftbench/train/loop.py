"""The training loop: one for every method; it never sees a test split and never looks at a method's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.foundation.errors import ConfigError, TrainingDiverged
from peftbench.foundation.metric import ACCURACY, Metric
from peftbench.foundation.seeding import derive, seed_everything
from peftbench.foundation.stopping import stop_if_told
from peftbench.train.batches import Batch, Batches, in_groups
from peftbench.train.loss import LossFn
from peftbench.train.measure import Stopwatch
from peftbench.train.optim import Schedule, build_optimizer
from peftbench.train.options import OptimSpec, TrainSpec, schedule_problems
from peftbench.train.precision import autocast

Row = dict[str, Any]


@dataclass(frozen=True)
class FitResult:
    """What training gave.

    curve: one row per epoch: `epoch` (from 1), `loss` (training mean), `lr` (last step), and the validation metric
        under `val_<name>`, None without validation.
    epoch_selected: the epoch whose tensors the model now holds.
    best_state: those tensors (trainable ones and buffers) when the validation split chose the epoch, else None.
    seconds: `train` (steps with their data), `data` (part of it spent waiting for batches), `eval`.
    """

    curve: list[Row]
    epoch_selected: int
    best_state: dict[str, Tensor] | None
    seconds: dict[str, float]
    num_steps: int
    num_images: int

    @property
    def images_per_second(self) -> float:
        return self.num_images / self.seconds["train"]


def fit(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Batches,
    validate: Callable[[], float] | None,
    optim: OptimSpec,
    train: TrainSpec,
    groups: list[dict[str, Any]],
    seed: int,
    on_epoch: Callable[[Row], None] | None = None,
    metric: Metric = ACCURACY,
) -> FitResult:
    """Trains the tensors in `groups` (see `param_groups`) and leaves `model` at the selected epoch.

    `loss_fn(model, batch)` is the mean loss of a batch. `validate()` measures the model as it is on the validation
    split and returns the number called `metric`. `on_epoch` gets each row of the curve as it is made.
    Dropout and drop-path draw from the global generators, which are seeded here from `seed`.

    Raises `ConfigError` for options that do not fit together, `TrainingDiverged` when a loss is not finite.
    """
    problems = schedule_problems(optim, train)
    if train.select == "best_val" and validate is None:
        problems.append("train.select=best_val needs a validation split; choose one or set train.select=last")
    if problems:
        raise ConfigError(problems)
    device = batches.device
    seed_everything(derive(seed, "fit"))
    optimizer = build_optimizer(groups, optim)
    tensors = [tensor for group in groups for tensor in group["params"]]
    trainable = {id(tensor) for tensor in model.parameters() if tensor.requires_grad}
    assert trainable == {id(tensor) for tensor in tensors}, "the groups must hold the trainable tensors, all and only"
    steps_per_epoch = -(-len(batches) // train.accumulate)
    schedule = Schedule(optim, train.epochs, steps_per_epoch)
    scaler = torch.amp.GradScaler(device.type, enabled=train.precision == "fp16" and device.type == "cuda")
    forward: Any = torch.compile(model) if train.compile else model
    watch = Stopwatch(device)
    bad_step = torch.full((), -1, dtype=torch.int64, device=device)
    curve: list[Row] = []
    validated = f"val_{metric.name}"
    best: Row | None = None
    best_score, best_state = None, None
    step, num_images, lr = 0, 0, 0.0

    for epoch in range(train.epochs):
        stop_if_told()
        model.train()
        loss_sum, num_seen = torch.zeros((), device=device), 0
        with watch.measure("train"):
            for micro_batches in in_groups(watch.timed("data", batches.epoch(epoch)), train.accumulate):
                lr = schedule.apply(optimizer, step)
                num_in_step = sum(map(_size, micro_batches))
                for batch in micro_batches:
                    with autocast(device, train.precision):
                        loss = loss_fn(forward, batch)
                    # Weighted by size, so that a short last micro-batch counts as it would in one large batch.
                    scaler.scale(loss * (_size(batch) / num_in_step)).backward()
                    loss_sum += loss.detach() * _size(batch)
                    # The first bad step is kept on the device: asking for it every step would stall the queue.
                    bad_step = torch.where((bad_step < 0) & ~torch.isfinite(loss.detach()), step, bad_step)
                if optim.clip_norm is not None:
                    scaler.unscale_(optimizer)
                    torch.nn.utils.clip_grad_norm_(tensors, optim.clip_norm)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad(set_to_none=True)
                num_seen += num_in_step
                step += 1
        _stop_if_diverged(int(bad_step), tensors, step, steps_per_epoch, train.epochs)
        num_images += num_seen
        row: Row = {"epoch": epoch + 1, "loss": loss_sum.item() / num_seen, "lr": lr, validated: None}
        if validate is not None:
            with watch.measure("eval"):
                row[validated] = validate()
        curve.append(row)
        if train.select == "best_val" and metric.improves(row[validated], best_score):
            best, best_score = row, row[validated]
            best_state = {name: tensor.detach().clone() for name, tensor in _changing(model).items()}
        if on_epoch is not None:
            on_epoch(row)

    if best_state is not None:
        with torch.no_grad():
            for name, tensor in _changing(model).items():
                tensor.copy_(best_state[name])
    return FitResult(curve, (best or curve[-1])["epoch"], best_state, dict(watch.seconds), step, num_images)


def _size(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _changing(model: nn.Module) -> dict[str, Tensor]:
    """Everything training can change: trainable tensors and buffers (running statistics)."""
    trainable: dict[str, Tensor] = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    return trainable | dict(model.named_buffers())


def _stop_if_diverged(bad_step: int, tensors: list[Tensor], step: int, steps_per_epoch: int, epochs: int) -> None:
    """Raises `TrainingDiverged` when a loss, or a tensor after the last step, is not finite."""
    if bad_step >= 0:
        what, last = "the loss", bad_step + 1
    elif not torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all():
        what, last = "a trained tensor", step
    else:
        return
    where = f"step {last} (epoch {(last - 1) // steps_per_epoch + 1} of {epochs})"
    advice = "try a smaller optim.lr, optim.clip_norm=1 or train.precision=fp32"
    raise TrainingDiverged(f"{what} is not finite at {where}; {advice}")
