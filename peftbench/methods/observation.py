"""What a method may look at, first or between epochs: the training images, never the test split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from torch import Tensor, nn

from peftbench.backbones.base import Backbone

# what was seen, as tensors: small enough to be saved beside the trained ones
Findings = dict[str, Tensor]
Batch = dict[str, Tensor]
Loss = Callable[[Callable[[Tensor], Tensor], Batch], Tensor]


class Evidence(Protocol):
    """A task before its method is attached. Everything drawn from it follows from the cell's seed.

    A batch holds `image` [batch, 3, height, width], normalised, and the task's targets: `label` [batch] for classes.
    """

    @property
    def backbone(self) -> Backbone:
        """The frozen backbone. An observer that changes weights or modes works on a deepcopy."""

    @property
    def num_classes(self) -> int: ...

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets in a batch, of several tasks in the order of the tasks."""

    @property
    def epochs(self) -> int:
        """How many epochs the cell trains once its method is attached."""

    def images(self, batch_size: int) -> Iterator[Batch]:
        """The training images once, in the order of their split, without augmentation."""

    def maps(self, batch: Batch) -> list[Tensor]:
        """The bare backbone's maps [batch, channels, height, width] behind its tapped blocks (`shape.tapped`)."""

    def views(self, batch_size: int) -> Iterator[tuple[Batch, Batch]]:
        """The training images once, shuffled, each in two random views: crop, flip, and changed colours."""

    def augmented(self, batch_size: int, views: int) -> Iterable[Iterable[Batch]]:
        """The training images in the order of their split, `views` times under other draws of the cell's augmentation;
        once, as they are, where the cell has none."""

    def held_out(self, batch_size: int) -> Iterable[Batch]:
        """The validation images that `accuracy` measures on, once, in order; never the test split."""

    def classifier(self, backbone: Backbone) -> nn.Module:
        """`backbone` under a fresh head of the task, for classes images -> logits [batch, num_classes]."""

    def loss(self, model: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
        """The task's own loss of one batch, as `model(images)` gives logits."""

    def fit(self, model: nn.Module, loss: Loss, epochs: int, lr: float | None = None) -> None:
        """Train what is trainable in a `classifier` with the cell's recipe, apart from these numbers.

        `lr` None is the cell's own rate.

        On training images without those of `accuracy`: train800 where the cell trains on VTAB's 1,000.
        """

    def accuracy(self, model: nn.Module) -> float:
        """The task's primary number on the validation images (val200 of VTAB, never the test split); more is better."""


class Survey(Protocol):
    """The training images with the tensors that train as they are, for what a method does between epochs."""

    @property
    def tensors(self) -> list[Tensor]:
        """All that train, the head's among them."""

    @property
    def clip_norm(self) -> float | None:
        """The norm to which each step clips its gradients (`optim.clip_norm`)."""

    def __call__(self, epoch: int) -> Iterator[tuple[float, int]]:
        """One more pass, in the order and under the draws that belong to `epoch`; no step is taken.

        The mean loss of each batch and how many images it has. Until the next is asked for, `grad` of the tensors holds
        the gradient of that loss, not clipped.
        """
