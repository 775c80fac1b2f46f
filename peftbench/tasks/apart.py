"""Several tasks trained together: a sample is compared with the classes of its own task alone.

Which task a sample belongs to is known in training and in testing, as where every task has a test set of its own
(multi-task learning on Office-Home: MmAP, arXiv:2312.08636, section "Experiment").
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone
from peftbench.foundation.metric import Metric
from peftbench.tasks.classification import ClassificationMeter
from peftbench.tasks.model import TaskModel
from peftbench.train.evaluate import Measured

MULTI_TASK = "multi_task"
# of the accuracies of the tasks, whatever their sizes
MEAN_ACCURACY = Metric("mean_accuracy")


def numbers_of(class_tasks: Sequence[str]) -> list[int]:
    """Of every class the number of its task, in the order in which tasks first come."""
    order = list(dict.fromkeys(class_tasks))
    return [order.index(task) for task in class_tasks]


class TasksModel(TaskModel):
    """Images and the number of each one's task, int64 [batch] -> logits, -inf at classes of other tasks."""

    task_of: Tensor

    def __init__(self, backbone: Backbone, head: nn.Module, class_tasks: Sequence[str]) -> None:
        super().__init__(backbone, head)
        self.register_buffer("task_of", torch.tensor(numbers_of(class_tasks)), persistent=False)

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.backbone.inputs, "task")))

    def forward(self, *inputs: Tensor) -> Tensor:
        task = inputs[-1]
        # a method may tell the backbone as well
        logits: Tensor = super().forward(*inputs[: len(self.backbone.inputs)])
        return logits.masked_fill(self.task_of != task[:, None], -torch.inf)


class TasksMeter(ClassificationMeter):
    """What classification measures, beside it `accuracy/TASK` of every task and `mean_accuracy`, the mean of these.

    A split without images of a task has no number of it.
    """

    def __init__(self, class_tasks: Sequence[str]) -> None:
        super().__init__(len(class_tasks))
        self._class_tasks = np.array(class_tasks)

    def result(self) -> Measured:
        measured = super().result()
        predicted, labels = (torch.cat(parts).cpu().numpy() for parts in list(zip(*self._seen, strict=True))[:2])
        hits, tasks = predicted == labels, self._class_tasks[labels]
        known = [task for task in dict.fromkeys(self._class_tasks) if (tasks == task).any()]
        each = {f"accuracy/{task}": float(hits[tasks == task].mean()) for task in known}
        mean = sum(each.values()) / len(each)
        return Measured({MEAN_ACCURACY.name: mean, **measured.metrics, **each}, measured.predictions)
