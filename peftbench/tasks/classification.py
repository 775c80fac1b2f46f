"""Image classification: a linear head on pooled features, cross-entropy, top-1 accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from peftbench.backbones.base import Backbone
from peftbench.foundation.exact import exact
from peftbench.tasks.base import TASKS, Targets, Task, mean_loss
from peftbench.tasks.model import Classifier, TaskModel
from peftbench.train.batches import Batch
from peftbench.train.evaluate import Measured, Meter
from peftbench.train.loss import LossFn, Model
from peftbench.train.options import TrainSpec

TOP = 5
# of the expected calibration error
NUM_BINS = 15


@TASKS.add("classification")
@dataclass(frozen=True)
class Classification(Task):
    """One class a sample: `label`, int64 [batch]. The task of every cell that names no other."""

    plain: ClassVar[bool] = True

    def model(self, backbone: Backbone, targets: Targets, seed: int) -> TaskModel:
        return Classifier(backbone, targets.num_classes, seed)

    def loss_fn(self, train: TrainSpec, inputs: Sequence[str] = ("image",)) -> LossFn:
        return classification_loss(train.label_smoothing, inputs)

    def meter(self, targets: Targets) -> Meter:
        return ClassificationMeter(targets.num_classes)

    def reads_pooled(self, model: TaskModel) -> bool:
        return True


def classification_loss(label_smoothing: float = 0.0, inputs: Sequence[str] = ("image",)) -> LossFn:
    """Mean cross-entropy of `model(*inputs)`, in single precision at least, whatever that of the forward pass.

    Takes the soft targets of mixup and cutmix (`batch["target"]: [batch, classes]`) where there are any.
    """

    def loss_fn(model: Model, batch: Batch) -> Tensor:
        logits = exact(model(*(batch[name] for name in inputs)))
        return F.cross_entropy(logits, batch.get("target", batch["label"]), label_smoothing=label_smoothing)

    return loss_fn


def averaged(views: Sequence[Tensor], how: str) -> Tensor:
    """Logits [batch, classes] of several views -> one: the mean of the logits, or the logarithm of the mean of the
    probabilities (`how`).
    """
    logits = torch.stack([exact(view) for view in views])
    if how == "logits":
        return logits.mean(dim=0)
    return logits.log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(views))


class ClassificationMeter:
    """Logits [batch, classes] -> accuracy, mean_class_accuracy, top5_accuracy, ece, loss, correct, n; rates in 0..1.

    mean_class_accuracy: mean of the per-class accuracies over the classes that occur in the labels. loss: mean
    cross-entropy. top5_accuracy (above five classes): how often the label is among the five likeliest. ece: see
    `calibration_error`. Predictions: the class of every sample, uint16 where that holds them.

    num_classes: when given, the width the logits must have; else `update` raises `ValueError`.
    """

    def __init__(self, num_classes: int | None = None) -> None:
        self._width = num_classes
        self._loss: Tensor | None = None
        self._seen: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._in_top5: list[Tensor] = []

    def update(self, outputs: Any, batch: Batch) -> None:
        logits = exact(outputs)
        if self._width is not None and logits.shape[1] != self._width:
            raise ValueError(f"the model gives {logits.shape[1]} logits where the data has {self._width} classes")
        self._width = logits.shape[1]
        if self._loss is None:
            self._loss = torch.zeros((), dtype=torch.float64, device=logits.device)
        self._loss += F.cross_entropy(logits, batch["label"], reduction="sum")
        confidence = (logits.amax(dim=1) - logits.logsumexp(dim=1)).exp()
        self._seen.append((logits.argmax(dim=1), batch["label"], batch["index"], confidence))
        if self._width > TOP:
            self._in_top5.append((logits.topk(TOP, dim=1).indices == batch["label"][:, None]).sum())

    def result(self) -> Measured:
        assert self._loss is not None and self._width is not None, "no batch was seen"
        predictions, labels, indices, confidence = (
            torch.cat(parts).cpu().numpy() for parts in zip(*self._seen, strict=True)
        )
        by_sample = np.argsort(indices)
        predicted, actual = predictions[by_sample], labels[by_sample]
        loss = mean_loss(self._loss, len(actual))
        hits = predicted == actual
        metrics = {
            "accuracy": float(hits.mean()),
            "mean_class_accuracy": _mean_class_accuracy(hits, actual),
            "loss": loss,
            "ece": calibration_error(confidence[by_sample], hits),
            "correct": int(hits.sum()),
            "n": len(actual),
        }
        if self._in_top5:
            metrics["top5_accuracy"] = int(torch.stack(self._in_top5).sum()) / len(actual)
        return Measured(metrics, predicted.astype(np.uint16) if self._width <= 2**16 else predicted)


def calibration_error(confidence: NDArray[np.float32], hits: NDArray[np.bool_]) -> float:
    """Expected calibration error: mean over samples of |share of hits - mean confidence| of the sample's bin.

    `confidence` is the probability of the predicted class; the bins are 15 equal parts of (0, 1] (Guo et al.,
    ICML 2017).
    """
    bins = np.clip(np.ceil(confidence.astype(float) * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
    over = np.bincount(bins, weights=hits - confidence.astype(float), minlength=NUM_BINS)
    return float(np.abs(over).sum() / len(hits))


def _mean_class_accuracy(hits: NDArray[np.bool_], labels: NDArray[np.int64]) -> float:
    counts = np.bincount(labels)
    correct = np.bincount(labels, weights=hits, minlength=len(counts))
    present = counts > 0
    return float((correct[present] / counts[present]).mean())
