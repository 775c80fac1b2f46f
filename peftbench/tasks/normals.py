"""Surface normals: a unit vector at every pixel, judged by the angle to the true one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.foundation.exact import exact
from peftbench.foundation.metric import LOWER, Metric
from peftbench.tasks.base import TASKS, Targets
from peftbench.tasks.dense import MapTask, Sums
from peftbench.train.batches import Batch
from peftbench.train.evaluate import Measured
from peftbench.train.options import TrainSpec

# angles are counted in steps of a hundredth of a degree, from which the median follows
_STEPS = 18_000
_WITHIN = (11.25, 22.5, 30.0)


@TASKS.add("normals")
@dataclass(frozen=True)
class Normals(MapTask):
    """`normals`, float32 [batch, 3, height, width] of length 1, NaN where none is known.

    Predictions are normalised; the loss is their L1 distance, the mean over known pixels and the three components.
    """

    primary: ClassVar[Metric] = Metric("mean_angle", LOWER, "degrees")
    reads: ClassVar[tuple[str, ...]] = ("normals",)
    weight: ClassVar[float] = 10.0

    def num_outputs(self, targets: Targets) -> int:
        return 3

    def loss(self, outputs: Any, batch: Batch, train: TrainSpec) -> Tensor:
        distance, valid = _distance(outputs, batch)
        return distance.sum() / (3 * valid.sum()).clamp(min=1)

    def averaged(self, outputs: Tensor, zoom: float, mirrored: bool) -> Tensor:
        found = F.normalize(outputs, dim=1)
        return torch.cat([-found[:, :1], found[:, 1:]], dim=1) if mirrored else found

    def maps_of(self, outputs: Any) -> dict[str, Tensor]:
        return {"normals": F.normalize(exact(outputs), dim=1)}

    def meter(self, targets: Targets) -> NormalsMeter:
        return NormalsMeter()


class NormalsMeter:
    """[batch, 3, height, width] -> angles in degrees over all known pixels of the split.

    mean_angle, median_angle (to a hundredth of a degree), rms_angle, and the shares within_11.25, within_22.5 and
    within_30 degrees. loss as in training.
    """

    def __init__(self) -> None:
        self._sums = Sums()

    def update(self, outputs: Any, batch: Batch) -> None:
        distance, valid = _distance(outputs, batch)
        cosine = (F.normalize(outputs.double(), dim=1) * batch["normals"].nan_to_num(0.0)).sum(dim=1)
        angles = torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))[valid]
        self._sums.add(
            loss=distance.sum() / 3,
            pixels=valid.sum(),
            angles=angles.sum(),
            squares=angles.square().sum(),
            # a model that diverged has no angle; its loss says so
            steps=torch.bincount((angles.nan_to_num(0.0) * 100).long().clamp(max=_STEPS - 1), minlength=_STEPS),
            within=torch.stack([(angles < most).sum() for most in _WITHIN]),
            images=torch.as_tensor(len(distance)),
        )

    def result(self) -> Measured:
        loss, sums = self._sums.mean_loss(), self._sums
        pixels = max(sums["pixels"], 1)
        middle = int(np.searchsorted(np.cumsum(sums["steps"]), (pixels + 1) // 2))
        metrics: dict[str, float | int] = {
            "mean_angle": sums["angles"] / pixels,
            "median_angle": (middle + 0.5) / 100,
            "rms_angle": (sums["squares"] / pixels) ** 0.5,
            **{f"within_{most:g}": int(count) / pixels for most, count in zip(_WITHIN, sums["within"], strict=True)},
            "loss": loss,
            "n": sums["images"],
        }
        return Measured(metrics)


def _distance(outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Summed |difference| of components, 0 where nothing is known, and where something is: [batch, height, width]."""
    truth = batch["normals"]
    valid = truth.isfinite().all(dim=1)
    found = exact(outputs)
    # as the multi-task literature keeps from dividing by zero
    found = found / (found.norm(dim=1, keepdim=True) + 1e-12)
    distance = (found - truth.nan_to_num(0.0)).abs().sum(dim=1)
    return torch.where(valid, distance, torch.zeros_like(distance)), valid
