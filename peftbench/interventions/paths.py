"""Paths of several tasks through a network: beside a shared one ahead of a map, or one each from end to end.

The samples of all paths lie in one batch, [paths * batch, ...], one path's behind the other's, so that no module has to
remember which task it serves: passes at the same time, recomputed blocks and copies cannot mix them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, Site
from peftbench.foundation.errors import NotApplicable
from peftbench.interventions.base import Intervention
from peftbench.interventions.block import halves


class OnlyShared(Intervention):
    """A block, or whatever works on its output, that takes of `paths` paths the first alone."""

    def __init__(self, base: nn.Module, paths: int) -> None:
        super().__init__(base)
        self.paths = paths

    def forward(self, x: Tensor, **arguments: Any) -> Any:
        return self.base(first_of(x, self.paths), **arguments)


class PathsBlock(Intervention):
    """A block that gives [(1 + tasks) * batch, ...]: what goes on, then the maps of the tasks; a base class.

    The tasks' paths end here: a merging step and the final norm work on all paths, the next block on the first.
    `behind`: the block ahead of this one gives as many.
    """

    def __init__(self, base: nn.Module, tasks: int, behind: bool) -> None:
        super().__init__(base)
        self.tasks, self.behind = tasks, behind

    def entering(self, x: Tensor) -> Tensor:
        """What the block ahead sends on to this one."""
        return first_of(x, 1 + self.tasks) if self.behind else x

    def map_of(self, output: Tensor) -> Tensor:
        """The maps of tasks, [tasks * batch, ...]."""
        return output[output.shape[0] // (1 + self.tasks) :]


class Fork(PathsBlock):
    """A block in which every task has a residual path beside the shared one, opened by its first `Forked` map."""

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        paths = self.entering(x)
        for half in halves(self.base, arguments).values():
            y = half.leave(half.added(paths))
            if y.shape[0] > paths.shape[0]:
                paths = paths.repeat(1 + self.tasks, *[1] * (paths.ndim - 1))
            paths = paths + y
        return paths


class Forked(Intervention):
    """A linear map inside a `Fork`, with its own change on every path; a base class. `opens`: the first one there."""

    def __init__(self, base: nn.Module, tasks: int, opens: bool) -> None:
        super().__init__(base)
        if not isinstance(base, (nn.Linear, Intervention)):
            raise NotApplicable(f"paths of tasks begin at a linear map, not at a {type(base).__name__}")
        self.tasks, self.opens = tasks, opens

    def paths(self, x: Tensor) -> list[Tensor]:
        """Inputs of the shared path and of each task's."""
        return [x] * (1 + self.tasks) if self.opens else list(apart(x, 1 + self.tasks))


FORKED = ("attn.proj", "mlp.fc1", "mlp.fc2")


def forked(backbone: Backbone) -> Iterator[tuple[Site, bool]]:
    """The linear maps that are `Forked`, in the order in which they run; whether they are the first of their block."""
    opened: set[int] = set()
    for site in backbone.all_sites:
        if site.shape.role in FORKED and site.layer in backbone.shape.tapped:
            yield site, site.layer not in opened
            opened.add(site.layer)


def forks(backbone: Backbone) -> Iterator[tuple[Site, dict[str, Any]]]:
    """The blocks whose maps are read, each with the arguments of its `PathsBlock`; comes last of all that wraps blocks.

    A block behind one of them that is none itself takes what goes on.
    """
    tasks, tapped = backbone.shape.tasks, backbone.shape.tapped
    for site in backbone.sites("block"):
        behind = site.layer - 1 in tapped
        if site.layer in tapped:
            yield site, {"tasks": tasks, "behind": behind}
        elif behind:
            site.wrap(partial(OnlyShared, paths=1 + tasks))


class EachTask(Intervention):
    """A timm model through which every task sends the images on a path of its own: [tasks * batch, ...] behind it."""

    def __init__(self, base: nn.Module, tasks: int) -> None:
        super().__init__(base)
        self.tasks = tasks

    def forward_features(self, images: Tensor) -> Any:
        return self.base.forward_features(images.repeat(self.tasks, 1, 1, 1))  # type: ignore[operator]

    @property
    def rope(self) -> Any:
        return getattr(self.base, "rope", None)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.base.set_grad_checkpointing(enable)  # type: ignore[operator]


def apart(x: Tensor, paths: int) -> tuple[Tensor, ...]:
    """[paths * batch, ...] -> [batch, ...] of each path. Not by `chunk` or len(): a graph holds for any batch."""
    return x.unflatten(0, (paths, -1)).unbind()


def first_of(x: Tensor, paths: int) -> Tensor:
    """[paths * batch, ...] -> [batch, ...] of the first path."""
    return x[: x.shape[0] // paths]


def for_each(operation: Callable[[int, Tensor], Tensor], x: Tensor, tasks: int) -> Tensor:
    """`operation(task, its samples)` on [tasks * batch, ...], joined again."""
    return torch.cat([operation(task, part) for task, part in enumerate(apart(x, tasks))])
