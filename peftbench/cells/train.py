"""Training a cell's parts: the whole model on its inputs, or what moves of it on what was computed once."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

from torch import nn

from peftbench.backbones.base import Backbone
from peftbench.cells.cost import probe
from peftbench.cells.frozen import Keeper, same_inputs
from peftbench.cells.last_block import LastBlock, last_block
from peftbench.cells.parts import Parts
from peftbench.config.gate import RunConfig
from peftbench.config.runtime import RuntimeSpec
from peftbench.data.ready import Split
from peftbench.foundation.progress import Progress
from peftbench.tasks.model import TaskModel
from peftbench.train.batches import Batches
from peftbench.train.evaluate import Passes
from peftbench.train.loop import FitResult, Row, fit, unfitted
from peftbench.train.loss import LossFn
from peftbench.train.optim import param_groups, require_words, trained_of


@dataclass(frozen=True)
class Trained:
    """The fit, what one step was counted to need before it, and what was computed once before it.

    feature_seconds: how long that took. kept: what the record says of it (`Keeper.facts`). last_block: how it ran.
    """

    fit: FitResult
    probed: dict[str, Any]
    feature_seconds: float
    kept: dict[str, Any]
    last_block: LastBlock


@dataclass(frozen=True)
class Trainee:
    """What the loop trains and on what, and what stands in for the model in validation."""

    module: nn.Module
    inputs: tuple[str, ...]
    train: Batches
    val_module: nn.Module
    val: Batches | None


def train_parts(config: RunConfig, parts: Parts, progress: Progress, title: str, runtime: RuntimeSpec) -> Trained:
    """Train what method and head have to train, and leave the model at the epoch that `train.select` says.

    Raises `ConfigError` for options that do not fit together, `TrainingDiverged` when a loss is not finite.
    """
    data, model = parts.data, parts.model
    loss_fn = config.objective.loss_fn(model, config.task.loss_fn(config.train, model.inputs))
    config.objective.before_training(model, len(data.train_set))
    found = last_block(model, loss_fn, data.training(data.train_set), config.train)
    if found.why and config.train.last_block != "all":
        progress.say(f"train.last_block={config.train.last_block} spares nothing here: {found.why}")
    with found.in_use():
        return _trained(config, parts, progress, title, runtime, loss_fn, found)


def _trained(
    config: RunConfig,
    parts: Parts,
    progress: Progress,
    title: str,
    runtime: RuntimeSpec,
    loss_fn: LossFn,
    found: LastBlock,
) -> Trained:
    task, data, model = config.task, parts.data, parts.model
    train_set, val_set = data.train_set, data.val_set
    blocks = [site.module for site in model.backbone.sites("block")]
    if config.train.compile:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(runtime.cache_root / "compiled"))
    probed: dict[str, Any] = {}
    if runtime.measure_cost:
        probed = probe(model, loss_fn, data.training(train_set), config.optim, config.train, blocks)
    if not any(tensor.requires_grad for tensor in _moved(config, model).parameters()):
        return Trained(unfitted(), probed, 0.0, {}, found)
    head = trained_of(model.head)
    require_words([name for name, _ in [*model.added, *head]], config.optim)
    groups = param_groups(model.added, head, config.optim, config.method.lr_scale)
    start, keeper = time.perf_counter(), Keeper(config, runtime, parts)
    trainee = trainee_of(config, parts, keeper, train_set, val_set)
    seconds = time.perf_counter() - start
    if trainee.inputs != model.inputs:
        # only under the plain objective, which adds nothing to the task's loss
        loss_fn = task.loss_fn(config.train, trainee.inputs)

    against, passes = against_capture(config, runtime) or model.backbone.against_capture, None
    if trainee.val is not None:
        of_passes = against or against_capture_of_passes(model.backbone)
        passes = Passes(trainee.val_module, trainee.val, config.train.precision, of_passes)

    def validate() -> float:
        assert passes is not None
        return float(passes.measure(task.meter(data.source)).metrics[task.metric.name])

    with progress.epochs(title, config.train.epochs, trainee.train, task.metric) as show:

        def on_epoch(row: Row) -> None:
            show(row)
            config.objective.after_epoch(model, row["epoch"] / config.train.epochs)

        result = fit(
            trainee.module,
            loss_fn,
            trainee.train,
            validate if passes is not None else None,
            config.optim,
            config.train,
            groups,
            config.seed,
            on_epoch,
            task.metric,
            against or against_capture_of_steps(config),
            blocks if trainee.module is model else (),
            lambda survey: config.method.before_epochs(model.backbone, survey, config.seed),
        )
    return Trained(result, probed, seconds, keeper.facts, found)


def _moved(config: RunConfig, model: TaskModel) -> nn.Module:
    """What steps move: of a method whose tensors are all there once it is attached, the head alone."""
    return model.head if config.method.trains_nothing else model


def against_capture(config: RunConfig, runtime: RuntimeSpec) -> str:
    """Why nothing of the cell must be captured, of what its options say; empty where nothing speaks against it."""
    if runtime.capture == "off":
        return "runtime.capture=off"
    return "" if config.method.steps_alike else f"{config.method.name} takes another path in each step"


def against_capture_of_steps(config: RunConfig) -> str:
    """The same of its steps alone."""
    objective = config.objective
    if not objective.steps_alike:
        return f"objective {objective.label} takes another path in some steps"
    return f"objective {objective.name} makes the host wait in each step" if objective.host_waits else ""


def against_capture_of_passes(backbone: Backbone) -> str:
    """The same of the batches of validation."""
    return "the first batch of a pass computes what the others use" if backbone.first_batch_differs else ""


def trainee_of(config: RunConfig, parts: Parts, keeper: Keeper, train_set: Split, val_set: Split | None) -> Trainee:
    """The model on its inputs, or the part of it that trains on what the rest gives, where that is the same."""
    data, model = parts.data, parts.model
    alone = _head_alone(config, parts)
    kept = keeper.pooled(train_set, training=True) if alone else keeper.training(train_set)
    train = kept.batches if kept else data.training(train_set)
    module: nn.Module = kept.module if kept else model
    inputs = kept.module.inputs if kept else model.inputs
    if val_set is None:
        return Trainee(module, inputs, train, model, None)
    kept_val = keeper.pooled(val_set, training=False) if alone else keeper.validation(val_set)
    return Trainee(
        module,
        inputs,
        train,
        kept_val.module if kept_val else model,
        kept_val.batches if kept_val else data.evaluation(val_set),
    )


def _head_alone(config: RunConfig, parts: Parts) -> bool:
    """Whether only the head trains, on ever the same pooled features."""
    train, model = config.train, parts.model
    fixed = same_inputs(config) and train.drop_path == 0 and config.objective.plain and not model.backbone.trainable
    return train.cache_features and fixed and config.task.reads_pooled(model)
