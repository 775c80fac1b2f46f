"""What a cell costs: deterministic training memory, FLOPs, measured peak, throughput."""

from __future__ import annotations

from typing import Any

from torch import nn

from peftbench.tasks.classification import LossFn
from peftbench.train.batches import Batches
from peftbench.train.evaluate import Evaluation
from peftbench.train.loop import FitResult
from peftbench.train.measure import PeakMemory, flops, training_memory
from peftbench.train.options import OptimSpec, TrainSpec

PROBE_IMAGES = 2


def probe(model: nn.Module, loss_fn: LossFn, batches: Batches, optim: OptimSpec, train: TrainSpec) -> dict[str, Any]:
    """Numbers that need no clock: one step's memory on the first training batch, and FLOPs per image."""
    batch = next(iter(batches.epoch(0)))
    memory = training_memory(model, loss_fn, batch, optim, train.precision)
    forward, train_flops = flops(model, (PROBE_IMAGES, *batch["image"].shape[1:]), batches.device, loss_fn)
    return {"memory": memory, "forward_flops_per_image": forward, "train_flops_per_image": train_flops}


def measured(
    fit: FitResult,
    feature_seconds: float,
    test: Evaluation | None,
    peak: PeakMemory,
    adapter_bytes: int | None,
    device: str,
) -> dict[str, Any]:
    """Numbers that a clock or the allocator gave. Throughput counts the seconds spent on extracting features, too."""
    train_seconds = fit.seconds["train"] + feature_seconds
    return {
        "peak_bytes": peak.bytes(),
        "peak_kind": peak.kind,
        "train_images_per_second": fit.num_images / train_seconds,
        "eval_images_per_second": test.n / test.seconds if test and test.seconds > 0 else None,
        "data_seconds": fit.seconds.get("data", 0.0),
        "train_seconds": train_seconds,
        "eval_seconds": fit.seconds.get("eval", 0.0) + (test.seconds if test else 0.0),
        "adapter_bytes": adapter_bytes,
        "device": device,
    }
