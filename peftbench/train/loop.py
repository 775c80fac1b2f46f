"""The training loop: one for every method; it never sees a test split and never looks at a method's name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from peftbench.foundation.errors import ConfigError, TrainingDiverged
from peftbench.foundation.metric import ACCURACY, Metric
from peftbench.foundation.seeding import derive, seed_everything
from peftbench.foundation.stopping import stop_if_told
from peftbench.foundation.written import write_tensors
from peftbench.train.average import EpochAverage, epoch_weights
from peftbench.train.batches import Batches
from peftbench.train.blocks import Blocks
from peftbench.train.capture import Graphs, Sizes, reason_against
from peftbench.train.loss import LossFn
from peftbench.train.measure import Stopwatch
from peftbench.train.optim import Schedule
from peftbench.train.options import OptimSpec, TrainSpec, schedule_problems
from peftbench.train.resident import ResidentEpoch
from peftbench.train.step import Step, steps_of
from peftbench.train.survey import Ahead, TrainingSurvey, nothing_ahead

Row = dict[str, Any]


@dataclass(frozen=True)
class FitResult:
    """What training gave.

    curve: one row per epoch: `epoch` (from 1), `loss` (training mean), `lr` (last step), and the validation metric
        under `val_<name>`, None without validation.
    epoch_selected: the epoch whose tensors the model now holds.
    best_state: those tensors (trainable ones and buffers) when the validation split chose the epoch, else None.
    seconds: `train` (steps with their data, and what is done ahead of epochs), `data` (part of it that steps waited for
        batches), `eval`.
    capture: `captured` when the steps ran as a CUDA graph, else why they did not, in words.
    """

    curve: list[Row]
    epoch_selected: int
    best_state: dict[str, Tensor] | None
    seconds: dict[str, float]
    num_steps: int
    num_images: int
    capture: str

    @property
    def images_per_second(self) -> float:
        return self.num_images / self.seconds["train"]


def unfitted() -> FitResult:
    """Of a model in which nothing trains."""
    return FitResult([], 0, None, {"train": 0.0}, 0, 0, "nothing trains")


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
    against_capture: str = "not asked for",
    blocks: Sequence[nn.Module] = (),
    before_epochs: Callable[[TrainingSurvey], Ahead | None] = nothing_ahead,
) -> FitResult:
    """Trains the tensors in `groups` (see `param_groups`) and leaves `model` at the selected epoch.

    `loss_fn(model, batch)` is the mean loss of a batch. `validate()` measures the model as it is on the validation
    split and returns the number called `metric`. `on_epoch` gets each row of the curve as it is made.
    Dropout and drop-path draw from the global generators, which are seeded here from `seed`.
    `blocks` are the parts of the model that `train.compile` and `train.recompute` act on.
    `against_capture` says why steps must not be captured as CUDA graphs, which changes no number; empty lets them.
    `before_epochs` is given passes that take no step, and says what is done ahead of each epoch.

    Raises `ConfigError` for options that do not fit together, `TrainingDiverged` when a loss is not finite.
    """
    _refuse_unfitting(optim, train, validated=validate is not None)
    device = batches.device
    seed_everything(derive(seed, "fit"))
    trainable = {id(tensor) for tensor in model.parameters() if tensor.requires_grad}
    grouped = {id(tensor) for group in groups for tensor in group["params"]}
    assert trainable == grouped, "the groups must hold the trainable tensors, all and only"
    steps_per_epoch = -(-len(batches) // train.accumulate)
    schedule = Schedule(optim, train.epochs, steps_per_epoch)
    step = Step(model, loss_fn, groups, optim, train, schedule, device, len(batches))
    run = Blocks(blocks, train)
    watch = Stopwatch(device)
    against_capture = against_capture or reason_against(train, batches)
    stepping = Started(step, batches, train, watch) if against_capture else Captured(step, batches, train, watch)
    ahead = before_epochs(TrainingSurvey(model, step, batches, optim, train))
    average = None
    if optim.average_mean is not None:
        average = EpochAverage(step.tensors, epoch_weights(optim.average_mean, optim.average_std, train.epochs))
    curve: list[Row] = []
    validated = f"val_{metric.name}"
    best = Best(model, metric)
    num_steps = 0

    for epoch in range(train.epochs):
        stop_if_told()
        model.train()
        step.begin()
        with watch.measure("train"), run.in_training():
            if ahead is not None:
                ahead(epoch)
            stepping.epoch(epoch)
        num_steps += steps_per_epoch
        losses = step.losses.cpu().numpy()
        _stop_if_diverged(_first_bad(losses, train.accumulate), step.tensors, epoch, steps_per_epoch, train)
        if average is not None:
            average.add(epoch)
        lr = schedule.lr_at(num_steps - 1)
        row: Row = {"epoch": epoch + 1, "loss": _mean(losses, batches.sizes), "lr": lr, validated: None}
        if validate is not None:
            with watch.measure("eval"):
                row[validated] = validate()
        curve.append(row)
        if train.select == "best_val":
            best.consider(row, row[validated])
        if on_epoch is not None:
            on_epoch(row)

    if average is not None:
        average.take()
    best.restore()
    selected, seconds = (best.row or curve[-1])["epoch"], dict(watch.seconds)
    capture = against_capture or stepping.outcome
    return FitResult(curve, selected, best.state, seconds, num_steps, train.epochs * sum(batches.sizes), capture)


def _refuse_unfitting(optim: OptimSpec, train: TrainSpec, validated: bool) -> None:
    problems = schedule_problems(optim, train)
    if train.select == "best_val" and not validated:
        problems.append("train.select=best_val needs a validation split; choose one or set train.select=last")
    if problems:
        raise ConfigError(problems)


class Best:
    """The best epoch considered so far, and what the model had learned by then; `row` and `state` are None without."""

    def __init__(self, model: nn.Module, metric: Metric) -> None:
        self.row: Row | None = None
        self.state: dict[str, torch.Tensor] | None = None
        self._model, self._metric = model, metric
        self._score: Any = None

    def consider(self, row: Row, score: Any) -> None:
        """Keep the model as it is now where its epoch is better than all before it."""
        if self._metric.improves(score, self._score):
            self.row, self._score = row, score
            self.state = {name: tensor.detach().clone() for name, tensor in _changing(self._model).items()}

    def restore(self) -> None:
        """Put the kept state back into the model; nothing where no epoch was kept."""
        if self.state is not None:
            write_tensors(self._model, self.state)


class Started:
    """The steps of an epoch, each started by the host kernel by kernel, on batches that the host puts together.

    Each batch says its `epoch` (int64 [batch], from 0), for losses that change on the way; so it does where steps are
    replayed. Here alone it also says the optimiser's `step` (the same, over all epochs), in memory of the host, for
    losses whose path the host chooses.
    """

    outcome = ""

    def __init__(self, step: Step, batches: Batches, train: TrainSpec, watch: Stopwatch) -> None:
        self._step, self._batches, self._accumulate, self._watch = step, batches, train.accumulate, watch

    def epoch(self, epoch: int) -> None:
        batches = self._watch.timed("data", self._batches.epoch(epoch))
        for micro_batches in steps_of(batches, epoch, len(self._batches), self._accumulate):
            self._step(micro_batches)


class Captured:
    """The same steps, each replayed as a whole with its batches."""

    def __init__(self, step: Step, batches: Batches, train: TrainSpec, watch: Stopwatch) -> None:
        self._batches, self._watch = batches, watch
        resident = ResidentEpoch(batches)
        number = torch.zeros(batches.batch_size, dtype=torch.int64, device=batches.device)

        def done(sizes: Sizes) -> None:
            step([resident.next(size) | {"epoch": number[:size]} for size in sizes])

        self._resident, self._number = resident, number
        self._graphs = Graphs(done, batches.device)
        self._sizes: list[Sizes] = [
            tuple(batches.sizes[first : first + train.accumulate]) for first in range(0, len(batches), train.accumulate)
        ]

    @property
    def outcome(self) -> str:
        return self._graphs.outcome

    def epoch(self, epoch: int) -> None:
        with self._graphs.running():
            with self._watch.measure("data", synchronize=False):
                self._resident.begin(epoch)
                self._number.fill_(epoch)
            for sizes in self._sizes:
                self._graphs(sizes)
                if self._batches.on_batch is not None:
                    for _ in sizes:
                        self._batches.on_batch()


def _changing(model: nn.Module) -> dict[str, Tensor]:
    """Everything training can change: trainable tensors and buffers (running statistics)."""
    trainable: dict[str, Tensor] = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    return trainable | dict(model.named_buffers())


def _mean(losses: NDArray[np.float32], sizes: Sequence[int]) -> float:
    """Over the samples of an epoch, added up in float32 in the order of training."""
    total = np.float32(0)
    with np.errstate(over="ignore"):
        for loss, size in zip(losses, sizes, strict=True):
            total += loss * np.float32(size)
    return float(total) / sum(sizes)


def _first_bad(losses: NDArray[np.float32], accumulate: int) -> int:
    """The first step of the epoch, from 0, with a loss that is not finite; -1 where there is none."""
    bad = np.flatnonzero(~np.isfinite(losses))
    return int(bad[0]) // accumulate if len(bad) else -1


def _stop_if_diverged(bad_step: int, tensors: list[Tensor], epoch: int, steps_per_epoch: int, train: TrainSpec) -> None:
    """Raises `TrainingDiverged` when a loss of epoch `epoch` (from 0), or a tensor behind it, is not finite."""
    if bad_step >= 0:
        what, last = "the loss", epoch * steps_per_epoch + bad_step + 1
    elif not torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all():
        what, last = "a trained tensor", (epoch + 1) * steps_per_epoch
    else:
        return
    where = f"step {last} (epoch {epoch + 1} of {train.epochs})"
    advice = ["a smaller optim.lr", "optim.clip_norm=1"]
    advice += [] if train.precision == "fp32" else ["train.precision=fp32"]
    raise TrainingDiverged(f"{what} is not finite at {where}; try {' or '.join(advice)}")
