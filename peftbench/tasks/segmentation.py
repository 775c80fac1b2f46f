"""Semantic segmentation: a decoder on feature maps, cross-entropy at every pixel, mean intersection over union."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.maps import Taps
from peftbench.foundation.exact import exact
from peftbench.foundation.maps import UNKNOWN as IGNORED
from peftbench.foundation.metric import Metric
from peftbench.foundation.seeding import seeded
from peftbench.foundation.spec import option
from peftbench.tasks.base import TASKS, Targets
from peftbench.tasks.boundaries import boundaries, f_measure, matched, tolerance
from peftbench.tasks.decoders import WithAuxiliary
from peftbench.tasks.dense import MapTask, Sums
from peftbench.train.batches import Batch
from peftbench.train.evaluate import Measured
from peftbench.train.options import TrainSpec


@TASKS.add("segmentation")
@dataclass(frozen=True)
class Segmentation(MapTask):
    """A class at every pixel: `class_map`, int64 [batch, height, width], 255 where none is asked for.

    The loss is the mean over the pixels that have a class, of the whole batch. `auxiliary` weighs the same loss of a
    second decoder, which trains beside the first (mmsegmentation's auxiliary head, 0.4 in its recipes); 0 for none.
    """

    primary: ClassVar[Metric] = Metric("miou")
    reads: ClassVar[tuple[str, ...]] = ("class_map",)

    auxiliary: float = option(0.0, ge=0, later=True)

    def num_outputs(self, targets: Targets) -> int:
        return targets.num_classes

    def head_on(self, taps: Taps, targets: Targets, seed: int, stream: str = "head") -> nn.Module:
        head = super().head_on(taps, targets, seed, stream)
        if not self.auxiliary:
            return head
        with seeded(seed, f"{stream}:auxiliary"):
            return WithAuxiliary(head, taps.widths, self.num_outputs(targets))

    def loss(self, outputs: Any, batch: Batch, train: TrainSpec) -> Tensor:
        if isinstance(outputs, tuple):
            first, second = (self.loss(scores, batch, train) for scores in outputs)
            return first + self.auxiliary * second
        truth = batch[self.reads[0]]
        total = summed_loss(exact(outputs), truth, train.label_smoothing)
        # a batch of unknown pixels alone has no mean; its loss is 0
        return total / (truth != IGNORED).sum().clamp(min=1)

    def maps_of(self, outputs: Any) -> dict[str, Tensor]:
        return {self.reads[0]: outputs.argmax(dim=1)}

    def averaged(self, outputs: Tensor, zoom: float, mirrored: bool) -> Tensor:
        return outputs.softmax(dim=1)

    def scores_of(self, mean: Tensor) -> Tensor:
        return mean.clamp(min=torch.finfo(mean.dtype).tiny).log()

    def meter(self, targets: Targets) -> SegmentationMeter:
        return SegmentationMeter(targets.class_names)


def summed_loss(scores: Tensor, truth: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy summed over the pixels that have a class."""
    # as rows: torch has no deterministic kernel for maps on CUDA
    rows = scores.movedim(1, -1).flatten(0, 2)
    loss: Tensor = F.cross_entropy(
        rows, truth.flatten(), ignore_index=IGNORED, label_smoothing=label_smoothing, reduction="sum"
    )
    return loss


class SegmentationMeter:
    """Scores [batch, classes, height, width] -> numbers from one count matrix over the whole split.

    miou: mean of tp / (tp + fp + fn) over the `classes_present` that occur in truth or prediction (absent ones are left
    out, as in mmsegmentation). mean_accuracy: mean of tp / (tp + fn) over the classes that occur in the truth.
    pixel_accuracy, and loss (mean cross-entropy) over all pixels with a class. iou/<class>: of each present class.
    boundary_f: F of the pixels where classes meet, within 0.75 % of the diagonal (`tasks.boundaries`), over the split.
    Predictions: uint8 [num, height, width].
    """

    def __init__(self, class_names: Sequence[str], target: str = "class_map") -> None:
        self._names, self._target = tuple(class_names), target
        self._sums = Sums()
        self._seen: list[tuple[Tensor, Tensor]] = []

    def update(self, outputs: Any, batch: Batch) -> None:
        scores, truth, size = exact(outputs), batch[self._target], len(self._names)
        if scores.shape[1] != size:
            raise ValueError(f"the model gives {scores.shape[1]} scores where the data has {size} classes")
        predicted, valid = scores.argmax(dim=1), truth != IGNORED
        self._sums.add(
            counts=torch.bincount(truth[valid] * size + predicted[valid], minlength=size * size),
            pixels=valid.sum(),
            loss=summed_loss(scores, truth),
            boundaries=matched(boundaries(predicted, valid), boundaries(truth, valid), tolerance(truth.shape[-2:])),
        )
        self._seen.append((predicted.to(torch.uint8), batch["index"]))

    def result(self) -> Measured:
        loss = self._sums.mean_loss()
        counts = self._sums["counts"].reshape(len(self._names), -1).astype(np.float64)
        maps, indices = (torch.cat(parts).cpu().numpy() for parts in zip(*self._seen, strict=True))
        scores = class_scores(counts, self._names)
        near = float(f_measure(self._sums["boundaries"]))
        return Measured({**scores, "boundary_f": near, "loss": loss, "n": len(maps)}, maps[np.argsort(indices)])


def class_scores(counts: NDArray[np.float64], names: Sequence[str]) -> dict[str, float | int]:
    """mIoU and the like from `counts[i, j]`, the pixels of class i that were taken for class j."""
    hits, truth, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    union = truth + predicted - hits
    present = union > 0
    iou = hits[present] / union[present]
    found = [name for name, there in zip(names, present, strict=True) if there]
    return {
        "miou": float(iou.mean()) if len(iou) else 0.0,
        "mean_accuracy": float((hits[truth > 0] / truth[truth > 0]).mean()) if truth.any() else 0.0,
        "pixel_accuracy": float(hits.sum() / max(counts.sum(), 1)),
        "classes_present": int(present.sum()),
        **{f"iou/{name}": float(value) for name, value in zip(found, iou, strict=True)},
    }
