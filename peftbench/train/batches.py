"""Batches of one split: order, normalisation and augmentation, all decided by (seed, epoch, sample)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peftbench.foundation.errors import BadInput, ConfigError
from peftbench.foundation.seeding import stream
from peftbench.train.augment import Augment, Draws, Mix
from peftbench.train.options import TrainSpec
from peftbench.train.readers import Reader, read_ahead

Batch: TypeAlias = dict[str, Tensor]
Images: TypeAlias = NDArray[np.generic] | Tensor | Reader

RESIDENT_BYTES = 2**30

_NO_BATCH = (
    "train.keep_last_batch=false leaves no batch: {num} images are fewer than the batch size {batch_size}; "
    "lower train.batch_size or set train.keep_last_batch=true"
)
_NO_WINDOW = "train.augment=window_flip cuts its squares while reading; it needs images that are streamed"
_NOT_IMAGES = (
    "features cannot be augmented as images are; set train.augment=none, train.erasing=0, train.mixup=0 and "
    "train.cutmix=0, or train on the images"
)


class Batches:
    """Iterates over a split: `for batch in batches.epoch(e)`.

    A batch holds `image` (float32 [batch, 3, height, width], normalised, on the device), `label` (int64 [batch]),
    `index` (int64 [batch], place in the split) and, with mixup or cutmix, `target` (float32 [batch, classes]).

    images: uint8 [num, height, width, 1 or 3], possibly memory-mapped, never written to; or features, float
        [num, ...], which are handed on as they are; or a `Reader` that decodes them, in `workers` processes.
    mean, std: per channel, in 0..1 units; both None for plain pixels in 0..1.
    draws_seed: for the augmentation alone, where it should differ from the seed of the order.
    resident_bytes: on CUDA, a split of at most this size is copied to the device once.

    Raises `BadInput` for arrays of other shapes; `ConfigError` when dropping the last batch leaves none, or when
    features are to be augmented.
    """

    def __init__(
        self,
        images: Images,
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
        workers: int = 0,
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
        self._seed, self._shuffle, self._keep_last, self._workers = seed, shuffle, keep_last, workers
        self._draws_seed = seed if draws_seed is None else draws_seed
        if augment is not None and augment.kind == "window_flip" and isinstance(images, (np.ndarray, Tensor)):
            raise ConfigError([_NO_WINDOW])
        if isinstance(images, Tensor):
            self._images = images.to(self.device)
        elif isinstance(images, np.ndarray) and self.device.type == "cuda" and images.nbytes <= resident_bytes:
            self._images = torch.as_tensor(np.array(images)).to(self.device)

    def __len__(self) -> int:
        """Batches per epoch."""
        whole, rest = divmod(self.num_samples, self.batch_size)
        return whole + (1 if rest and self._keep_last else 0)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch; the same number gives the same batches again."""
        order = self._order(epoch)
        order_on_device = order.to(self.device)
        draws = self._draws(epoch)
        parts = [slice(step * self.batch_size, (step + 1) * self.batch_size) for step in range(len(self))]
        if isinstance(self._images, Tensor):
            gathered = self._gathered([order_on_device[part] for part in parts], None)
        else:
            gathered = self._gathered([order[part] for part in parts], draws.pop("place", None))
        for step, (part, image) in enumerate(zip(parts, gathered, strict=True)):
            index = order_on_device[part]
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
        # places are for the readers, which are on the CPU
        return {name: draw if name == "place" else draw.to(self.device) for name, draw in draws.items()}

    def _gathered(self, indices: list[Tensor], places: Tensor | None) -> Iterator[Tensor]:
        """The images of each batch on the device, still as stored, except that features become float32."""
        stored = self._images
        found: Iterable[Tensor]
        if isinstance(stored, Tensor):
            found = (stored[index] for index in indices)
        elif isinstance(stored, np.ndarray):
            found = (torch.from_numpy(np.asarray(stored[index.numpy()])) for index in indices)
        else:
            found = read_ahead(stored, indices, places, self._workers)
        for images in found:
            if self.device.type == "cuda" and not images.is_cuda:
                images = images.pin_memory()
            images = images.to(self.device, non_blocking=True)
            yield images if self._pixels else images.float()

    def _to_float(self, images: Tensor, draws: Draws) -> Tensor:
        """uint8 [batch, height, width, channels] -> float32 [batch, 3, height, width], augmented and normalised."""
        # in place where the memory is this batch's own: fresh pages cost more than the arithmetic
        images = images.permute(0, 3, 1, 2).float().div_(255)
        if self._augment is not None:
            images = self._augment.geometry(images, draws)
        images = images.sub_(self._mean) if images.shape[1] == 3 else images.expand(-1, 3, -1, -1) - self._mean
        images = images.div_(self._std)
        return self._augment.erase(images, draws) if self._augment is not None else images


def training_batches(
    images: Images,
    labels: NDArray[np.int64] | Tensor,
    train: TrainSpec,
    *,
    num_classes: int,
    seed: int,
    device: torch.device | str,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    workers: int = 0,
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
        workers=workers,
    )


def evaluation_batches(
    images: Images,
    labels: NDArray[np.int64] | Tensor,
    train: TrainSpec,
    *,
    device: torch.device | str,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    workers: int = 0,
) -> Batches:
    """Every sample once, in the order of the split, without augmentation."""
    return Batches(images, labels, batch_size=train.eval_batch_size, device=device, mean=mean, std=std, workers=workers)


def in_groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Lists of `size` batches, the micro-batches of one optimiser step; the last list may be shorter."""
    iterator = iter(batches)
    while group := list(islice(iterator, size)):
        yield group


def _channels(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)


def _check(images: Images, labels: NDArray[np.int64] | Tensor) -> None:
    shape, dtype = tuple(images.shape), str(images.dtype).removeprefix("torch.")
    if len(labels) == 0 or len(labels) != shape[0]:
        raise BadInput(f"a split needs as many labels as images and at least one, got {shape[0]} and {len(labels)}")
    if dtype == "uint8" and (len(shape) != 4 or shape[3] not in (1, 3)):
        raise BadInput(f"images must be uint8 [num, height, width, 1 or 3], got {list(shape)}")
    if dtype != "uint8" and "float" not in dtype:
        raise BadInput(f"images must be uint8 pixels or float features, got {dtype}")
