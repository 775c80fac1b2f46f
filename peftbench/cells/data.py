"""The data of a cell: its source, and splits as arrays and as batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from peftbench.backbones.base import InputSpec
from peftbench.cells.rand_augment import RandAugment
from peftbench.cells.shared import Opened
from peftbench.config.gate import RunConfig
from peftbench.config.protocol import VALIDATES, ProtocolSpec
from peftbench.config.runtime import RuntimeSpec
from peftbench.data.pixels.cache import WHOLE, load_split
from peftbench.data.pixels.changes import Changes
from peftbench.data.pixels.stream import UNCHANGED
from peftbench.data.pixels.transform import ImageTransform
from peftbench.data.ready import Split, View
from peftbench.foundation.errors import ConfigError
from peftbench.foundation.progress import Progress
from peftbench.tasks.apart import numbers_of
from peftbench.train.batches import Batches, evaluation_batches, training_batches
from peftbench.train.options import TrainSpec
from peftbench.train.stored import Values


class CellData:
    """An opened source under one protocol, for one backbone, on one device.

    `transform` is the deterministic preprocessing, `mean` and `std` (in 0..1 units) what pixels are normalised with.
    """

    def __init__(
        self,
        opened: Opened,
        config: RunConfig,
        runtime: RuntimeSpec,
        inputs: InputSpec,
        device: torch.device,
        progress: Progress,
        write: Callable[[Sequence[Sequence[str]]], Tensor] | None = None,
    ) -> None:
        """`write`: texts of samples -> their ids, of a backbone that reads texts."""
        source = opened.source
        self.source, self.device = source, device
        self.transform = image_transform(inputs, config.protocol)
        self.mean, self.std = config.protocol.pixel_statistics(inputs.mean, inputs.std)
        self._config, self._workers = config, runtime.decoders
        self._window = inputs.size
        _check_windows(config, inputs.size, source.mirrors)
        folder, targets, changes = runtime.cache_root, config.task.targets, _changes(config.train)

        @cache
        def split(name: str, view: View = WHOLE) -> Split:
            streamed = _stream_above(config, runtime, name)
            own = changes if streamed < 0 else UNCHANGED

            def load() -> Split:
                return load_split(source, name, self.transform, folder, progress.counted, streamed, targets, view, own)

            found = opened.split((name, self.transform.key(), folder, streamed, targets, view, own), load)
            if config.task.tells_tasks:
                tasks = np.array(numbers_of(source.class_tasks))[found.labels]
                found = replace(found, inputs={**found.inputs, "task": tasks})
            if not found.texts:
                return found
            assert write is not None, "a task with texts prepares a backbone that reads them"
            return replace(found, inputs={**found.inputs, "text": write(found.texts).numpy()})

        self.split = split

    @property
    def train_set(self) -> Split:
        return self.split(self._config.protocol.train_split)

    @property
    def val_set(self) -> Split | None:
        name = self._config.protocol.val_split
        return self.split(name) if name else None

    @property
    def test_views(self) -> list[Split]:
        """The test split as the protocol shows it, view by view; one for all but clips."""
        return [self.split("test", view) for view in self._config.protocol.test_views]

    def training(self, split: Split, inputs: Mapping[str, Values] | None = None) -> Batches:
        """Shuffled, augmented batches, drawn from the cell's seed; of `inputs` in place of the split's own."""
        return training_batches(
            split.inputs if inputs is None else inputs,
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

    def evaluation(
        self,
        split: Split,
        shuffle_frames: bool = False,
        batch_size: int | None = None,
        inputs: Mapping[str, Values] | None = None,
    ) -> Batches:
        """Every sample once, in order; with `shuffle_frames` the frames of each clip are not.

        In batches of `train.eval_batch_size` unless told otherwise; of `inputs` in place of the split's own.
        """
        return evaluation_batches(
            split.inputs if inputs is None else inputs,
            split.targets,
            self._config.train,
            batch_size=batch_size,
            device=self.device,
            mean=self.mean,
            std=self.std,
            workers=self._workers,
            shuffle_frames=shuffle_frames,
        )


def image_transform(inputs: InputSpec, protocol: ProtocolSpec) -> ImageTransform:
    """The deterministic preprocessing of a protocol for a backbone."""
    interpolation = inputs.interpolation if protocol.interpolation == "model" else protocol.interpolation
    size = protocol.canvas or inputs.size
    return ImageTransform(size, protocol.resize, interpolation, protocol.antialias, protocol.crop_pct)


def _changes(train: TrainSpec) -> Changes:
    """What is done to pictures while they are read in training."""
    operations = RandAugment(train.rand_ops, train.rand_magnitude) if train.rand_ops else None
    return Changes(train.augment, (train.short_side[0], train.short_side[1]), operations)


def _check_windows(config: RunConfig, window: int, mirrors: bool) -> None:
    """Raises `ConfigError` for a canvas or a second look that does not suit the network, the data or the method."""
    protocol, problems = config.protocol, []
    if protocol.test_flip and not mirrors:
        problems.append("protocol.test_flip mirrors pictures that know left from right; leave it false")
    if protocol.canvas is not None:
        if protocol.canvas < window:
            problems.append(f"protocol.canvas ({protocol.canvas}) must be at least the backbone's input of {window} px")
        if config.method.looks_first:
            problems.append(f"{config.method.name} looks at whole pictures; leave protocol.canvas=null")
    if problems:
        raise ConfigError(problems)


def _stream_above(config: RunConfig, runtime: RuntimeSpec, split: str) -> int:
    """Decoded bytes above which a split is not stored; -1 where every epoch reads it anew."""
    if config.train.reads_anew and split in VALIDATES:
        return -1
    return int(runtime.stream_above_gb * 1e9)
