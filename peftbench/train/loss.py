"""The loss of image classification."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from peftbench.train.batches import Batch

LossFn = Callable[[nn.Module, Batch], Tensor]


def classification_loss(label_smoothing: float = 0.0) -> LossFn:
    """Mean cross-entropy of `model(batch["image"])`, in float32 whatever the precision of the forward pass.

    Takes the soft targets of mixup and cutmix (`batch["target"]: [batch, classes]`) where there are any.
    """

    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        logits = model(batch["image"]).float()
        return F.cross_entropy(logits, batch.get("target", batch["label"]), label_smoothing=label_smoothing)

    return loss_fn
