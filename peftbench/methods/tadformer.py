"""TADFormer (Baek et al., CVPR 2025, arXiv:2501.04293): prompts of tasks steer and filter one low-rank update."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import Intervention, LowRank, TokenGrid, split_heads
from peftbench.interventions.attention import normed_heads
from peftbench.interventions.block import halves
from peftbench.interventions.paths import FORKED, PathsBlock
from peftbench.interventions.windows import heads_joined, require_written_out, windowed
from peftbench.methods.base import METHODS, Method
from peftbench.methods.mtlora import num_retrained, retrain

# what trains beside the method's own tensors: not the merging steps (released configurations)
RETRAINED = ("embed", "norm")
TAPS = 9


class DynamicFilter(nn.Module):
    """Maps [batch, rank, height, width] -> each channel of each sample through a 3 x 3 kernel made of its own means.

    The kernels are a 1 x 1 convolution of the channels' means, normed over their taps, times `std` plus `mean`, which
    are drawn from N(0, 2 / 9) and N(0, 1) (filter normalisation of arXiv:2103.12953).
    """

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.make = nn.Conv2d(rank, rank * TAPS, 1)
        # vectors, and so not decayed
        self.std = nn.Parameter(torch.randn(rank * TAPS) * math.sqrt(2) / 3)
        self.mean = nn.Parameter(torch.randn(rank * TAPS))

    def forward(self, maps: Tensor) -> Tensor:
        batch, rank, height, width = maps.shape
        kernels = self.make(maps.mean(dim=(2, 3), keepdim=True)).view(batch, rank, TAPS)
        kernels = (kernels - kernels.mean(2, keepdim=True)) / (kernels.std(2, keepdim=True) + 1e-10)
        kernels = (kernels.flatten(1) * self.std + self.mean).view(batch * rank, 1, 3, 3).to(maps.dtype)
        filtered = F.conv2d(maps.reshape(1, -1, height, width), kernels, padding=1, groups=batch * rank)
        return filtered.view_as(maps)


class FilteredLoRA(Intervention):
    """y = W x + b + s B A dropout(x) for all; of task t y + s B F_t(A x_t), where F_t is one of `filters` or its only.

    Both paths read the same A and B.
    """

    def __init__(self, base: nn.Module, pair: LowRank, dropout: float, filters: list[nn.Module]) -> None:
        super().__init__(base)
        if not isinstance(base, (nn.Linear, Intervention)):
            raise NotApplicable(f"tadformer changes linear maps, not a {type(base).__name__}")
        self.pair, self.filters = pair, nn.ModuleList(filters)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(x)[2]

    def shared(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """W x + b, dropout(x), and the output that all tasks share."""
        y: Tensor = self.base(x)
        given: Tensor = self.dropout(x)
        return y, given, y + self.pair(given).to(y.dtype)

    def own(self, y: Tensor, task: int, x: Tensor, grid: TokenGrid) -> Tensor:
        """The output of one task, whose input is x, from W x + b of the shared path."""
        filtered = grid.apply(self.filters[task % len(self.filters)], F.linear(x, self.pair.down))
        return y + self.pair.scale * F.linear(filtered, self.pair.up).to(y.dtype)


Carried = Tensor | tuple[Tensor, Tensor]


class PromptedBlock(PathsBlock):
    """A block whose attention sees a prompt of each task beside its tokens: (stream, prompts) -> the same.

    Where its maps are read (`tapped`), every task has a path: what attention brought back, each head weighed by
    gelu(q_t k) of the task's prompt and added to itself, normed, goes through proj, fc1 and fc2 as a task's input does;
    a gate sigmoid(g), g = 0 at the start, then mixes the weighed features in. Prompts leave attention without their
    residual, as the mean over windows, and what the MLP makes of them is added to what came in.
    """

    def __init__(
        self,
        base: nn.Module,
        tasks: int,
        behind: bool,
        tapped: bool,
        grid: TokenGrid,
        width: int,
        first: bool,
        last: bool,
    ) -> None:
        super().__init__(base, tasks, behind)
        require_written_out(base, "tadformer")
        self.grid, self.last = grid, last
        if first:
            self.start = nn.Parameter(nn.init.trunc_normal_(torch.empty(tasks, width), mean=1.0, std=1.0))
        self.prompt_norm = nn.LayerNorm(width) if tapped else None
        self.gate = nn.Parameter(torch.zeros(1)) if tapped else None

    def forward(self, x: Carried, **arguments: Any) -> Carried:
        stream, prompts = x if isinstance(x, tuple) else (x, self.start.expand(x.shape[0], -1, -1))
        stream = self.entering(stream)
        attn, mlp = halves(self.base, {}).values()
        looked, seen, own, skip = self._attend(attn.norm(stream), attn.norm(prompts))
        own = [stream + attn.drop(attn.scale(path)) for path in own]
        stream = stream + attn.drop(attn.scale(looked))
        shared, changes = self._mlp(mlp.norm(stream), [mlp.norm(path) for path in own])
        stream = stream + mlp.drop(mlp.scale(shared))
        if self.gate is not None:
            share = self.gate.sigmoid()
            own = [path + mlp.drop(mlp.scale(change)) for path, change in zip(own, changes, strict=True)]
            stream = torch.cat([stream, *(share * s + (1 - share) * path for s, path in zip(skip, own, strict=True))])
        if self.last:
            return stream
        return stream, prompts + mlp.added(seen)

    def _attend(self, x: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
        """What attention gives to the stream, to the prompts and to each task, and the weighed features of each."""
        attn: Any = self.base.attn
        windows, mask, back = windowed(self.base, x)
        per_image, number = windows.shape[0] // prompts.shape[0], prompts.shape[1]
        tokens = torch.cat([prompts.repeat_interleave(per_image, dim=0), windows], dim=1)
        q, k, v = split_heads(attn.qkv(tokens), attn.num_heads, 3)
        q, k = normed_heads(attn, q, k)
        scores = q @ k.transpose(-2, -1)
        biased = scores * attn.scale
        if mask is not None:
            biased = biased + F.pad(mask, (number, 0, number, 0)).repeat(scores.shape[0] // mask.shape[0], 1, 1, 1)
        mixed = attn.attn_drop(biased.softmax(-1)) @ v
        y, given, shared = attn.proj.shared(heads_joined(attn, mixed))
        seen = attn.proj_drop(shared[:, :number]).unflatten(0, (-1, per_image)).mean(dim=1)
        own, skip = [], []
        if self.prompt_norm is not None:
            y, given = y[:, number:], given[:, number:]
            steering = F.gelu(scores[:, :, :number, number:])
            of_heads = given.unflatten(2, (attn.num_heads, -1))
            grid = self.grid if x.ndim == 3 else TokenGrid(0, tuple(self.base.window_size))  # type: ignore[arg-type]
            for task in range(self.tasks):
                weighed = (of_heads * steering[:, :, task].transpose(1, 2).unsqueeze(-1)).flatten(2)
                path = attn.proj.own(y, task, self.prompt_norm(weighed + given), grid)
                own.append(back(attn.proj_drop(path)))
                skip.append(back(weighed))
        return back(attn.proj_drop(shared[:, number:])), seen, own, skip

    def _mlp(self, x: Tensor, own: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        mlp: Any = self.base.mlp
        for step in (mlp.fc1, mlp.fc2):
            y, _, x = step.shared(x)
            own = [step.own(y, task, path, self.grid) for task, path in enumerate(own)]
            if step is mlp.fc1:
                x, *own = (mlp.norm(mlp.drop1(mlp.act(path))) for path in (x, *own))
        return mlp.drop2(x), [mlp.drop2(path) for path in own]

    def map_of(self, output: Carried) -> Tensor:
        """The maps of tasks, [tasks * batch, ...]."""
        return super().map_of(output[0] if isinstance(output, tuple) else output)


class PromptedMerge(Intervention):
    """A merging step, which prompts pass through a linear map of their own without bias."""

    def __init__(self, base: nn.Module, in_dim: int, out_dim: int) -> None:
        super().__init__(base)
        self.up = nn.Linear(in_dim, out_dim, bias=False)
        nn.init.trunc_normal_(self.up.weight, std=0.02)

    def forward(self, x: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return self.base(x[0]), self.up(x[1])


@METHODS.add("tadformer")
@dataclass(frozen=True)
class TADFormer(Method):
    """W' = W + s B A for all tasks; task t: W x + s B F_t(A x_t), x_t steered by the attention of the task's prompt.

    Prompts, one a task, run beside the tokens through all blocks. In the last block ahead of a map (on Swin of a stage)
    every task has a residual path of its own, filtered on the rank's channels; a gate mixes in what its prompt attends
    to. Patch embedding, norms and tables of relative positions train as well, merging steps do not. The last map lies
    behind the final norm, as in `mtlora`. Not the identity at the start, since the gate begins at one half.

    `filters`: `dynamic`, made of the task's own features by one generator for each linear map, as in the paper;
    `static`, a depthwise 3 x 3 convolution for each task, which the released code has in their place.
    The released code reads the mixed-in features, which lie channels first, as though channels came last; here they
    keep their places.
    """

    family: ClassVar[str] = "reparametrisation"
    paper: ClassVar[str] = "arXiv:2501.04293"
    version: ClassVar[int] = 2
    by_task: ClassVar[bool] = True
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "rank"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "The paper has Swin only; a plain transformer has no windows, and its class token takes part as a token of the "
        "map does."
    )

    rank: int = option(64, ge=1)
    scale: float = option(4.0, gt=0)
    dropout: float = option(0.05, ge=0, lt=1)
    filters: str = option("dynamic", choices=("dynamic", "static"))

    def attach(self, backbone: Backbone) -> None:
        shape = backbone.shape
        blocks, grid = backbone.sites("block"), TokenGrid.of(shape)
        for site in blocks:
            site.wrap(
                partial(
                    PromptedBlock,
                    tasks=shape.tasks,
                    behind=site.layer - 1 in shape.tapped,
                    tapped=site.layer in shape.tapped,
                    grid=grid,
                    width=site.shape.out_dim,
                    first=site.layer == 0,
                    last=site.layer == len(blocks) - 1,
                )
            )
        retrain(backbone, RETRAINED)
        for site in backbone.all_sites:
            if site.shape.role in ("attn.qkv", *FORKED):
                pair = LowRank(site.shape.in_dim, site.shape.out_dim, self.rank, self.scale)
                filters = self._filters(shape.tasks) if site.shape.role in FORKED and site.layer in shape.tapped else []
                site.wrap(partial(FilteredLoRA, pair=pair, dropout=self.dropout, filters=filters))
        for stage, (in_dim, out_dim) in zip(list(getattr(backbone.net, "layers", ()))[1:], _merged(shape), strict=True):
            stage.downsample = PromptedMerge(stage.downsample, in_dim, out_dim)

    def _filters(self, tasks: int) -> list[nn.Module]:
        if self.filters == "dynamic":
            return [DynamicFilter(self.rank)]
        return [nn.Conv2d(self.rank, self.rank, 3, padding=1, groups=self.rank) for _ in range(tasks)]

    def expected_params(self, shape: BackboneShape) -> int:
        r, tapped = self.rank, [site for site in shape.at(*FORKED) if site.layer in shape.tapped]
        pairs = sum(r * (site.in_dim + site.out_dim) for site in shape.at("attn.qkv", *FORKED))
        filters = TAPS * r**2 + 3 * TAPS * r if self.filters == "dynamic" else shape.tasks * (TAPS + 1) * r
        blocks = shape.at("block")
        prompts = shape.tasks * blocks[0].out_dim + sum(a * b for a, b in _merged(shape))
        own = sum(2 * block.out_dim + 1 for block in blocks if block.layer in shape.tapped)
        return pairs + filters * len(tapped) + prompts + own + num_retrained(shape, RETRAINED)


def _merged(shape: BackboneShape) -> list[tuple[int, int]]:
    """Widths ahead of and behind each merging step."""
    widths = list(dict.fromkeys(block.out_dim for block in shape.at("block")))
    return list(pairwise(widths))
