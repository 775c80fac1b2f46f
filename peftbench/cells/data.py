"""The data of a cell: its source, and splits as arrays and as batches."""

from __future__ import annotations

from functools import cache

import torch

from peftbench.backbones.base import InputSpec
from peftbench.config.gate import RunConfig
from peftbench.config.protocol import VALIDATES, ProtocolSpec
from peftbench.config.runtime import RuntimeSpec
from peftbench.data.base import Source, Split
from peftbench.data.fewshot.draw import few_shot
from peftbench.data.pixels.cache import load_split
from peftbench.data.pixels.transform import ImageTransform
from peftbench.foundation.errors import ConfigError
from peftbench.foundation.progress import Progress
from peftbench.train.batches import Batches, evaluation_batches, training_batches


class CellData:
    """An opened source under one protocol, for one backbone, on one device.

    `transform` is the deterministic preprocessing, `mean` and `std` (in 0..1 units) what pixels are normalised with.
    """

    def __init__(
        self,
        source: Source,
        config: RunConfig,
        runtime: RuntimeSpec,
        inputs: InputSpec,
        device: torch.device,
        progress: Progress,
    ) -> None:
        self.source, self.device = source, device
        self.transform = image_transform(inputs, config.protocol)
        self.mean, self.std = config.protocol.pixel_statistics(inputs.mean, inputs.std)
        self._config, self._workers = config, runtime.workers
        self._window = inputs.size
        _check_canvas(config, inputs.size)
        folder = runtime.cache_root
        self.split = cache(
            lambda name: load_split(
                source,
                name,
                self.transform,
                folder,
                progress.counted,
                _stream_above(config, runtime, name),
                config.task.targets,
            )
        )

    @property
    def train_set(self) -> Split:
        return self.split(self._config.protocol.train_split)

    @property
    def val_set(self) -> Split | None:
        name = self._config.protocol.val_split
        return self.split(name) if name else None

    def training(self, split: Split) -> Batches:
        """Shuffled, augmented batches, drawn from the cell's seed."""
        return training_batches(
            split.inputs,
            split.targets,
            self._config.train,
            num_classes=self.source.num_classes,
            seed=self._config.seed,
            device=self.device,
            mean=self.mean,
            std=self.std,
            workers=self._workers,
            window=self._window,
            mirrors=self.source.mirrors,
        )

    def evaluation(self, split: Split, shuffle_frames: bool = False) -> Batches:
        """Every sample once, in order; with `shuffle_frames` the frames of each clip are not."""
        return evaluation_batches(
            split.inputs,
            split.targets,
            self._config.train,
            device=self.device,
            mean=self.mean,
            std=self.std,
            workers=self._workers,
            shuffle_frames=shuffle_frames,
        )


def open_source(config: RunConfig) -> Source:
    """The dataset, with a few-shot draw from it where the protocol asks for one. Raises what opening it does."""
    source, protocol = config.dataset.open(), config.protocol
    return few_shot(source, protocol.shots, *protocol.draw(config.seed)) if protocol.shots else source


def image_transform(inputs: InputSpec, protocol: ProtocolSpec) -> ImageTransform:
    """The deterministic preprocessing of a protocol for a backbone."""
    interpolation = inputs.interpolation if protocol.interpolation == "model" else protocol.interpolation
    size = protocol.canvas or inputs.size
    return ImageTransform(size, protocol.resize, interpolation, protocol.antialias, protocol.crop_pct)


def _check_canvas(config: RunConfig, window: int) -> None:
    """Raises `ConfigError` where pictures larger than the backbone's input would not be cut into windows."""
    canvas = config.protocol.canvas
    if canvas is None:
        return
    problems = []
    if not config.task.slides:
        problems.append(f"protocol.canvas is for tasks that predict maps; task={config.task.name} takes none")
    if canvas < window:
        problems.append(f"protocol.canvas ({canvas}) must be at least the backbone's input of {window} px")
    if config.train.augment != "scale_crop_flip":
        problems.append("protocol.canvas needs windows to train on; set train.augment=scale_crop_flip")
    if config.method.observes:
        problems.append(f"{config.method.name} looks at whole pictures; leave protocol.canvas=null")
    if problems:
        raise ConfigError(problems)


def _stream_above(config: RunConfig, runtime: RuntimeSpec, split: str) -> int:
    """Decoded bytes above which a split is not stored; -1 where every epoch takes other squares or frames of it."""
    if (config.train.augment == "window_flip" or config.train.draw_frames) and split in VALIDATES:
        return -1
    return int(runtime.stream_above_gb * 1e9)
