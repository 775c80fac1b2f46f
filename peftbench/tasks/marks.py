"""Two tasks that mark pixels, edges and what stands out: a score each, balanced cross-entropy, best thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.foundation.exact import exact
from peftbench.foundation.maps import UNKNOWN as IGNORED
from peftbench.foundation.metric import Metric
from peftbench.tasks.base import TASKS, Targets
from peftbench.tasks.boundaries import f_measure, matched, tolerance
from peftbench.tasks.dense import MapTask, Sums
from peftbench.train.batches import Batch
from peftbench.train.evaluate import Measured
from peftbench.train.options import TrainSpec

EDGE_WEIGHT = 0.95
EDGE_THRESHOLDS = tuple(number / 20 for number in range(1, 20))
# those of the multi-task literature: 0.2, 0.25, ..., 0.9
SALIENCY_THRESHOLDS = tuple(number / 20 for number in range(4, 19))
# the saliency literature weighs precision more than recall
BETA_SQUARED = 0.3


@dataclass(frozen=True)
class _Marks(MapTask):
    """Base of both: a chance at every pixel."""

    def averaged(self, outputs: Tensor, zoom: float, mirrored: bool) -> Tensor:
        return outputs.sigmoid()

    def scores_of(self, mean: Tensor) -> Tensor:
        return mean.logit(eps=1e-6)


@TASKS.add("edges")
@dataclass(frozen=True)
class Edges(_Marks):
    """`edges`, int64 [batch, height, width]: 1 on an edge, 0 beside it, 255 unknown. Positives weigh 0.95 (MTLoRA)."""

    primary: ClassVar[Metric] = Metric("edge_f")
    reads: ClassVar[tuple[str, ...]] = ("edges",)
    weight: ClassVar[float] = 50.0

    def loss(self, outputs: Any, batch: Batch, train: TrainSpec) -> Tensor:
        return balanced_loss(outputs[:, 0], batch["edges"], EDGE_WEIGHT)

    def maps_of(self, outputs: Any) -> dict[str, Tensor]:
        return {"edges": exact(outputs[:, 0]).sigmoid()}

    def meter(self, targets: Targets) -> EdgeMeter:
        return EdgeMeter()


@TASKS.add("saliency")
@dataclass(frozen=True)
class Saliency(_Marks):
    """`saliency`, int64 [batch, height, width]: 1 on what stands out, 0 around it, 255 unknown.

    The weight of a positive is the share of negatives in the batch (MTI-Net's balanced loss).
    """

    primary: ClassVar[Metric] = Metric("max_f")
    reads: ClassVar[tuple[str, ...]] = ("saliency",)
    weight: ClassVar[float] = 5.0

    def loss(self, outputs: Any, batch: Batch, train: TrainSpec) -> Tensor:
        return balanced_loss(outputs[:, 0], batch["saliency"])

    def maps_of(self, outputs: Any) -> dict[str, Tensor]:
        return {"saliency": exact(outputs[:, 0]).sigmoid()}

    def meter(self, targets: Targets) -> SaliencyMeter:
        return SaliencyMeter()


def balanced_loss(scores: Tensor, truth: Tensor, weight: float | None = None) -> Tensor:
    """w * positives + (1 - w) * negatives, over the known pixels; w is `weight`, or the share of negatives.

    scores: logits [batch, height, width]; truth of the same shape holds 0, 1 and 255.
    """
    scores = exact(scores)
    valid, positive = truth != IGNORED, truth == 1
    count = valid.sum().clamp(min=1)
    share: Tensor | float = (valid & ~positive).sum().to(scores.dtype) / count if weight is None else weight
    losses = F.binary_cross_entropy_with_logits(scores, positive.to(scores.dtype), reduction="none")
    # times the losses and not by themselves: a number alone would be of single precision
    weighed = torch.where(positive, share * losses, (1 - share) * losses)
    return torch.where(valid, weighed, torch.zeros_like(losses)).sum() / count


class EdgeMeter:
    """Logits [batch, 1, height, width] -> edge_f: the best F over one threshold for the whole split, of 19.

    A predicted edge pixel is right within 0.75 % of the diagonal of a true one, a true one found within that of a
    predicted one, counted over the split. There is no thinning and no one-to-one matching, so it is not the Berkeley
    benchmark's odsF. `threshold`: the best one. loss: the training loss, by pixels.
    """

    def __init__(self) -> None:
        self._sums = Sums()

    def update(self, outputs: Any, batch: Batch) -> None:
        truth = batch["edges"]
        valid, chances = truth != IGNORED, exact(outputs[:, 0]).sigmoid()
        distance = tolerance(truth.shape[-2:])
        counts = [matched((chances > most) & valid, truth == 1, distance) for most in EDGE_THRESHOLDS]
        loss = balanced_loss(outputs[:, 0], truth, EDGE_WEIGHT) * valid.sum()
        self._sums.add(counts=torch.stack(counts), loss=loss, pixels=valid.sum(), images=torch.as_tensor(len(truth)))

    def result(self) -> Measured:
        loss = self._sums.mean_loss()
        found = f_measure(self._sums["counts"])
        best = int(found.argmax())
        scores = {"edge_f": float(found[best]), "threshold": EDGE_THRESHOLDS[best]}
        return Measured({**scores, "loss": loss, "n": self._sums["images"]})


class SaliencyMeter:
    """Logits [batch, 1, height, width] -> numbers at the best of 15 thresholds, 0.2 to 0.9, for the whole split.

    max_f: F with beta^2 = 0.3 of the mean precision and the mean recall over images. miou: the mean over images of the
    intersection over union of what stands out (what the multi-task literature reports), 1 where nothing does and
    nothing is said to. Both are means over images, as their sources have them; images without a known pixel are left
    out. loss: balanced within each image.
    """

    def __init__(self) -> None:
        self._sums = Sums()

    def update(self, outputs: Any, batch: Batch) -> None:
        truth = batch["saliency"]
        valid, positive = truth != IGNORED, truth == 1
        seen = valid.any(dim=(1, 2))
        chances = exact(outputs[:, 0]).sigmoid()
        tops = torch.tensor(SALIENCY_THRESHOLDS, dtype=chances.dtype, device=truth.device)
        predicted = (chances[:, None] > tops[:, None, None]) & valid[:, None]
        hits = (predicted & positive[:, None]).sum(dim=(2, 3)).double()
        said, true = predicted.sum(dim=(2, 3)), positive.sum(dim=(1, 2))[:, None]
        either = said + true - hits
        self._sums.add(
            precision=(hits / said.clamp(min=1))[seen].sum(dim=0),
            recall=(hits / true.clamp(min=1))[seen].sum(dim=0),
            iou=torch.where(either > 0, hits / either.clamp(min=1), 1.0)[seen].sum(dim=0),
            loss=torch.stack([balanced_loss(*pair) for pair in zip(outputs[:, 0], truth, strict=True)])[seen].sum(),
            pixels=seen.sum(),
            images=torch.as_tensor(len(truth)),
        )

    def result(self) -> Measured:
        loss, sums = self._sums.mean_loss(), self._sums
        count = max(sums["pixels"], 1)
        precision, recall = sums["precision"] / count, sums["recall"] / count
        f = (1 + BETA_SQUARED) * precision * recall / np.maximum(BETA_SQUARED * precision + recall, 1e-12)
        scores = {"max_f": float(f.max()), "miou": float((sums["iou"] / count).max())}
        return Measured({**scores, "loss": loss, "n": sums["images"]})
