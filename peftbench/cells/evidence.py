"""What a cell shows to a method that looks at images first: its training images, and parts of them to search on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone
from peftbench.backbones.maps import feature_maps
from peftbench.foundation.progress import Progress
from peftbench.foundation.seeding import derive
from peftbench.methods.observation import Batch, Loss
from peftbench.tasks.base import Classes, Task
from peftbench.tasks.classification import Classification
from peftbench.tasks.model import TaskModel
from peftbench.tasks.several import Several
from peftbench.train.augment import Augment
from peftbench.train.batches import Batches, training_batches
from peftbench.train.evaluate import evaluate
from peftbench.train.loop import fit
from peftbench.train.optim import param_groups, trained_of
from peftbench.train.options import OptimSpec, TrainSpec

# A search that trains and compares needs images apart from those it trains on: a cell's training split -> the two.
SEARCH_SPLITS = {
    "train800val200": ("train800", "val200"),
    "train800": ("train800", "val200"),
    "trainval": ("train", "val"),
    "train": ("train", "val"),
    "fewshot": ("fewshot", "fewshot_val"),
}


class Shown(Protocol):
    """Inputs and targets by name, as in `data.ready.Split`."""

    @property
    def inputs(self) -> Mapping[str, Any]: ...

    @property
    def targets(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class CellEvidence:
    """`peftbench.methods.observation.Evidence` of one cell.

    `load` gives a split by name and is never asked for the test split; `mean` and `std` normalise pixels; `mirrors`
    says whether training samples may be mirrored.
    """

    backbone: Backbone
    num_classes: int
    load: Callable[[str], Shown]
    train_split: str
    optim: OptimSpec
    train: TrainSpec
    seed: int
    device: torch.device
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    progress: Progress
    task: Task = field(default_factory=Classification)
    mirrors: bool = True

    @property
    def targets(self) -> tuple[str, ...]:
        return self.task.targets

    @property
    def epochs(self) -> int:
        return self.train.epochs

    def images(self, batch_size: int) -> Iterator[Batch]:
        return self._batches(self.train_split, batch_size=batch_size).epoch(0)

    def maps(self, batch: Batch) -> list[Tensor]:
        inputs = [batch[name] for name in self.backbone.inputs]
        return feature_maps(self.backbone, inputs, self.backbone.shape.tapped)

    def views(self, batch_size: int) -> Iterator[tuple[Batch, Batch]]:
        first, second = (
            self._batches(
                self.train_split,
                batch_size=batch_size,
                shuffle=True,
                augment=Augment("contrast", mirrors=self.mirrors),
                draws_seed=derive(self.seed, "view", number),
            )
            for number in range(2)
        )
        return zip(first.epoch(0), second.epoch(0), strict=True)

    def augmented(self, batch_size: int, views: int) -> Iterator[Iterator[Batch]]:
        augment = Augment.of(self.train, mirrors=self.mirrors)
        for number in range(views if augment.active else 1):
            draws_seed = derive(self.seed, "cached view", number)
            batches = self._batches(self.train_split, batch_size=batch_size, augment=augment, draws_seed=draws_seed)
            yield batches.epoch(0)

    def held_out(self, batch_size: int) -> Iterator[Batch]:
        return self._batches(SEARCH_SPLITS[self.train_split][1], batch_size=batch_size).epoch(0)

    def classifier(self, backbone: Backbone) -> nn.Module:
        return self.task.model(backbone, self._classes, self.seed).to(self.device)

    def loss(self, model: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
        inputs = model.inputs if isinstance(model, TaskModel) else self.backbone.inputs
        return self.task.loss_fn(self.train, inputs)(model, batch)

    def fit(self, model: nn.Module, loss: Loss, epochs: int, lr: float | None = None) -> None:
        lr = self.optim.lr if lr is None else lr
        optim = replace(
            self.optim,
            lr=lr,
            min_lr=min(self.optim.min_lr, lr),
            warmup_lr=min(self.optim.warmup_lr, lr),
            warmup_epochs=min(self.optim.warmup_epochs, epochs / 10),
        )
        train = replace(self.train, epochs=epochs, select="last", compile=False, recompute=False)
        shown = self.load(SEARCH_SPLITS[self.train_split][0])
        batches = training_batches(
            shown.inputs,
            shown.targets,
            train,
            num_classes=self.num_classes,
            seed=self.seed,
            device=self.device,
            mean=self.mean,
            std=self.std,
            mirrors=self.mirrors,
        )
        assert isinstance(model, TaskModel)
        groups = param_groups(model.added, trained_of(model.head), optim)
        with self.progress.epochs("looking at the training images", epochs, batches) as on_epoch:
            fit(model, loss, batches, None, optim, train, groups, self.seed, on_epoch)

    def accuracy(self, model: nn.Module) -> float:
        batches = self._batches(SEARCH_SPLITS[self.train_split][1], batch_size=self.train.eval_batch_size)
        measured = evaluate(model, batches, self.task.meter(self._classes), self.train.precision)
        return self.task.metric.goodness(float(measured.metrics[self.task.metric.name]))

    @property
    def _classes(self) -> Classes:
        return Classes.numbered(self.num_classes)

    def _batches(self, split: str, **options: Any) -> Batches:
        shown = self.load(split)
        return Batches(
            shown.inputs, shown.targets, device=self.device, mean=self.mean, std=self.std, seed=self.seed, **options
        )


@dataclass(frozen=True)
class RandomSplit:
    """Random pixels and labels: enough to see what a method does with a backbone."""

    inputs: Mapping[str, Any]
    targets: Mapping[str, Any]

    @classmethod
    def draw(cls, num_images: int, num_classes: int, size: int, frames: int = 1) -> RandomSplit:
        generator = torch.Generator().manual_seed(0)
        time = (frames,) if frames > 1 else ()
        images = torch.randint(256, (num_images, *time, size, size, 3), generator=generator, dtype=torch.uint8)
        shape = num_images, size, size
        maps = {
            "class_map": torch.randint(num_classes, shape, generator=generator),
            "depth": torch.rand(shape, generator=generator),
            "normals": torch.randn((num_images, 3, size, size), generator=generator),
            "edges": torch.randint(2, shape, generator=generator),
            "saliency": torch.randint(2, shape, generator=generator),
            "boxes": torch.tensor([[0.0, 0.0, size / 2, size / 2, 1.0, 0.0]]).repeat(num_images, 1, 1),
        }
        return cls({"image": images}, {"label": torch.arange(num_images) % num_classes} | maps)

    def only(self, targets: Collection[str]) -> RandomSplit:
        return RandomSplit(self.inputs, {name: values for name, values in self.targets.items() if name in targets})


def random_evidence(
    backbone: Backbone, num_images: int = 32, num_classes: int = 4, seed: int = 0, task: Task | None = None
) -> CellEvidence:
    """Evidence without a dataset, for tests and for the page that shows which backbones a method fits.

    Of as many tasks with maps as the backbone serves where it serves several, else of classes.
    """
    if task is None:
        tasks = backbone.shape.tasks
        task = Several(tasks=Several().tasks[:tasks]) if tasks > 1 else Classification()
    size, frames = backbone.input_spec.size, backbone.shape.frames
    split = RandomSplit.draw(num_images, num_classes, size, frames).only(task.targets)
    train = TrainSpec(batch_size=16, augment="flip")
    return CellEvidence(
        backbone,
        num_classes,
        lambda _: split,
        "train800",
        OptimSpec(),
        train,
        seed,
        backbone.device,
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
        Progress(False),
        task,
    )
