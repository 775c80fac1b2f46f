"""Depth: one number at every pixel, judged by its root mean square error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from peftbench.foundation.exact import exact
from peftbench.foundation.metric import LOWER, Metric
from peftbench.tasks.base import TASKS, Targets
from peftbench.tasks.dense import MapTask, Sums
from peftbench.train.batches import Batch
from peftbench.train.evaluate import Measured
from peftbench.train.options import TrainSpec

# nearest depth that the ratios and logarithms of predictions are taken of, in the unit of the data
NEAREST = 1e-3


@TASKS.add("depth")
@dataclass(frozen=True)
class Depth(MapTask):
    """`depth`, float32 [batch, height, width] in the unit of the data, NaN where it is not known. L1 loss."""

    primary: ClassVar[Metric] = Metric("rmse", LOWER, "")
    reads: ClassVar[tuple[str, ...]] = ("depth",)

    def loss(self, outputs: Any, batch: Batch, train: TrainSpec) -> Tensor:
        errors, valid = _errors(outputs, batch)
        return errors.abs().sum() / valid.sum().clamp(min=1)

    def averaged(self, outputs: Tensor, zoom: float, mirrored: bool) -> Tensor:
        # a zoomed picture shows things nearer, as in training
        return outputs * zoom

    def maps_of(self, outputs: Any) -> dict[str, Tensor]:
        return {"depth": outputs[:, 0]}

    def meter(self, targets: Targets) -> DepthMeter:
        return DepthMeter()


class DepthMeter:
    """[batch, 1, height, width] -> errors over all known pixels of the split, never averaged image by image.

    rmse: root of the pooled mean square. abs_rel: mean of |error| / truth. log_rmse: of natural logarithms. delta_1:
    share of pixels whose ratio to the truth, or its inverse, is below 1.25. loss: mean absolute error. Pixels whose
    true depth is not above 0 count in rmse and loss alone; predictions below 0.001 count as 0.001 in ratios.
    """

    def __init__(self) -> None:
        self._sums = Sums()

    def update(self, outputs: Any, batch: Batch) -> None:
        errors, valid = _errors(outputs, batch)
        ahead = valid & (batch["depth"] > 0)
        truth = torch.where(ahead, batch["depth"], torch.ones_like(batch["depth"]))
        predicted = torch.where(ahead, exact(outputs[:, 0]), torch.ones_like(truth)).clamp(min=NEAREST)
        ratio = predicted / truth
        self._sums.add(
            squares=errors.double().square().sum(),
            loss=errors.abs().sum(),
            pixels=valid.sum(),
            relative=(torch.where(ahead, errors.abs(), torch.zeros_like(errors)) / truth).sum(),
            logs=ratio.log().double().square().sum(),
            close=((torch.maximum(ratio, 1 / ratio) < 1.25) & ahead).sum(),
            ahead=ahead.sum(),
            images=torch.as_tensor(len(errors)),
        )

    def result(self) -> Measured:
        loss, sums = self._sums.mean_loss(), self._sums
        pixels, ahead = max(sums["pixels"], 1), max(sums["ahead"], 1)
        metrics: dict[str, float | int] = {
            "rmse": math.sqrt(sums["squares"] / pixels),
            "abs_rel": sums["relative"] / ahead,
            "log_rmse": math.sqrt(sums["logs"] / ahead),
            "delta_1": sums["close"] / ahead,
            "loss": loss,
            "n": sums["images"],
        }
        return Measured(metrics)


def _errors(outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Prediction minus truth, 0 where nothing is known, and where something is: [batch, height, width] each."""
    truth = batch["depth"]
    valid = truth.isfinite()
    return torch.where(valid, exact(outputs[:, 0]) - truth.nan_to_num(0.0), 0.0), valid
