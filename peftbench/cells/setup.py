"""Everything a cell needs before training: data source, image transform, and the model with its method attached."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from peftbench.backbones.base import InputSpec
from peftbench.backbones.build import build_backbone
from peftbench.cells.evidence import CellEvidence
from peftbench.config.gate import RunConfig
from peftbench.config.protocol import VALIDATES, ProtocolSpec
from peftbench.config.runtime import RuntimeSpec
from peftbench.data.base import ImageSplit, Source
from peftbench.data.fewshot.draw import few_shot
from peftbench.data.pixels.cache import load_split
from peftbench.data.pixels.transform import ImageTransform
from peftbench.foundation.errors import ConfigError
from peftbench.foundation.location import default_cache_dir
from peftbench.foundation.progress import Progress
from peftbench.foundation.seeding import seeded
from peftbench.methods.base import install
from peftbench.methods.observation import Findings
from peftbench.objectives import base as objectives
from peftbench.tasks.model import Classifier
from peftbench.train.batches import Batches, evaluation_batches, training_batches


@dataclass
class Setup:
    """A model and its data, ready to be trained or evaluated on one device.

    `load` gives pixels and labels of a split: from the cache, or a reader when it is too large or cropped at random.
    `findings` is what a method saw in the training images before it was attached, None for most; `observe_seconds`
    is how long it looked.
    """

    config: RunConfig
    source: Source
    model: Classifier
    transform: ImageTransform
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    num_backbone_params: int
    frozen_buffers: tuple[Tensor, ...]
    device: torch.device
    load: Callable[[str], ImageSplit]
    progress: Progress
    runtime: RuntimeSpec
    findings: Findings | None = None
    observe_seconds: float = 0.0

    def train_batches(self, split: ImageSplit) -> Batches:
        config = self.config
        return training_batches(
            split.images,
            split.labels,
            config.train,
            num_classes=self.source.num_classes,
            seed=config.seed,
            device=self.device,
            mean=self.mean,
            std=self.std,
            workers=self.runtime.workers,
        )

    def eval_batches(self, split: ImageSplit) -> Batches:
        return evaluation_batches(
            split.images,
            split.labels,
            self.config.train,
            device=self.device,
            mean=self.mean,
            std=self.std,
            workers=self.runtime.workers,
        )


def set_up(config: RunConfig, runtime: RuntimeSpec, progress: Progress, findings: Findings | None = None) -> Setup:
    """Open the data, build the backbone, attach the method, add the head. Raises what those raise.

    A method that looks at images first does so here, unless the `findings` of an earlier look are given.
    """
    device = pick_device(runtime.device)
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    source = open_source(config)
    for note in source.notes:
        progress.say(note)
    backbone = build_backbone(config.backbone, config.train.drop_path).to(device)
    if config.backbone.checkpoint:
        progress.say(f"{config.backbone.checkpoint}: {backbone.weights_read}")
    num_params = sum(parameter.numel() for parameter in backbone.parameters())
    own = objectives.prepare(config.objective, backbone, source.num_classes, config.seed)
    frozen_buffers = (*backbone.buffers(), *own.buffers())
    inputs, protocol = backbone.input_spec, config.protocol
    transform = image_transform(inputs, protocol)
    mean, std = protocol.pixel_statistics(inputs.mean, inputs.std)
    cache_dir = Path(runtime.cache).expanduser() if runtime.cache else default_cache_dir()
    load = cache(
        lambda split: load_split(
            source, split, transform, cache_dir, progress.counted, _stream_above(config, runtime, split)
        )
    )
    observe_seconds = 0.0
    if config.method.observes and findings is None:
        evidence = CellEvidence(
            backbone=backbone,
            num_classes=source.num_classes,
            load=load,
            train_split=protocol.train_split,
            optim=config.optim,
            train=config.train,
            seed=config.seed,
            device=device,
            mean=mean,
            std=std,
            progress=Progress(runtime.progress),
        )
        findings, observe_seconds = _observed(config, evidence, progress)
    install(config.method, backbone, config.seed, findings)
    model = Classifier(backbone, source.num_classes, config.seed)
    objectives.install(config.objective, model, own)
    model.to(device)
    return Setup(
        config,
        source,
        model,
        transform,
        mean,
        std,
        num_params,
        frozen_buffers,
        device,
        load,
        progress,
        runtime,
        findings,
        observe_seconds,
    )


def _observed(config: RunConfig, evidence: CellEvidence, progress: Progress) -> tuple[Findings, float]:
    """What the method finds in the training images, and the seconds it looked."""
    progress.say(f"{config.method.name} looks at the training images before it is attached")
    started = time.perf_counter()
    with seeded(config.seed, "observe"):
        findings = config.method.observe(evidence)
    return findings, time.perf_counter() - started


def open_source(config: RunConfig) -> Source:
    """The dataset, with a few-shot draw from it where the protocol asks for one. Raises what opening it does."""
    source, protocol = config.dataset.open(), config.protocol
    return few_shot(source, protocol.shots, *protocol.draw(config.seed)) if protocol.shots else source


def _stream_above(config: RunConfig, runtime: RuntimeSpec, split: str) -> int:
    """Decoded bytes above which a split is not stored; -1 where every epoch cuts other squares out of the pictures."""
    if config.train.augment == "window_flip" and split in VALIDATES:
        return -1
    return int(runtime.stream_above_gb * 1e9)


def image_transform(inputs: InputSpec, protocol: ProtocolSpec) -> ImageTransform:
    """The deterministic preprocessing of a protocol for a backbone."""
    interpolation = inputs.interpolation if protocol.interpolation == "model" else protocol.interpolation
    return ImageTransform(inputs.size, protocol.resize, interpolation, protocol.antialias, protocol.crop_pct)


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises `ConfigError` for a device this machine or torch does not have."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError([f"runtime.device '{name}' is not a device; use auto, cpu, cuda or cuda:N"]) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError([f"runtime.device={name}: torch sees no CUDA device here; use auto or cpu"])
    return device
