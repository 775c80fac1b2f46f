"""Evaluation: one pass over a split, giving metrics and the predictions they come from."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from peftbench.foundation.errors import TrainingDiverged
from peftbench.train.batches import Batches
from peftbench.train.precision import autocast


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one pass. `predictions[i]` is the predicted class of sample i; rates are in 0..1.

    mean_class_accuracy: mean of the per-class accuracies over the classes that occur in the labels.
    loss: mean cross-entropy. seconds: wall time of the pass, data included.
    """

    accuracy: float
    mean_class_accuracy: float
    loss: float
    correct: int
    n: int
    predictions: NDArray[Any] = field(repr=False)
    seconds: float


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Puts every module back into the mode (train or eval) it was in."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def evaluate(model: nn.Module, batches: Batches, num_classes: int | None = None, precision: str = "fp32") -> Evaluation:
    """Classifies every sample once, in eval mode; the model's modes are put back afterwards.

    `model(image)` gives logits [batch, classes]; `num_classes`, when given, must be their width.
    Nothing waits for the device before the last batch.

    Raises `ValueError` when `batches` leaves samples out or the logits have another width, `TrainingDiverged` when
    the loss is not a finite number.
    """
    if len(batches) * batches.batch_size < batches.num_samples:
        raise ValueError("evaluation needs every sample: build the batches with keep_last=True")
    start = time.perf_counter()
    predictions, labels, indices = [], [], []
    loss = torch.zeros((), dtype=torch.float64, device=batches.device)
    width = num_classes
    with kept_modes(model), torch.inference_mode():
        model.eval()
        for batch in batches.epoch(0):
            with autocast(batches.device, precision):
                logits = model(batch["image"]).float()
            if width is not None and logits.shape[1] != width:
                raise ValueError(f"the model gives {logits.shape[1]} logits where the data has {width} classes")
            width = logits.shape[1]
            loss += F.cross_entropy(logits, batch["label"], reduction="sum")
            predictions.append(logits.argmax(dim=1))
            labels.append(batch["label"])
            indices.append(batch["index"])
    by_sample = np.argsort(torch.cat(indices).cpu().numpy())
    predicted = torch.cat(predictions).cpu().numpy()[by_sample]
    actual = torch.cat(labels).cpu().numpy()[by_sample]
    mean_loss = loss.item() / len(actual)
    seconds = time.perf_counter() - start
    if not np.isfinite(mean_loss):
        raise TrainingDiverged(f"the evaluation loss is {mean_loss}; try a smaller optim.lr or train.precision=fp32")
    hits = predicted == actual
    return Evaluation(
        accuracy=float(hits.mean()),
        mean_class_accuracy=_mean_class_accuracy(hits, actual),
        loss=mean_loss,
        correct=int(hits.sum()),
        n=len(actual),
        predictions=predicted.astype(np.uint16) if width is not None and width <= 2**16 else predicted,
        seconds=seconds,
    )


def _mean_class_accuracy(hits: NDArray[np.bool_], labels: NDArray[np.int64]) -> float:
    counts = np.bincount(labels)
    correct = np.bincount(labels, weights=hits, minlength=len(counts))
    present = counts > 0
    return float((correct[present] / counts[present]).mean())
