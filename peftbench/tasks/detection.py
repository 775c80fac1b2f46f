"""Object detection: RetinaNet's heads on feature maps, focal loss, COCO's average precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from peftbench.backbones.base import Backbone
from peftbench.backbones.maps import taps_of
from peftbench.foundation.maps import BOXES
from peftbench.foundation.metric import Metric
from peftbench.foundation.seeding import seeded
from peftbench.foundation.spec import option
from peftbench.tasks.anchors import Detections, detected, detection_loss
from peftbench.tasks.average_precision import average_precision, reference
from peftbench.tasks.base import TASKS, Targets, Task, mean_loss
from peftbench.tasks.detector import GROUPS, LEVELS, DetectionModel, Detector
from peftbench.tasks.model import TaskModel
from peftbench.train.batches import Batch
from peftbench.train.evaluate import Measured
from peftbench.train.loss import LossFn, Model
from peftbench.train.options import TrainSpec

# pictures show the boxes that a model is at least this sure of
SURE = 0.3


@TASKS.add("detection")
@dataclass(frozen=True)
class Detection(Task):
    """Boxes around things and their classes: `boxes`, float32 [batch, most, 6], see `foundation.maps`.

    RetinaNet (arXiv:1708.02002) on three maps (`tasks.detector`). `channels`: of its convolutions, null for 256 at a
    base transformer's width, less for narrower ones. `anchor_scale`: the side of a level's smallest anchors in cells of
    it.
    The loss is the mean over images of focal loss (alpha 0.25, gamma 2) and L1, each over the anchors that stand for a
    box.
    """

    primary: ClassVar[Metric] = Metric("ap")
    reads: ClassVar[tuple[str, ...]] = ("boxes",)
    reads_maps: ClassVar[bool] = True

    channels: int | None = option(None, ge=1)
    anchor_scale: float = option(4.0, gt=0)

    def problems(self) -> Sequence[str]:
        if self.channels is not None and self.channels > GROUPS and self.channels % GROUPS:
            return [f"task.channels must be a multiple of {GROUPS} (the groups of its norms), got {self.channels}"]
        return ()

    def prepare(self, backbone: Backbone, targets: Targets) -> None:
        # said before anything is trained
        reference()

    def model(self, backbone: Backbone, targets: Targets, seed: int) -> TaskModel:
        taps = taps_of(backbone, LEVELS)
        with seeded(seed, "head"):
            detector = Detector(taps, targets.num_classes, self.channels, self.anchor_scale)
        return DetectionModel(backbone, detector, taps)

    def loss_fn(self, train: TrainSpec, inputs: Sequence[str] = ("image",)) -> LossFn:
        def loss_fn(model: Model, batch: Batch) -> Tensor:
            return detection_loss(model(*(batch[name] for name in inputs)), batch[BOXES]).mean()

        return loss_fn

    def maps_of(self, outputs: Any) -> dict[str, Tensor]:
        boxes = detected(outputs)
        sure = boxes[..., 5:] >= SURE
        return {BOXES: torch.where(sure, torch.cat([boxes[..., :5], torch.zeros_like(boxes[..., 5:])], dim=-1), 0.0)}

    def meter(self, targets: Targets) -> DetectionMeter:
        return DetectionMeter(targets.class_names)


class DetectionMeter:
    """`Detections` -> `average_precision` over the whole split, and the mean loss of an image.

    Boxes are compared in the picture that the backbone sees: how far two overlap does not depend on its proportions.
    Predictions: float32 [num, 100, 6], the boxes found, with their scores.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self._names = tuple(class_names)
        self._loss: Tensor | float = 0.0
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def update(self, outputs: Detections, batch: Batch) -> None:
        given, size = outputs.logits.shape[2], len(self._names)
        if given != size:
            raise ValueError(f"the model gives {given} scores where the data has {size} classes")
        self._loss = self._loss + detection_loss(outputs, batch[BOXES]).sum().double()
        # how many boxes stay depends on their values, so that a GPU is waited for here
        self._seen.append((detected(outputs).cpu(), batch[BOXES].cpu(), batch["index"].cpu()))

    def result(self) -> Measured:
        found, truth, index = (torch.cat(parts).numpy() for parts in zip(*self._seen, strict=True))
        order = index.argsort()
        loss = mean_loss(torch.as_tensor(self._loss), len(index))
        metrics = average_precision(truth[order], found[order], self._names)
        return Measured({**metrics, "loss": loss, "n": len(index)}, found[order])
