"""The parts of a cell: its data, and its model with the method attached and the task's head on top."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from peftbench.backbones.base import Backbone
from peftbench.backbones.towers import TwoTowers
from peftbench.cells.data import CellData
from peftbench.cells.evidence import CellEvidence
from peftbench.cells.shared import backbone_of, opened
from peftbench.config.gate import RunConfig
from peftbench.config.runtime import RuntimeSpec
from peftbench.data.base import Source
from peftbench.foundation.device import pick_device
from peftbench.foundation.errors import ConfigError, NotApplicable
from peftbench.foundation.progress import Progress
from peftbench.foundation.seeding import seeded
from peftbench.methods.base import install
from peftbench.methods.observation import Findings
from peftbench.objectives import base as objectives
from peftbench.tasks.base import TASKS
from peftbench.tasks.model import TaskModel, drop_ahead_of_head
from peftbench.train.precision import round_frozen


@dataclass(frozen=True)
class Observed:
    """What a method that looks at training images first has seen, None for most, and the seconds it looked."""

    findings: Findings | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Parts:
    """What is trained and evaluated. `frozen_buffers` and `num_backbone_params` tell what was there before a method."""

    data: CellData
    model: TaskModel
    observed: Observed
    num_backbone_params: int
    frozen_buffers: tuple[Tensor, ...]


def build_parts(config: RunConfig, runtime: RuntimeSpec, progress: Progress, findings: Findings | None = None) -> Parts:
    """Open the data, build the backbone, attach the method, add the head. Raises what those raise.

    A method that looks at images first does so here, unless the `findings` of an earlier look are given.
    """
    device = pick_device(runtime.device)
    data_set = opened(config)
    source = data_set.source
    for note in source.notes:
        progress.say(note)
    _check_task(config, source)
    backbone = backbone_of(config).to(device)
    config.task.prepare(backbone, source)
    if config.backbone.checkpoint:
        progress.say(f"{config.backbone.checkpoint}: {backbone.weights_read}")
    num_params = sum(parameter.numel() for parameter in backbone.parameters())
    own = objectives.prepare(config.objective, backbone, source.num_classes, config.seed)
    frozen_buffers = (*backbone.buffers(), *own.buffers())
    write = backbone.written if isinstance(backbone, TwoTowers) else None
    data = CellData(data_set, config, runtime, backbone.input_spec, device, progress, write)
    observed = Observed(findings)
    if config.method.looks_first and findings is None:
        observed = _look(config, runtime, backbone, data, progress)
    install(config.method, backbone, config.seed, observed.findings)
    if config.protocol.merge:
        # what does not fold is said ahead of training, and not behind it
        config.method.merge(copy.deepcopy(backbone))
    model = config.task.model(backbone, source, config.seed)
    model.head = config.method.on_head(model.head)
    if config.train.head_dropout:
        drop_ahead_of_head(model, config.train.head_dropout, config.task.name)
    objectives.install(config.objective, model, own, source.num_classes)
    if config.train.frozen_bf16:
        round_frozen(model)
    return Parts(data, model.to(device), observed, num_params, frozen_buffers)


def _check_task(config: RunConfig, source: Source) -> None:
    """Raises `ConfigError` where the data has no such targets, `NotApplicable` where the objective has no such loss."""
    missing = [name for name in config.task.targets if name not in source.targets]
    if missing:
        has, needs = ", ".join(source.targets), ", ".join(missing)
        words = f"{config.dataset.label} has {has} for a target and task={config.task.name} needs {needs}"
        raise ConfigError([f"{words}; {_tasks_for(source.targets)}"])
    if config.method.by_class and "label" not in config.task.targets:
        words = f"{config.method.name} looks at the class of each image, and task={config.task.name} has none"
        raise NotApplicable(f"{words}; choose another method")
    if config.task.tells_tasks and not (config.objective.plain or config.objective.of_any):
        words = f"objective {config.objective.name} compares an image with the classes of all tasks"
        raise NotApplicable(f"{words}, task.apart=true with those of its own; take objective=none, or another method")
    if config.task.base_only and config.method.bound_to_classes:
        raise NotApplicable(f"what {config.method.label} learns belongs to its classes: it knows nothing of new ones")
    if config.task.targets != ("label",) and not (config.objective.plain or config.objective.of_any):
        raise NotApplicable(f"objective {config.objective.name} is a loss of classes, not of {config.task.name}")


def _tasks_for(targets: Sequence[str]) -> str:
    """Advice for data with these targets: the tasks that, as they come, read no others."""
    reading = [f"task={name}" for name in TASKS.names() if set(TASKS.get(name)().targets) <= set(targets)]
    return f"choose {' or '.join(reading)}, or another dataset" if reading else "choose another dataset"


def _look(config: RunConfig, runtime: RuntimeSpec, backbone: Backbone, data: CellData, progress: Progress) -> Observed:
    """The method looks at the training images, on a backbone that is still frozen and bare."""
    evidence = CellEvidence(
        backbone=backbone,
        num_classes=data.source.num_classes,
        load=data.split,
        train_split=config.protocol.train_split,
        optim=config.optim,
        train=config.train,
        seed=config.seed,
        device=data.device,
        mean=data.mean,
        std=data.std,
        progress=Progress(runtime.progress),
        task=config.task,
        mirrors=data.source.mirrors,
    )
    progress.say(f"{config.method.name} looks at the training images before it is attached")
    started = time.perf_counter()
    with seeded(config.seed, "observe"):
        findings = config.method.observe(evidence)
    return Observed(findings, time.perf_counter() - started)
