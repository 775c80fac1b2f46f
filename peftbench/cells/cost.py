"""What a cell costs: deterministic training memory, FLOPs, throughput."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from peftbench.tasks.model import TaskModel
from peftbench.train.batches import Batches
from peftbench.train.evaluate import Evaluation
from peftbench.train.loop import FitResult
from peftbench.train.loss import LossFn
from peftbench.train.measure import flops, training_memory
from peftbench.train.options import OptimSpec, TrainSpec

PROBE_SAMPLES = 2
NOT_PROBED: dict[str, Any] = {"memory": None, "forward_flops_per_image": None, "train_flops_per_image": None}


def probe(
    model: TaskModel,
    loss_fn: LossFn,
    batches: Batches,
    optim: OptimSpec,
    train: TrainSpec,
    blocks: Sequence[nn.Module] = (),
) -> dict[str, Any]:
    """Numbers that need no clock: one step's memory on the first training batch, and FLOPs per image.

    With `train.recompute` the memory is that of a step that computes its `blocks` again; the FLOPs are those without.
    They are those of steps: what a method does ahead of each epoch is in the seconds and not in them.
    """
    batch = next(iter(batches.epoch(0)))
    again = blocks if train.recompute else ()
    memory = training_memory(model, loss_fn, batch, optim, train.precision, again)
    blank = {name: values.new_zeros(PROBE_SAMPLES, *values.shape[1:]) for name, values in batch.items()}
    forward, train_flops = flops(model, blank, loss_fn, model.inputs, train.precision)
    return {"memory": memory, "forward_flops_per_image": forward, "train_flops_per_image": train_flops}


def measured(fit: FitResult, feature_seconds: float, test: Evaluation | None) -> dict[str, Any]:
    """Numbers that a clock gave, and how steps were started. Throughput counts the seconds spent on features, too."""
    train_seconds = fit.seconds["train"] + feature_seconds
    return {
        "train_images_per_second": fit.num_images / train_seconds if fit.num_images else None,
        "eval_images_per_second": test.num_samples * test.views / test.seconds if test and test.seconds > 0 else None,
        "data_seconds": fit.seconds.get("data", 0.0),
        "train_seconds": train_seconds,
        "eval_seconds": fit.seconds.get("eval", 0.0) + (test.seconds if test else 0.0),
        "capture": fit.capture,
    }
