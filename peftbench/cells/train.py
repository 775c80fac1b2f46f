"""Training a cell's parts: the whole model on its inputs, or the head on features that were computed once."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.cells.cost import probe
from peftbench.cells.parts import Parts
from peftbench.config.gate import RunConfig
from peftbench.config.runtime import RuntimeSpec
from peftbench.data.base import Split
from peftbench.foundation.progress import Progress
from peftbench.train.augment import Augment
from peftbench.train.batches import Batches, evaluation_batches, training_batches
from peftbench.train.evaluate import evaluate
from peftbench.train.loop import FitResult, fit
from peftbench.train.optim import param_groups
from peftbench.train.precision import autocast


@dataclass(frozen=True)
class Trained:
    """The fit, what one step was counted to need before it, and the seconds features took that the head trained on."""

    fit: FitResult
    probed: dict[str, Any]
    feature_seconds: float


@dataclass(frozen=True)
class Trainee:
    """What the loop trains, and on what."""

    module: nn.Module
    train: Batches
    val: Batches | None
    feature_seconds: float = 0.0


def train_parts(config: RunConfig, parts: Parts, progress: Progress, title: str, runtime: RuntimeSpec) -> Trained:
    """Train what method and head have to train, and leave the model at the epoch that `train.select` says.

    Raises `ConfigError` for options that do not fit together, `TrainingDiverged` when a loss is not finite.
    """
    task, data, model = config.task, parts.data, parts.model
    loss_fn = config.objective.loss_fn(model, task.loss_fn(config.train, model.inputs))
    train_set, val_set = data.train_set, data.val_set
    blocks = [site.module for site in model.backbone.sites("block")]
    if config.train.compile:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(runtime.cache_root / "compiled"))
    probed: dict[str, Any] = {}
    if runtime.measure_cost:
        probed = probe(model, loss_fn, data.training(train_set), config.optim, config.train, blocks)
    groups = param_groups(model.added, model.head.named_parameters(prefix="head"), config.optim)
    trainee = trainee_of(config, parts, train_set, val_set)

    def validate() -> float:
        assert trainee.val is not None
        meter = task.meter(data.source)
        return float(evaluate(trainee.module, trainee.val, meter, config.train.precision).metrics[task.metric.name])

    with progress.epochs(title, config.train.epochs, trainee.train, task.metric) as on_epoch:
        result = fit(
            trainee.module,
            loss_fn,
            trainee.train,
            validate if trainee.val is not None else None,
            config.optim,
            config.train,
            groups,
            config.seed,
            on_epoch,
            task.metric,
            against_capture(config, runtime),
            blocks if trainee.module is model else (),
        )
    return Trained(result, probed, trainee.feature_seconds)


def against_capture(config: RunConfig, runtime: RuntimeSpec) -> str:
    """Why the cell's steps must not be captured, of what its options say; empty where nothing speaks against it."""
    if runtime.capture == "off":
        return "runtime.capture=off"
    return "" if config.method.steps_alike else f"{config.method.name} takes another path in each step"


def trainee_of(config: RunConfig, parts: Parts, train_set: Split, val_set: Split | None) -> Trainee:
    """The head on cached features where that computes the same thing, else the model on its inputs."""
    data = parts.data
    if not _features_are_fixed(config, parts):
        return Trainee(parts.model, data.training(train_set), data.evaluation(val_set) if val_set else None)
    start = time.perf_counter()
    train = training_batches(
        {"image": _features(config, parts, train_set)},
        train_set.targets,
        config.train,
        num_classes=data.source.num_classes,
        seed=config.seed,
        device=data.device,
    )
    val = None
    if val_set is not None:
        features = {"image": _features(config, parts, val_set)}
        val = evaluation_batches(features, val_set.targets, config.train, device=data.device)
    return Trainee(parts.model.head, train, val, time.perf_counter() - start)


def _features_are_fixed(config: RunConfig, parts: Parts) -> bool:
    """Whether only the head trains, on ever the same pooled features."""
    train, model = config.train, parts.model
    chance = train.drop_path > 0 or train.mixup > 0 or train.cutmix > 0 or Augment.of(train).active
    fixed = train.cache_features and config.objective.plain and not chance and not model.backbone.trainable
    return fixed and config.task.reads_pooled(model)


def _features(config: RunConfig, parts: Parts, split: Split) -> Tensor:
    """Pooled features [num, feature_dim] in float32, on the device."""
    backbone, batches = parts.model.backbone.eval(), parts.data.evaluation(split)
    found = []
    with torch.inference_mode(), autocast(parts.data.device, config.train.precision):
        for batch in batches.epoch(0):
            found.append(backbone(*batches.inputs_of(batch)).float())
    return torch.cat(found).clone()
