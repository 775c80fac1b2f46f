"""What an objective is: a training loss that goes with any method, and the tensors it brings along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.registry import Registry
from peftbench.foundation.seeding import seeded
from peftbench.foundation.spec import Part
from peftbench.tasks.model import TaskModel
from peftbench.train.loss import LossFn

OBJECTIVES: Registry[Objective]


@dataclass(frozen=True)
class Objective(Part):
    """Base of all objectives. The fields of a subclass are its hyperparameters, with the paper's values as defaults.

    Class facts: `version` (raise it when the meaning of the code changes), `paper`, `faithfulness` (one of
    `FAITHFULNESS`), `adapted` (one sentence: what was changed), `of_pairs` (it is a loss of images and texts),
    `of_any` (it adds to the task's own loss, whatever the task, of one network or a pair),
    `of_method` (the one method whose network it reads; "" where any will do), `host_waits` (an operation of its steps
    reads on the host what the device found, so that none can be recorded and replayed), `plain` (the loss is the task's
    own and nothing is added; a cell's identity and label then do not name the objective).
    """

    section: ClassVar[str] = "objective"
    paper: ClassVar[str] = ""
    plain: ClassVar[bool] = False
    of_pairs: ClassVar[bool] = False
    of_any: ClassVar[bool] = False
    of_method: ClassVar[str] = ""
    host_waits: ClassVar[bool] = False

    def prepare(self, backbone: Backbone, num_classes: int) -> nn.Module:
        """What belongs to the objective, made on the frozen backbone before a method changes it.

        Initialisation happens here and nowhere else. Raises `NotApplicable` if the backbone lacks a place.
        """
        return nn.Module()

    def install(self, model: TaskModel, own: nn.Module) -> None:
        """Give `own`, which `prepare` returned, its place in the model, behind the method; its tensors train from here.

        Raises `NotApplicable` if the method left no such place.
        """

    def expected_params(self, shape: BackboneShape, num_classes: int) -> int:
        """Number of trainable parameters of the objective, from numbers only."""
        return 0

    def loss_fn(self, model: TaskModel, base: LossFn) -> LossFn:
        """The training loss. `base` is the task's own; `base(lambda images: logits, batch)` is that of given logits."""
        return base

    @property
    def steps_alike(self) -> bool:
        """Whether every training step runs the same operations, as `Method.steps_alike` says it of a method."""
        return True

    @property
    def by_image(self) -> bool:
        """Whether it keeps something of each training image, so that none may be mixed with another."""
        return False

    def before_training(self, model: TaskModel, num_images: int) -> None:
        """Room for what is kept of each training image, which a batch names by its `index` in 0..num_images."""

    def after_epoch(self, model: TaskModel, done: float) -> None:
        """What changes behind an epoch, of what does not train; `done` is the part of all epochs that is, up to 1."""


OBJECTIVES = Registry("objective", "peftbench.objectives", base=Objective)


def prepare(objective: Objective, backbone: Backbone, num_classes: int, seed: int) -> nn.Module:
    """`objective.prepare` with a random stream of its own, so that method and head draw what they draw without it.

    What it made lies with the backbone, which a method that looks at images runs next.
    """
    if len(backbone.towers) > 1 and not (objective.plain or objective.of_pairs or objective.of_any):
        raise NotApplicable(f"objective {objective.name} is made for one network and this backbone is a pair")
    device = backbone.device
    with seeded(seed, "objective"):
        own = objective.prepare(backbone, num_classes)
    backbone.to(device)
    return own.to(device)


def install(objective: Objective, model: TaskModel, own: nn.Module, num_classes: int) -> None:
    """`objective.install`, and the check on every run that as many tensors train as the formula says."""
    objective.install(model, own)
    counted = sum(parameter.numel() for parameter in own.parameters() if parameter.requires_grad)
    expected = objective.expected_params(model.backbone.shape, num_classes)
    assert counted == expected, f"{objective.name} trains {counted} parameters; its formula gives {expected}"
