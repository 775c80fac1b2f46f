"""Batches of one split: order, normalisation and augmentation, all decided by (seed, epoch, sample)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from peftbench.foundation.maps import BOXES
from peftbench.foundation.seeding import stream
from peftbench.train.augment import Augment, Draws
from peftbench.train.batch_checks import CLASS_MAP, IMAGE, LABEL, check_changes, check_full_batch, check_split
from peftbench.train.mixing import Mix
from peftbench.train.moved_boxes import moved_boxes
from peftbench.train.moved_maps import moved, varied_windows
from peftbench.train.options import TrainSpec
from peftbench.train.readers import FOR_READERS
from peftbench.train.stored import Stored, Values

Batch: TypeAlias = dict[str, Tensor]

# among an epoch's draws: the order in which a clip's frames are shown
_FRAME_ORDER = "frame_order"


class Batches:
    """Iterates over a split: `for batch in batches.epoch(e)`.

    A batch is a mapping of inputs and targets by name, on the device, first axis the samples. Pixels come as float32
    [batch, 3, height, width] (clips [batch, time, 3, height, width]), normalised; integer targets as int64; beside
    them `index` (int64 [batch], place in the split) and, with mixup or cutmix, `target` (float32 [batch, classes]).

    inputs: by name, among them `image`. Pixels are uint8 [num, (time,) height, width, 1 or 3]; features and the like,
        float or int [num, ...], are handed on as they are; a `Reader` decodes pixels in `workers` processes.
    targets: by name, `label` int [num] for classes.
    mean, std: per channel, in 0..1 units; both None for plain pixels in 0..1.
    draws_seed: for the augmentation alone, where it should differ from the seed of the order.
    shuffle_frames: every clip with its frames in a random order, the same in every epoch and whatever the seed.

    Raises `BadInput` for arrays of other shapes; `ConfigError` when dropping the last batch leaves none, or when
    features are to be augmented.
    """

    def __init__(
        self,
        inputs: Mapping[str, Values],
        targets: Mapping[str, Values],
        *,
        batch_size: int,
        device: torch.device | str = "cpu",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        seed: int = 0,
        shuffle: bool = False,
        keep_last: bool = True,
        augment: Augment | None = None,
        mix: Mix | None = None,
        draws_seed: int | None = None,
        workers: int = 0,
        shuffle_frames: bool = False,
    ) -> None:
        num_samples = check_split(inputs, targets)
        if not keep_last:
            check_full_batch(num_samples, batch_size)
        # called after each batch has been used; what it does must not change a number
        self.on_batch: Callable[[], None] | None = None
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.device = torch.device(device)
        self._inputs = {name: Stored(values, self.device, workers) for name, values in inputs.items()}
        self._targets = {name: Stored(_writable(values), self.device, workers) for name, values in targets.items()}
        self._stored = self._inputs | self._targets
        self._augment = augment if augment is not None and augment.active else None
        self._mix = mix
        self._maps = [name for name, stored in self._targets.items() if len(stored.shape) > 2]
        check_changes(self._inputs, self._targets, augment, mix)
        self._mean = _channels(mean if mean is not None else (0.0, 0.0, 0.0), self.device)
        self._std = _channels(std if std is not None else (1.0, 1.0, 1.0), self.device)
        self._seed, self._shuffle, self._keep_last = seed, shuffle, keep_last
        self._draws_seed = seed if draws_seed is None else draws_seed
        self._frame_orders = _frame_orders(self._inputs[IMAGE].shape) if shuffle_frames else None

    def __len__(self) -> int:
        """Batches per epoch."""
        whole, rest = divmod(self.num_samples, self.batch_size)
        return whole + (1 if rest and self._keep_last else 0)

    @property
    def sizes(self) -> list[int]:
        """How many samples each batch of an epoch has."""
        starts = range(0, self.num_samples, self.batch_size)
        return [min(self.batch_size, self.num_samples - start) for start in starts][: len(self)]

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(self._inputs)

    def inputs_of(self, batch: Batch) -> tuple[Tensor, ...]:
        """The inputs of one of these batches, in the order in which they were given."""
        return tuple(batch[name] for name in self._inputs)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch; the same number gives the same batches again."""
        order = self.order(epoch)
        order_on_device = order.to(self.device)
        draws = self.draws(epoch)
        drawn = {name: draws.pop(name) for name in FOR_READERS if name in draws}
        draws = {name: draw.to(self.device) for name, draw in draws.items()}
        parts = [slice(step * self.batch_size, (step + 1) * self.batch_size) for step in range(len(self))]
        columns = [
            values.batches([(order_on_device if values.resident else order)[part] for part in parts], drawn)
            for values in self._stored.values()
        ]
        for step, (part, *values) in enumerate(zip(parts, *columns, strict=True)):
            index = order_on_device[part]
            mixing = {name: self._sent(drawn) for name, drawn in self.mixing(epoch, step, len(index)).items()}
            yield self.made(values, index, {name: draw[index] for name, draw in draws.items()}, mixing)
            if self.on_batch is not None:
                self.on_batch()

    def made(self, values: Iterable[Tensor], index: Tensor, draws: Draws, mixing: Draws) -> Batch:
        """A batch of the stored `values` at `index`, with its own rows of the random numbers; all on the device."""
        batch = dict(zip(self._stored, values, strict=True))
        if self._augment is not None:
            if "windows" in draws:
                draws = varied_windows(batch[CLASS_MAP].long(), draws, self._augment)
            for name in self._maps:
                if name == BOXES:
                    batch[name] = moved_boxes(batch[name], draws, self._augment, self._image_size)
                else:
                    batch[name] = moved(name, batch[name], draws, self._augment)
        for name in self._targets:
            batch[name] = batch[name] if batch[name].is_floating_point() else batch[name].long()
        for name in self._inputs:
            if self._inputs[name].is_pixels:
                batch[name] = self._to_float(batch[name], draws)
        batch["index"] = index
        if self._mix is not None:
            batch[IMAGE], batch["target"] = self._mix.blend(batch[IMAGE], batch[LABEL], mixing)
        return batch

    def gathered(self, index: Tensor, draws: Draws, mixing: Draws) -> Batch:
        """The same where everything is resident: the device alone makes it."""
        return self.made((values.at(index) for values in self._stored.values()), index, draws, mixing)

    @property
    def needs_host(self) -> str:
        """Why the host has a part in making each batch; empty where it has none."""
        if any(values.read_anew for values in self._stored.values()):
            return "images are decoded while training goes on"
        if not all(values.resident for values in self._stored.values()):
            return "the images are too many to lie on the device"
        return "this augmentation is steered by the host" if self._augment is not None and self._augment.on_host else ""

    def order(self, epoch: int) -> Tensor:
        """The samples of an epoch in order, int64 [num_samples], on the host."""
        if not self._shuffle:
            return torch.arange(self.num_samples)
        return torch.randperm(self.num_samples, generator=stream(self._seed, "order", epoch))

    def draws(self, epoch: int) -> Draws:
        """The random numbers of an epoch's augmentation, row by sample, on the host."""
        if self._augment is None:
            return {} if self._frame_orders is None else {_FRAME_ORDER: self._frame_orders}
        shape = self._inputs[IMAGE].shape
        frames = shape[1] if len(shape) == 5 else 1
        return self._augment.draw(self.num_samples, self._image_size, self._draws_seed, epoch, frames)

    def mixing(self, epoch: int, step: int, num_samples: int) -> Draws:
        """How the batch of one step is mixed, on the host; empty without mixup and cutmix."""
        return {} if self._mix is None else self._mix.draw(num_samples, self._image_size, self._seed, epoch, step)

    @property
    def _image_size(self) -> tuple[int, int]:
        height, width = self._inputs[IMAGE].shape[-3:-1]
        return height, width

    def _sent(self, drawn: Tensor) -> Tensor:
        """On the device; pinned, so that the copy does not wait for it."""
        return drawn.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else drawn

    def _to_float(self, pixels: Tensor, draws: Draws) -> Tensor:
        """uint8 [batch, ..., height, width, channels] -> float32 [batch, ..., 3, height, width], ready for a model.

        All frames of a clip have its draws.
        """
        if pixels.ndim == 5:
            frames = pixels.shape[1]
            if _FRAME_ORDER in draws:
                rows = torch.arange(len(pixels), device=pixels.device)[:, None]
                pixels = pixels[rows, draws[_FRAME_ORDER]]
            each = {name: d.repeat_interleave(frames, dim=0) for name, d in draws.items() if name != _FRAME_ORDER}
            return self._to_float(pixels.flatten(0, 1), each).unflatten(0, (len(pixels), frames))
        # in place where the memory is this batch's own: fresh pages cost more than the arithmetic
        images = pixels.movedim(-1, -3).float().div_(255)
        if self._augment is not None:
            images = self._augment.geometry(images, draws)
        if images.shape[-3] == 3:
            images = images.sub_(self._mean)
        else:
            images = images.expand(*images.shape[:-3], 3, *images.shape[-2:]) - self._mean
        images = images.div_(self._std)
        return self._augment.normalised(images, draws) if self._augment is not None else images


