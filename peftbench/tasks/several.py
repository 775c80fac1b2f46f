"""Several tasks with a value at every pixel at once: each task has a decoder of its own on the maps of one pass.

A method that tells tasks apart (`Method.by_task`) makes maps for each of them in that pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from peftbench.backbones.base import Backbone
from peftbench.backbones.maps import serve, taps_of
from peftbench.foundation.metric import Metric
from peftbench.foundation.spec import option
from peftbench.tasks.base import TASKS, Targets
from peftbench.tasks.dense import MapModel, MapTask
from peftbench.tasks.depth import Depth
from peftbench.tasks.human_parts import HumanParts
from peftbench.tasks.marks import Edges, Saliency
from peftbench.tasks.model import TaskModel
from peftbench.tasks.normals import Normals
from peftbench.tasks.segmentation import Segmentation
from peftbench.train.batches import Batch
from peftbench.train.evaluate import Measured, Meter
from peftbench.train.options import TrainSpec

KINDS: dict[str, type[MapTask]] = {
    "segmentation": Segmentation,
    "human_parts": HumanParts,
    "depth": Depth,
    "normals": Normals,
    "edges": Edges,
    "saliency": Saliency,
}


@TASKS.add("several")
@dataclass(frozen=True)
class Several(MapTask):
    """One forward pass of the backbone for `tasks`; the loss is the sum of theirs, each times its weight.

    `weights`: one for each task, none for those of MTLoRA's released code (segmentation and depth 1, human parts 2,
    saliency 5, normals 10, edges 50). The primary number is that of the first task; tables compute delta_m from the
    numbers of all.
    """

    tasks: list[str] = option(["segmentation", "depth", "normals", "edges"], choices=tuple(KINDS))
    weights: list[float] = option([], gt=0)

    def problems(self) -> Sequence[str]:
        found = []
        if len(set(self.tasks)) < max(len(self.tasks), 2):
            found.append(f"task.tasks must name two different tasks or more, each once, got {self.tasks}")
        if self.weights and len(self.weights) != len(self.tasks):
            found.append(f"task.weights must hold one number for each of {len(self.tasks)} tasks, got {self.weights}")
        return found

    @cached_property
    def parts(self) -> dict[str, MapTask]:
        """The tasks by name, with the decoder of all."""
        return {
            name: KINDS[name](self.decoder, self.num_maps, self.channels, self.behind_merging) for name in self.tasks
        }

    @property
    def metric(self) -> Metric:
        name = self.tasks[0]
        first = KINDS[name].primary
        return Metric(f"{name}/{first.name}", first.better, first.unit)

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(target for name in self.tasks for target in KINDS[name].reads))

    def prepare(self, backbone: Backbone, targets: Targets) -> None:
        serve(backbone, len(self.tasks), self.num_maps)

    def model(self, backbone: Backbone, targets: Targets, seed: int) -> TaskModel:
        taps = taps_of(backbone, self.num_maps, self.behind_merging)
        decoders = nn.ModuleDict()
        for name, part in self.parts.items():
            # a stream each: a decoder does not depend on what stands before it
            decoders[name] = part.head_on(taps, targets, seed, f"head:{name}")
        return MapModel(backbone, decoders, taps)

    def loss(self, outputs: Any, batch: Batch, train: TrainSpec) -> Tensor:
        weights = self.weights or [KINDS[name].weight for name in self.tasks]
        parts = zip(weights, self.parts.items(), strict=True)
        first, *others = (weight * part.loss(outputs[name], batch, train) for weight, (name, part) in parts)
        return sum(others, first)

    def maps_of(self, outputs: Any) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, part in self.parts.items():
            found |= part.maps_of(outputs[name])
        return found

    def meter(self, targets: Targets) -> SeveralMeter:
        return SeveralMeter({name: part.meter(targets) for name, part in self.parts.items()})


class SeveralMeter:
    """Outputs by task -> the numbers of each under `<task>/<number>`; n. Keeps no predictions."""

    def __init__(self, meters: Mapping[str, Meter]) -> None:
        self._meters = meters

    def update(self, outputs: Any, batch: Batch) -> None:
        for name, meter in self._meters.items():
            meter.update(outputs[name], batch)

    def result(self) -> Measured:
        read = {name: meter.result().metrics for name, meter in self._meters.items()}
        metrics = {f"{name}/{key}": value for name, found in read.items() for key, value in found.items() if key != "n"}
        return Measured({**metrics, "n": next(iter(read.values()))["n"]})
