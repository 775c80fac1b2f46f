"""The loss of image classification."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from peftbench.train.batches import Batch

# images [batch, 3, height, width] -> logits [batch, classes]; a module is one
Model = Callable[[Tensor], Tensor]
LossFn = Callable[[Model, Batch], Tensor]


def classification_loss(label_smoothing: float = 0.0) -> LossFn:
    """Mean cross-entropy of `model(batch["image"])`, in float32 whatever the precision of the forward pass.

    Takes the soft targets of mixup and cutmix (`batch["target"]: [batch, classes]`) where there are any.
    """

    def loss_fn(model: Model, batch: Batch) -> Tensor:
        logits = model(batch["image"]).float()
        return F.cross_entropy(logits, batch.get("target", batch["label"]), label_smoothing=label_smoothing)

    return loss_fn
