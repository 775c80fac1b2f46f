"""VE-Prompt (Liang et al., CVPR 2023, arXiv:2303.01788): the maps of a task look at examples of what it tells apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.channels import channels_at, channels_last
from peftbench.foundation.errors import BadInput
from peftbench.foundation.maps import UNKNOWN
from peftbench.foundation.spec import option
from peftbench.interventions.paths import PathsBlock, forks
from peftbench.methods.base import METHODS, Method
from peftbench.methods.observation import Evidence, Findings

BATCH_SIZE = 32
# numbers without classes are told apart as ranges that are equally frequent in the first batch
RANGES = 4


class ExemplarBlock(PathsBlock):
    """A block whose map of task t is y + g_t W_o attention(W_q LN(y), W_k e_t, W_v e_t), one head; y alone goes on.

    `exemplars`: e_t [number, width] of each task, frozen. g starts at zero, the W are xavier-uniform without bias.
    """

    def __init__(
        self, base: nn.Module, tasks: int, behind: bool, width: int, channel_dim: int, exemplars: list[Tensor]
    ) -> None:
        super().__init__(base, tasks, behind)
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value, self.output = (nn.Linear(width, width, bias=False) for _ in range(4))
        for linear in (self.query, self.key, self.value, self.output):
            nn.init.xavier_uniform_(linear.weight)
        self.gate = nn.Parameter(torch.zeros(tasks))
        self.channel_dim = channel_dim
        for task, tokens in enumerate(exemplars):
            self.register_buffer(f"exemplars_{task}", tokens.detach().clone(), persistent=False)

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        y = self.base(self.entering(x), **arguments)
        queries = self.query(self.norm(channels_last(y, self.channel_dim)))
        paths = [y]
        for task, gate in enumerate(self.gate):
            tokens = self.get_buffer(f"exemplars_{task}")
            scores = F.linear(queries, self.key(tokens)) / math.sqrt(tokens.shape[1])
            found = self.output(scores.softmax(-1) @ self.value(tokens))
            paths.append(y + channels_at(gate * found, self.channel_dim).to(y.dtype))
        return torch.cat(paths)


@METHODS.add("ve_prompt")
@dataclass(frozen=True)
class VEPrompt(Method):
    """A task's map y becomes y + g_t attention(y, exemplars of t) ahead of its decoder; the network stays frozen.

    The exemplars of a task are features of what it tells apart, seen in training images: of each class the mean of its
    pixels in the first `num_exemplars` images that have it, at the depth of the map. Of numbers the classes are ranges,
    of directions the four quadrants of their first two numbers.

    There is no public code. The paper trains a whole network for driving scenes and encodes boxes and colour markers
    with CLIP; kept here is that a task's features look at examples of its own. (4 D^2 + 2 D + T) parameters for each
    map, for T tasks.
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "arXiv:2303.01788"
    by_task: ClassVar[bool] = True
    observes: ClassVar[bool] = True
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "The paper trains a whole network beside exemplars encoded by CLIP; here the network is frozen and the "
        "exemplars are its own features."
    )

    num_exemplars: int = option(4, ge=1)

    def observe(self, evidence: Evidence) -> Findings:
        """`<task>.<block>`: exemplars [classes * up to num_exemplars, width] of each task at each map.

        Raises `BadInput` for a task of which no training image says anything at the places of a map.
        """
        backbone = evidence.backbone
        tapped, training = backbone.shape.tapped, backbone.training
        if not tapped:
            return {}
        backbone.eval()
        kept: dict[tuple[int, int], list[list[Tensor]]] = {}
        edges: dict[str, Tensor] = {}
        for batch in evidence.images(BATCH_SIZE):
            with torch.no_grad():
                maps = evidence.maps(batch)
            for task, target in enumerate(evidence.targets):
                classes = classes_of(batch[target], edges, target)
                for layer, features in zip(tapped, maps, strict=True):
                    self._keep(kept, task, layer, features, _at_size(classes, features.shape[2:]))
        backbone.train(training)
        for (task, _), by_class in kept.items():
            if not any(by_class):
                raise BadInput(
                    f"ve_prompt found no example in the {evidence.targets[task]} of the training images, where nothing "
                    "is known; leave that task out of task.tasks"
                )
        return {
            f"{task}.{layer}": torch.stack([row for rows in by_class for row in rows])
            for (task, layer), by_class in kept.items()
        }

    def _keep(
        self, kept: dict[tuple[int, int], list[list[Tensor]]], task: int, layer: int, features: Tensor, classes: Tensor
    ) -> None:
        """Add the mean feature of every class that still lacks exemplars, image by image."""
        rows = kept.setdefault((task, layer), [])
        rows.extend([] for _ in range(int(classes.max()) + 1 - len(rows)))
        for number, found in enumerate(rows):
            for feature, here in zip(features, classes == number, strict=True):
                if len(found) == self.num_exemplars:
                    break
                if here.any():
                    found.append(feature[:, here].mean(dim=1))

    def attach_with(self, backbone: Backbone, findings: Findings) -> None:
        sizes = {site.layer: (site.shape.out_dim, site.channel_dim) for site in backbone.sites("block")}
        for site, facts in forks(backbone):
            width, channel_dim = sizes[site.layer]
            tokens = [findings[f"{task}.{site.layer}"].to(backbone.device) for task in range(backbone.shape.tasks)]
            site.wrap(partial(ExemplarBlock, width=width, channel_dim=channel_dim, exemplars=tokens, **facts))

    def expected_params(self, shape: BackboneShape) -> int:
        widths = [block.out_dim for block in shape.at("block") if block.layer in shape.tapped]
        return sum(4 * width**2 + 2 * width + shape.tasks for width in widths)

    def summary(self, findings: Findings) -> dict[str, Any]:
        return {"exemplars": {name: len(tokens) for name, tokens in findings.items()}}


def classes_of(target: Tensor, edges: dict[str, Tensor], name: str) -> Tensor:
    """Classes [batch, height, width] of a map of classes, numbers or directions, -1 where it says nothing.

    `edges` keeps the borders between ranges of numbers, found at the first call.
    """
    if not target.is_floating_point():
        return torch.where(target == UNKNOWN, -1, target.long())
    if target.ndim == 4:
        quadrant = 2 * (target[:, 0] > 0).long() + (target[:, 1] > 0).long()
        return torch.where(target.isfinite().all(dim=1), quadrant, -1)
    known = target.isfinite()
    if name not in edges:
        if not known.any():
            return torch.full_like(target, -1, dtype=torch.long)
        at = torch.linspace(0, 1, RANGES + 1, device=target.device)[1:-1]
        ordered = target[known].float().sort().values
        edges[name] = ordered[(at * (len(ordered) - 1)).long()]
    return torch.where(known, torch.bucketize(target.nan_to_num(), edges[name]), -1)


def _at_size(classes: Tensor, size: torch.Size) -> Tensor:
    """The class at the middle of each field of a smaller map."""
    return F.interpolate(classes[:, None].double(), tuple(size), mode="nearest-exact")[:, 0].long()
