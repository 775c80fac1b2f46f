"""Base-to-new generalisation: trained on half of the classes, tested on that half and on the other, which is new.

An image of a base class is compared with base classes alone, one of a new class with new ones alone (CoCoOp,
arXiv:2203.05557, section 4.1).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.foundation.exact import exact
from peftbench.foundation.metric import Metric
from peftbench.tasks.base import mean_loss
from peftbench.tasks.model import TaskModel
from peftbench.train.batches import Batch
from peftbench.train.evaluate import Measured

BASE_TO_NEW = "base_to_new"
# the harmonic mean of both accuracies
H = Metric("h")


class HalvesModel(TaskModel):
    """Images -> logits of the base classes in training, of all classes in evaluation."""

    def __init__(self, backbone: Backbone, head: nn.Module, base: int) -> None:
        super().__init__(backbone, head)
        self.num_trained = base

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = super().forward(*inputs)
        return logits[:, : self.num_trained] if self.training else logits


class HalvesMeter:
    """Logits [batch, classes] -> `base` and `new` accuracy, their harmonic mean `h`, loss, `n` and `n_new`.

    Each image is compared with the classes of its own half. A split without images of a half, as in validation, has no
    such number, and h is then that of the other half. Predictions: the class of every image, uint16.
    """

    def __init__(self, base: int) -> None:
        self._base = base
        self._loss: Tensor | None = None
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def update(self, outputs: Any, batch: Batch) -> None:
        logits, labels = exact(outputs), batch["label"]
        new_classes = torch.arange(logits.shape[1], device=logits.device) >= self._base
        other_half = new_classes[None] != (labels >= self._base)[:, None]
        logits = logits.masked_fill(other_half, -torch.inf)
        loss = F.cross_entropy(logits, labels, reduction="sum").double()
        self._loss = loss if self._loss is None else self._loss + loss
        self._seen.append((logits.argmax(dim=1), labels, batch["index"]))

    def result(self) -> Measured:
        assert self._loss is not None, "no batch was seen"
        predictions, labels, indices = (torch.cat(parts).cpu().numpy() for parts in zip(*self._seen, strict=True))
        order = np.argsort(indices)
        predicted, actual = predictions[order], labels[order]
        new = actual >= self._base
        hits = predicted == actual
        found = {name: float(hits[of].mean()) for name, of in (("base", ~new), ("new", new)) if of.any()}
        metrics = {
            "h": harmonic(list(found.values())),
            **found,
            "loss": mean_loss(self._loss, len(actual)),
            "n": len(actual),
            "n_new": int(new.sum()),
        }
        return Measured(metrics, predicted.astype(np.uint16))


def harmonic(values: list[float]) -> float:
    """The harmonic mean of fractions; 0 where one of them is."""
    return len(values) / sum(1 / value for value in values) if all(values) else 0.0