def training_batches(
    inputs: Mapping[str, Values],
    targets: Mapping[str, Values],
    train: TrainSpec,
    *,
    num_classes: int,
    seed: int,
    device: torch.device | str,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    workers: int = 0,
    window: int | None = None,
    mirrors: bool = True,
) -> Batches:
    """Shuffled, augmented and mixed batches as `train` says.

    `window`: the size `scale_crop_flip` cuts out; `mirrors`: whether samples may be mirrored.
    """
    return Batches(
        inputs,
        targets,
        batch_size=train.batch_size,
        device=device,
        mean=mean,
        std=std,
        seed=seed,
        shuffle=True,
        keep_last=train.keep_last_batch,
        augment=Augment.of(train, window, mirrors),
        mix=Mix.of(train, num_classes),
        workers=workers,
    )


def evaluation_batches(
    inputs: Mapping[str, Values],
    targets: Mapping[str, Values],
    train: TrainSpec,
    *,
    batch_size: int | None = None,
    device: torch.device | str,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    workers: int = 0,
    shuffle_frames: bool = False,
) -> Batches:
    """Every sample once, in the order of the split, without augmentation; `shuffle_frames` as in `Batches`.

    batch_size: if not `train`'s.
    """
    return Batches(
        inputs,
        targets,
        batch_size=batch_size or train.eval_batch_size,
        device=device,
        mean=mean,
        std=std,
        workers=workers,
        shuffle_frames=shuffle_frames,
    )


def in_groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Lists of `size` batches, the micro-batches of one optimiser step; the last list may be shorter."""
    iterator = iter(batches)
    while group := list(islice(iterator, size)):
        yield group


def _frame_orders(shape: Sequence[int]) -> Tensor:
    """A random order of the frames of every clip: int64 [num, frames]. Raises `ValueError` for images."""
    if len(shape) != 5:
        raise ValueError(f"only clips [num, frames, height, width, channels] have frames to shuffle, got {list(shape)}")
    return torch.rand(*shape[:2], generator=stream(0, "frame_orders")).argsort(dim=1)


def _channels(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)


def _writable(values: Values) -> Values:
    """Labels are small and copied: torch warns about read-only memory. Maps stay where they are."""
    return torch.as_tensor(np.array(values)) if isinstance(values, np.ndarray) and values.ndim == 1 else values
