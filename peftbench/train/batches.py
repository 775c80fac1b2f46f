"""Batches of one split: order, normalisation and augmentation, all decided by (seed, epoch, sample)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peftbench.errors import BadInput, ConfigError
from peftbench.seeding import stream
from peftbench.train.augment import Augment, Draws, Mix
from peftbench.train.options import TrainSpec

Batch: TypeAlias = dict[str, Tensor]

RESIDENT_BYTES = 2**30

_NO_BATCH = (
    "train.keep_last_batch=false leaves no batch: {num} images are fewer than the batch size {batch_size}; "
    "lower train.batch_size or set train.keep_last_batch=true"
)
_NOT_IMAGES = (
    "features cannot be augmented as images are; set train.augment=none, train.erasing=0, train.mixup=0 and "
    "train.cutmix=0, or train on the images"
)


class Batches:
    """Iterates over a split: `for batch in batches.epoch(e)`.

    A batch holds `image` (float32 [batch, 3, height, width], normalised, on the device), `label` (int64 [batch]),
    `index` (int64 [batch], place in the split) and, with mixup or cutmix, `target` (float32 [batch, classes]).

    images: uint8 [num, height, width, 1 or 3], possibly memory-mapped, never written to; or features, float
        [num, ...], which are handed on as they are.
    mean, std: per channel, in 0..1 units; both None for plain pixels in 0..1.
    draws_seed: for the augmentation alone, where it should differ from the seed of the order.
    resident_bytes: on CUDA, a split of at most this size is copied to the device once.

    Raises `BadInput` for arrays of other shapes; `ConfigError` when dropping the last batch leaves none, or when
    features are to be augmented.
    """

    def __init__(
        self,
        images: NDArray[np.generic] | Tensor,
        labels: NDArray[np.int64] | Tensor,
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
        resident_bytes: int = RESIDENT_BYTES,
    ) -> None:
        _check(images, labels)
        if not keep_last and len(labels) < batch_size:
            raise ConfigError([_NO_BATCH.format(num=len(labels), batch_size=batch_size)])
        # called after each batch has been used; what it does must not change a number
        self.on_batch: Callable[[], None] | None = None
        self.num_samples = len(labels)
        self.batch_size = batch_size
        self.device = torch.device(device)
        self._images = images
        # np.array copies: torch warns about read-only memory.
        self._labels = torch.as_tensor(labels if isinstance(labels, Tensor) else np.array(labels, dtype=np.int64))
        self._labels = self._labels.to(self.device, torch.int64)
        self._pixels = images.dtype in (np.uint8, torch.uint8)
        self._augment = augment if augment is not None and augment.active else None
        self._mix = mix
        if not self._pixels and (self._augment is not None or mix is not None):
            raise ConfigError([_NOT_IMAGES])
        self._mean = _channels(mean if mean is not None else (0.0, 0.0, 0.0), self.device)
        self._std = _channels(std if std is not None else (1.0, 1.0, 1.0), self.device)
        self._seed, self._shuffle, self._keep_last = seed, shuffle, keep_last
        self._draws_seed = seed if draws_seed is None else draws_seed
        if isinstance(images, Tensor) or (self.device.type == "cuda" and images.nbytes <= resident_bytes):
            self._images = torch.as_tensor(images if isinstance(images, Tensor) else np.array(images)).to(self.device)

    def __len__(self) -> int:
        """Batches per epoch."""
        whole, rest = divmod(self.num_samples, self.batch_size)
        return whole + (1 if rest and self._keep_last else 0)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch; the same number gives the same batches again."""
        order = self._order(epoch)
        order_on_device = order.to(self.device)
        draws = self._draws(epoch)
        for step in range(len(self)):
            part = slice(step * self.batch_size, (step + 1) * self.batch_size)
            index = order_on_device[part]
            image = self._gather(order[part], index)
            if self._pixels:
                image = self._to_float(image, {name: draw[index] for name, draw in draws.items()})
            batch = {"image": image, "label": self._labels[index], "index": index}
            if self._mix is not None:
                batch["image"], batch["target"] = self._mix.apply(image, batch["label"], self._seed, epoch, step)
            yield batch
            if self.on_batch is not None:
                self.on_batch()

    def _order(self, epoch: int) -> Tensor:
        if not self._shuffle:
            return torch.arange(self.num_samples)
        return torch.randperm(self.num_samples, generator=stream(self._seed, "order", epoch))

    def _draws(self, epoch: int) -> Draws:
        if self._augment is None:
            return {}
        height, width = self._images.shape[1:3]
        draws = self._augment.draw(self.num_samples, (height, width), self._draws_seed, epoch)
        return {name: draw.to(self.device) for name, draw in draws.items()}

    def _gather(self, index: Tensor, index_on_device: Tensor) -> Tensor:
        """The chosen images on the device, still as stored, except that features become float32."""
        if isinstance(self._images, Tensor):
            images = self._images[index_on_device]
        else:
            images = torch.from_numpy(np.asarray(self._images[index.numpy()]))
            if self.device.type == "cuda":
                images = images.pin_memory()
            images = images.to(self.device, non_blocking=True)
        return images if self._pixels else images.float()

    def _to_float(self, images: Tensor, draws: Draws) -> Tensor:
        """uint8 [batch, height, width, channels] -> float32 [batch, 3, height, width], augmented and normalised."""
        images = images.permute(0, 3, 1, 2).float() / 255
        if self._augment is not None:
            images = self._augment.geometry(images, draws)
        images = (images.expand(-1, 3, -1, -1) - self._mean) / self._std
        return self._augment.erase(images, draws) if self._augment is not None else images


def training_batches(
    images: NDArray[np.generic] | Tensor,
    labels: NDArray[np.int64] | Tensor,
    train: TrainSpec,
    *,
    num_classes: int,
    seed: int,
    device: torch.device | str,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Batches:
    """Shuffled, augmented and mixed batches as `train` says."""
    return Batches(
        images,
        labels,
        batch_size=train.batch_size,
        device=device,
        mean=mean,
        std=std,
        seed=seed,
        shuffle=True,
        keep_last=train.keep_last_batch,
        augment=Augment.of(train),
        mix=Mix.of(train, num_classes),
    )


def evaluation_batches(
    images: NDArray[np.generic] | Tensor,
    labels: NDArray[np.int64] | Tensor,
    train: TrainSpec,
    *,
    device: torch.device | str,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Batches:
    """Every sample once, in the order of the split, without augmentation."""
    return Batches(images, labels, batch_size=train.eval_batch_size, device=device, mean=mean, std=std)


def in_groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Lists of `size` batches, the micro-batches of one optimiser step; the last list may be shorter."""
    iterator = iter(batches)
    while group := list(islice(iterator, size)):
        yield group


def _channels(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)


def _check(images: NDArray[np.generic] | Tensor, labels: NDArray[np.int64] | Tensor) -> None:
    shape, dtype = tuple(images.shape), str(images.dtype).removeprefix("torch.")
    if len(labels) == 0 or len(labels) != shape[0]:
        raise BadInput(f"a split needs as many labels as images and at least one, got {shape[0]} and {len(labels)}")
    if dtype == "uint8" and (len(shape) != 4 or shape[3] not in (1, 3)):
        raise BadInput(f"images must be uint8 [num, height, width, 1 or 3], got {list(shape)}")
    if dtype != "uint8" and "float" not in dtype:
        raise BadInput(f"images must be uint8 pixels or float features, got {dtype}")
