"""What tasks with a value at every pixel share: a decoder on feature maps, and scores at the size of the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone
from peftbench.backbones.maps import Taps, feature_maps, of_each_task, taps_of
from peftbench.foundation.seeding import seeded
from peftbench.foundation.spec import option
from peftbench.tasks.base import Targets, Task, mean_loss
from peftbench.tasks.decoders import DECODERS, VERSIONS, resized
from peftbench.tasks.model import TaskModel
from peftbench.train.batches import Batch
from peftbench.train.loss import LossFn, Model
from peftbench.train.options import TrainSpec


@dataclass(frozen=True)
class MapTask(Task):
    """A task whose outputs are [batch, channels, height, width]. `weight`: of its loss in a sum of several (MTLoRA's).

    `decoder` reads the maps behind `num_maps` evenly spaced blocks of a plain transformer (of twelve blocks with four
    maps the 3rd, 6th, 9th and 12th), or behind the last block of every stage. `channels` is the width of its
    convolutions, null for the usual one. `behind_merging`: maps of stages are taken behind the merging step that
    follows, half as large and twice as wide (MTLoRA's released code).
    """

    weight: ClassVar[float] = 1.0
    slides: ClassVar[bool] = True
    reads_maps: ClassVar[bool] = True

    decoder: str = option("linear", choices=tuple(DECODERS))
    num_maps: int = option(4, ge=1)
    channels: int | None = option(None, ge=1, later=True)
    behind_merging: bool = option(False, later=True)

    @property
    def revision(self) -> int:
        return self.version + VERSIONS.get(self.decoder, 1) - 1

    def num_outputs(self, targets: Targets) -> int:
        """How many channels the decoder gives."""
        return 1

    def averaged(self, outputs: Tensor, zoom: float, mirrored: bool) -> Tensor:
        """What is averaged over several looks at a picture, of outputs that are back at its size and direction.

        `zoom`: how much larger than it is it was shown; `mirrored`: whether it was shown mirrored.
        """
        return outputs

    def scores_of(self, mean: Tensor) -> Tensor:
        """Outputs that stand for the mean of what `averaged` gives."""
        return mean

    def loss(self, outputs: Any, batch: Batch, train: TrainSpec) -> Tensor:
        """The training loss of a model's outputs."""
        raise self.unwritten("loss")

    def loss_fn(self, train: TrainSpec, inputs: Sequence[str] = ("image",)) -> LossFn:
        def loss_fn(model: Model, batch: Batch) -> Tensor:
            return self.loss(model(*(batch[name] for name in inputs)), batch, train)

        return loss_fn

    def model(self, backbone: Backbone, targets: Targets, seed: int) -> TaskModel:
        taps = taps_of(backbone, self.num_maps, self.behind_merging)
        return MapModel(backbone, self.head_on(taps, targets, seed), taps)

    def head_on(self, taps: Taps, targets: Targets, seed: int, stream: str = "head") -> nn.Module:
        """What reads the maps, drawn from the seed's `stream`."""
        with seeded(seed, stream):
            return DECODERS[self.decoder](taps, self.num_outputs(targets), self.channels)


class MapModel(TaskModel):
    """images [batch, 3, height, width] -> scores [batch, outputs, height, width], bilinear from the decoder's size.

    With a `ModuleDict` of decoders, one a task, the scores come by name; the maps are made in one pass. Images
    larger than the backbone's input are gone over by windows of that size (see `slide`), in evaluation alone.
    """

    def __init__(self, backbone: Backbone, decoder: nn.Module, taps: Taps) -> None:
        super().__init__(backbone, decoder)
        self.layers, self.merged, self.window = taps.layers, taps.merged, backbone.input_spec.size

    def forward(self, *inputs: Tensor) -> Any:
        if inputs[0].shape[-1] > self.window and not self.training:
            return slide(self._at_once, inputs, self.window)
        return self._at_once(*inputs)

    def _at_once(self, *inputs: Tensor) -> Any:
        maps = feature_maps(self.backbone, inputs, self.layers, self.merged)
        size = inputs[0].shape[-2:]
        if isinstance(self.head, nn.ModuleDict):
            own = of_each_task(maps, len(self.head), inputs[0].shape[0])
            return {name: resized(head(read), size) for (name, head), read in zip(self.head.items(), own, strict=True)}
        found = self.head(maps)
        # a second decoder trains beside the first, and is not asked in evaluation
        return tuple(resized(each, size) for each in found) if isinstance(found, tuple) else resized(found, size)


def slide(forward: Callable[..., Any], inputs: Sequence[Tensor], window: int) -> Any:
    """Scores of images [batch, 3, height, width] by square windows two thirds of their side apart (mmsegmentation).

    Where windows overlap their scores are averaged, in float32 at least; the last ones of a row and of a column are
    moved back inside.
    """
    height, width = inputs[0].shape[-2:]
    stride = max(window * 2 // 3, 1)
    sums: dict[str, Tensor] = {}
    counts = inputs[0].new_zeros(height, width)
    named = False
    for top in _starts(height, window, stride):
        for left in _starts(width, window, stride):
            rows, columns = slice(top, top + window), slice(left, left + window)
            found = forward(*(values[..., rows, columns] for values in inputs))
            named = isinstance(found, dict)
            for name, scores in (found if named else {"": found}).items():
                if name not in sums:
                    # half precision would round the sum of some windows more coarsely than each of them
                    exact = torch.promote_types(scores.dtype, torch.float32)
                    sums[name] = scores.new_zeros(*scores.shape[:2], height, width, dtype=exact)
                sums[name][..., rows, columns] += scores
            counts[rows, columns] += 1
    means = {name: total / counts.to(total.dtype) for name, total in sums.items()}
    return means if named else means[""]


def _starts(size: int, window: int, stride: int) -> list[int]:
    number = max(-(-(size - window) // stride), 0) + 1
    return [max(min(index * stride, size - window), 0) for index in range(number)]


class Sums:
    """Named sums over a split, in float64 on the device of what is added: nothing waits for it before the end."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, **values: Tensor) -> None:
        for name, value in values.items():
            value = value.double() if value.is_floating_point() else value.long()
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def __getitem__(self, name: str) -> Any:
        """The sum as a plain number, or as a numpy array where it has axes."""
        assert name in self._sums, "no batch was seen"
        found = self._sums[name].cpu()
        return found.numpy() if found.ndim else found.item()

    def mean_loss(self) -> float:
        """`loss` over `pixels`. Raises `TrainingDiverged` where it is not finite."""
        return mean_loss(torch.as_tensor(self["loss"]), max(self["pixels"], 1))
