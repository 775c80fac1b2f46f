"""Semantic segmentation: a decoder on feature maps, cross-entropy at every pixel, mean intersection over union."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.backbones.maps import feature_maps
from peftbench.foundation.metric import Metric
from peftbench.foundation.seeding import seeded
from peftbench.foundation.spec import option
from peftbench.tasks.base import TASKS, Targets, Task, mean_loss
from peftbench.tasks.decoders import DECODERS
from peftbench.tasks.model import TaskModel
from peftbench.train.batches import Batch
from peftbench.train.evaluate import Measured
from peftbench.train.loss import LossFn, Model
from peftbench.train.options import TrainSpec

IGNORED = 255


@TASKS.add("segmentation")
@dataclass(frozen=True)
class Segmentation(Task):
    """A class at every pixel: `class_map`, int64 [batch, height, width], 255 where none is asked for.

    `decoder` reads the maps behind `num_maps` evenly spaced blocks of a plain transformer (of twelve blocks with four
    maps the 3rd, 6th, 9th and 12th), or behind the last block of every stage.
    """

    metric: ClassVar[Metric] = Metric("miou")
    targets: ClassVar[tuple[str, ...]] = ("class_map",)

    decoder: str = option("linear", choices=tuple(DECODERS))
    num_maps: int = option(4, ge=1)

    def model(self, backbone: Backbone, targets: Targets, seed: int) -> TaskModel:
        layers = tapped_blocks(backbone.shape, self.num_maps)
        blocks = backbone.shape.at("block")
        with seeded(seed, "head"):
            decoder = DECODERS[self.decoder]([blocks[layer].out_dim for layer in layers], targets.num_classes)
        return MapModel(backbone, decoder, layers)

    def loss_fn(self, train: TrainSpec, inputs: Sequence[str] = ("image",)) -> LossFn:
        def loss_fn(model: Model, batch: Batch) -> Tensor:
            scores = model(*(batch[name] for name in inputs)).float()
            return F.cross_entropy(
                scores, batch["class_map"], ignore_index=IGNORED, label_smoothing=train.label_smoothing
            )

        return loss_fn

    def meter(self, targets: Targets) -> SegmentationMeter:
        return SegmentationMeter(targets.class_names)


def tapped_blocks(shape: BackboneShape, num_maps: int) -> tuple[int, ...]:
    """The blocks whose maps a decoder reads: evenly spaced ones of one stage, else the last one of each stage."""
    stages = [[block.layer for block in blocks] for _, blocks in groupby(shape.at("block"), key=lambda b: b.out_dim)]
    if len(stages) > 1:
        return tuple(stage[-1] for stage in stages)
    count = min(num_maps, shape.depth)
    return tuple(shape.depth * (number + 1) // count - 1 for number in range(count))


class MapModel(TaskModel):
    """images [batch, 3, height, width] -> scores [batch, outputs, height, width], bilinear from the decoder's size."""

    def __init__(self, backbone: Backbone, decoder: nn.Module, layers: Sequence[int]) -> None:
        super().__init__(backbone, decoder)
        self.layers = tuple(layers)

    def forward(self, *inputs: Tensor) -> Any:
        scores = self.head(feature_maps(self.backbone, inputs, self.layers))
        return F.interpolate(scores, inputs[0].shape[-2:], mode="bilinear", align_corners=False)


class SegmentationMeter:
    """Scores [batch, classes, height, width] -> numbers from one count matrix over the whole split.

    miou: mean of tp / (tp + fp + fn) over the `classes_present` that occur in truth or prediction (absent ones are left
    out, as in mmsegmentation). mean_accuracy: mean of tp / (tp + fn) over the classes that occur in the truth.
    pixel_accuracy, and loss (mean cross-entropy) over all pixels with a class. iou/<class>: of each present class.
    Predictions: uint8 [num, height, width].
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self._names = tuple(class_names)
        self._counts: Tensor | None = None
        self._loss: Tensor | None = None
        self._seen: list[tuple[Tensor, Tensor]] = []

    def update(self, outputs: Any, batch: Batch) -> None:
        scores, truth, size = outputs.float(), batch["class_map"], len(self._names)
        if scores.shape[1] != size:
            raise ValueError(f"the model gives {scores.shape[1]} scores where the data has {size} classes")
        if self._counts is None:
            self._counts = torch.zeros(size * size, dtype=torch.int64, device=scores.device)
            self._loss = torch.zeros((), dtype=torch.float64, device=scores.device)
        assert self._loss is not None
        predicted, valid = scores.argmax(dim=1), truth != IGNORED
        self._counts += torch.bincount(truth[valid] * size + predicted[valid], minlength=size * size)
        self._loss += F.cross_entropy(scores, truth, ignore_index=IGNORED, reduction="sum").double()
        self._seen.append((predicted.to(torch.uint8), batch["index"]))

    def result(self) -> Measured:
        assert self._counts is not None and self._loss is not None, "no batch was seen"
        counts = self._counts.cpu().numpy().reshape(len(self._names), -1).astype(np.float64)
        maps, indices = (torch.cat(parts).cpu().numpy() for parts in zip(*self._seen, strict=True))
        loss = mean_loss(self._loss, counts.sum())
        return Measured(self._scores(counts, loss, len(maps)), maps[np.argsort(indices)])

    def _scores(self, counts: NDArray[np.float64], loss: float, num_maps: int) -> dict[str, float | int]:
        """`counts[i, j]`: pixels of class i that were taken for class j."""
        hits, truth, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
        union = truth + predicted - hits
        present = union > 0
        iou = hits[present] / union[present]
        names = [name for name, found in zip(self._names, present, strict=True) if found]
        return {
            "miou": float(iou.mean()),
            "mean_accuracy": float((hits[truth > 0] / truth[truth > 0]).mean()),
            "pixel_accuracy": float(hits.sum() / counts.sum()),
            "loss": loss,
            "n": num_maps,
            "classes_present": int(present.sum()),
            **{f"iou/{name}": float(value) for name, value in zip(names, iou, strict=True)},
        }
