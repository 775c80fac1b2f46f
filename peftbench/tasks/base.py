"""What a task is: the head on the features, the loss, the meter, and which of its numbers is the primary one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor

from peftbench.backbones.base import Backbone
from peftbench.backbones.pair import Pair
from peftbench.data.templates import PLAIN
from peftbench.foundation.errors import NotApplicable, TrainingDiverged
from peftbench.foundation.metric import ACCURACY, Metric
from peftbench.foundation.registry import Registry
from peftbench.foundation.spec import Part
from peftbench.tasks.model import TaskModel
from peftbench.train.batches import Batch
from peftbench.train.evaluate import Meter
from peftbench.train.loss import LossFn
from peftbench.train.options import TrainSpec

TASKS: Registry[Task]


class Targets(Protocol):
    """What a dataset says of its targets. Every source is one."""

    @property
    def class_names(self) -> Sequence[str]: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def templates(self) -> Sequence[str]:
        """Prompts around a class name, `{}` standing for it."""
        ...

    @property
    def class_tasks(self) -> Sequence[str]:
        """Of every class the task it belongs to; none where all are of one."""
        ...


def mean_loss(total: Tensor, count: float) -> float:
    """A split's mean evaluation loss from its sum. Raises `TrainingDiverged` where it is not a finite number."""
    mean = total.item() / count
    if not math.isfinite(mean):
        advice = "try a smaller optim.lr, or train.precision=fp32 where it is another"
        raise TrainingDiverged(f"the evaluation loss is {mean}; {advice}")
    return mean


@dataclass(frozen=True)
class Classes:
    """Targets that are one class a sample."""

    class_names: tuple[str, ...]
    templates: tuple[str, ...] = PLAIN
    class_tasks: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @classmethod
    def numbered(cls, num_classes: int) -> Classes:
        return cls(tuple(map(str, range(num_classes))))


@dataclass(frozen=True)
class Task(Part):
    """Base of all tasks. The fields of a subclass are its options.

    Class facts: `version` (raise it when the meaning of the code changes), `plain` (the task of all cells that name
    none: identities, labels and records then leave it out), `primary` (the metric that validation chooses by and tables
    show), `reads` (names of the targets in a batch that the loss reads), `slides` (its model takes larger images in
    evaluation), `reads_texts` (its model takes the texts of samples beside their images), `reads_names` (it compares
    images with the texts of class names), `reads_maps` (its head reads maps that are taken off blocks, and `said_of`
    gives what belongs to the image), `faithfulness` and `adapted` as of methods.
    Where they depend on options, a subclass overrides `metric`, `targets` and `revision`.
    """

    section: ClassVar[str] = "task"
    plain: ClassVar[bool] = False
    primary: ClassVar[Metric] = ACCURACY
    reads: ClassVar[tuple[str, ...]] = ("label",)
    slides: ClassVar[bool] = False
    reads_texts: ClassVar[bool] = False
    reads_names: ClassVar[bool] = False
    reads_maps: ClassVar[bool] = False

    @property
    def revision(self) -> int:
        """What a cell's identity holds: `version`, raised with the version of what the options choose."""
        return self.version

    @property
    def metric(self) -> Metric:
        """The primary number."""
        return self.primary

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets in a batch that the loss reads."""
        return self.reads

    @property
    def base_only(self) -> bool:
        """Whether it trains on the first half of the classes alone; see `data.halves`."""
        return False

    @property
    def tells_tasks(self) -> bool:
        """Whether its model is told which of the data's tasks each sample is of: `task` among its inputs."""
        return False

    def prepare(self, backbone: Backbone, targets: Targets) -> None:
        """Tell a bare backbone what it has to know of the task and its targets, before a method attaches.

        Raises `NotApplicable` if the backbone cannot serve the task.
        """

    def model(self, backbone: Backbone, targets: Targets, seed: int) -> TaskModel:
        """The backbone, its method attached, under a fresh head drawn from `seed`.

        Raises `NotApplicable` if the backbone lacks what the head reads.
        """
        raise self.unwritten("model")

    def loss_fn(self, train: TrainSpec, inputs: Sequence[str] = ("image",)) -> LossFn:
        """The training loss of `model(*inputs)`: mean over a batch, in float32 whatever the forward pass ran in."""
        raise self.unwritten("loss_fn")

    def meter(self, targets: Targets) -> Meter:
        """A new meter for one pass over a split. Its metrics hold `metric.name` and `n`, the number of samples."""
        raise self.unwritten("meter")

    def maps_of(self, outputs: Any) -> dict[str, Tensor]:
        """Outputs as the maps or boxes they stand for, by the names of targets (`data.maps`)."""
        raise self.unwritten("maps_of")

    def said_of(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """The same of outputs that answer to prompts, which follow from the targets of the batch."""
        return self.maps_of(outputs)

    def prompts_of(self, outputs: Any, batch: Batch) -> Tensor | None:
        """The boxes that outputs answer to, rows as `foundation.maps` has them; None where nothing is asked."""
        return None

    def reads_pooled(self, model: TaskModel) -> bool:
        """Whether `model.head` sees nothing but pooled features [batch, width], which can then be kept."""
        return False


def pair_for(task: str, backbone: Backbone) -> Pair:
    """The pair that a task with texts needs. Raises `NotApplicable` for a backbone that reads images alone."""
    if len(backbone.towers) > 1 and not isinstance(backbone, Pair):
        raise NotApplicable(f"task={task} compares images with texts, and backbone.writer writes: task=vqa_written")
    if not isinstance(backbone, Pair):
        raise NotApplicable(
            f"task={task} reads texts beside images, and this backbone reads images alone; choose a pair, such as "
            "backbone=pair_micro"
        )
    return backbone


TASKS = Registry("task", "peftbench.tasks", base=Task)
