"""ViT-Adapter (Chen et al., ICLR 2023, arXiv:2205.08534): a convolutional branch beside a plain transformer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape, unfreeze
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.foundation.two_images import require_two_images
from peftbench.interventions import Intervention, TokenGrid, Unused
from peftbench.interventions.deformable import DeformableAttention, Size, centres
from peftbench.interventions.side import init_linears
from peftbench.methods.base import METHODS, Method
from peftbench.methods.inert import key_third

# widths of the convolutional stages at strides 4, 8, 16 and 32
STEM, STAGES = 64, (128, 256, 256)
NUM_POINTS, HIDDEN = 4, 0.25


class Branch(NamedTuple):
    """What runs beside the stream: tokens [batch, number, width] of the maps of `sizes`, the map at stride 4, and what
    the transformer gave behind each interaction so far, [batch, width, rows, columns] each."""

    tokens: Tensor
    sizes: tuple[Size, ...]
    finest: Tensor
    seen: tuple[Tensor, ...]


class SpatialPrior(nn.Module):
    """images -> maps of `width` channels at strides 4, 8, 16 and 32 (section 3.3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *_conv(3, STEM, 2), *_conv(STEM, STEM, 1), *_conv(STEM, STEM, 1), nn.MaxPool2d(3, stride=2, padding=1)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*_conv(a, b, 2)) for a, b in zip((STEM, *STAGES), STAGES, strict=False)
        )
        self.project = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in (STEM, *STAGES))
        self.level = nn.Parameter(torch.randn(len(STAGES), width))

    def forward(self, images: Tensor) -> Branch:
        require_two_images(self, images.shape[0], "vit_adapter has batch norms")
        maps = [self.stem(images)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        finest, *others = (step(x) for step, x in zip(self.project, maps, strict=True))
        tokens = [x.flatten(2).transpose(1, 2) + level for x, level in zip(others, self.level, strict=True)]
        sizes = tuple((int(x.shape[2]), int(x.shape[3])) for x in others)
        return Branch(torch.cat(tokens, dim=1), sizes, finest, ())


class Injector(nn.Module):
    """x <- x + gamma * attention(LN x, LN c), gamma [width] zero at the start (equation 1)."""

    def __init__(self, width: int, num_heads: int, ratio: float) -> None:
        super().__init__()
        self.norm_query, self.norm_value = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attention = DeformableAttention(width, num_heads, len(STAGES), NUM_POINTS, ratio)
        self.gamma = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, grid: Size, branch: Branch) -> Tensor:
        places = centres(grid, x.device)
        found = self.attention(self.norm_query(x), places, self.norm_value(branch.tokens), branch.sizes)
        return x + self.gamma * found


class Extractor(nn.Module):
    """c <- c + attention(LN c, LN x); c <- c + FFN(LN c) with a depthwise convolution on every map (equations 2, 3)."""

    def __init__(self, width: int, num_heads: int, ratio: float) -> None:
        super().__init__()
        hidden = int(width * HIDDEN)
        self.norm_query, self.norm_value, self.norm_ffn = (nn.LayerNorm(width, eps=1e-6) for _ in range(3))
        self.attention = DeformableAttention(width, num_heads, 1, NUM_POINTS, ratio)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)

    def forward(self, x: Tensor, grid: Size, branch: Branch) -> Branch:
        c = branch.tokens
        places = torch.cat([centres(size, x.device) for size in branch.sizes])
        c = c + self.attention(self.norm_query(c), places, self.norm_value(x), [grid])
        hidden = self.fc1(self.norm_ffn(c))
        maps = [self.conv(part).flatten(2).transpose(1, 2) for part in as_maps(hidden, branch.sizes)]
        return branch._replace(tokens=c + self.fc2(F.gelu(torch.cat(maps, dim=1))))


class InteractionBlock(Intervention):
    """A block of the transformer, ahead of which an interaction may begin and behind which it may end.

    The patches alone take part; prefix tokens pass. (stream, branch) -> (stream, branch).
    """

    def __init__(
        self, base: nn.Module, grid: TokenGrid, inject: nn.Module | None, extract: Sequence[nn.Module]
    ) -> None:
        super().__init__(base)
        self.grid, self.inject, self.extract = grid, inject, nn.ModuleList(extract)

    def forward(self, x: tuple[Tensor, Branch], **arguments: Any) -> tuple[Tensor, Branch]:
        stream, branch = x
        p, size = self.grid.num_prefix, self.grid.size
        if self.inject is not None:
            stream = torch.cat([stream[:, :p], self.inject(stream[:, p:], size, branch)], dim=1)
        stream = self.base(stream, **arguments)
        for extract in self.extract:
            branch = extract(stream[:, p:], size, branch)
        if self.extract:
            branch = branch._replace(seen=(*branch.seen, self.grid.split(stream)[1]))
        return stream, branch


class WithBranch(Intervention):
    """A timm model whose blocks get the branch beside the stream."""

    def __init__(self, base: nn.Module, prior: SpatialPrior) -> None:
        super().__init__(base)
        self.prior = prior

    def forward_features(self, images: Tensor) -> Any:
        branch = self.prior(images)
        # behind the embedding and ahead of the blocks, which may be recomputed
        handle = self.base.get_submodule("norm_pre").register_forward_hook(lambda _, __, stream: (stream, branch))
        try:
            return self.base.forward_features(images)  # type: ignore[operator]
        finally:
            handle.remove()

    @property
    def rope(self) -> Any:
        return getattr(self.base, "rope", None)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.base.set_grad_checkpointing(enable)  # type: ignore[operator]


class Outlet(nn.Module):
    """Readout: four maps, the branch's plus the transformer's at its sizes, behind batch norm; pooled: their means."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(1 + len(STAGES)))
        self.map_widths = (width,) * (1 + len(STAGES))

    def maps(self, features: tuple[Tensor, Branch]) -> list[Tensor]:
        branch = features[1]
        coarse = as_maps(branch.tokens, branch.sizes)
        finest = F.interpolate(self.up(coarse[0]), branch.finest.shape[2:]) + branch.finest
        # of fewer interactions than maps the last ones' features serve again
        seen = [branch.seen[min(number, len(branch.seen) - 1)] for number in range(len(self.norms))]
        return [
            norm(c + F.interpolate(x, c.shape[2:], mode="bilinear", align_corners=False))
            for norm, c, x in zip(self.norms, [finest, *coarse], seen, strict=True)
        ]

    def forward(self, features: tuple[Tensor, Branch]) -> Tensor:
        return torch.cat([m.mean(dim=(2, 3)) for m in self.maps(features)], dim=1)


@METHODS.add("vit_adapter")
@dataclass(frozen=True)
class ViTAdapter(Method):
    """A convolutional branch at strides 4 to 32 injects into the blocks and extracts from them in four interactions.

    The branch's maps, with the transformer's added, are the pyramid that a decoder reads; the transformer's tokens are
    unchanged at the start. `train_backbone`: the transformer trains too, as in the paper; without, it is frozen.
    `num_heads` and `value_ratio` of the deformable attention are null for the published sizes: the backbone's heads (6
    for ViT-T), half of the width from ViT-B on. Two more extractors stand behind the last block. 13,680,608 parameters
    on ViT-B, as released. Where a classifier asks for features they are the means of the four maps. Layer-wise rates
    and stochastic depth of the paper's recipe are left out, with which its transformer trains; the class token stays in
    the sequence. On maps of fewer than eight cells a side the points of the deformable attention start nearer.
    """

    family: ClassVar[str] = "side"
    paper: ClassVar[str] = "arXiv:2205.08534"
    identity_at_init: ClassVar[bool] = False
    pools_itself: ClassVar[bool] = True
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "The transformer is frozen unless asked and has the rate of the rest; the class token stays; on small maps "
        "sampled points start nearer."
    )

    num_interactions: int = option(4, ge=1)
    num_heads: int | None = option(None, ge=1)
    value_ratio: float | None = option(None, gt=0, le=1)
    extra_extractors: int = option(2, ge=0)
    train_backbone: bool = option(False)

    def attach(self, backbone: Backbone) -> None:
        shape = backbone.shape
        heads, ratio = self._attention(shape)
        if not hasattr(backbone.net, "norm_pre"):
            name = type(backbone.net).__name__
            raise NotApplicable(f"{self.name} starts between the embedding and the blocks; {name} has no module there")
        if self.train_backbone:
            unfreeze(backbone.net)
        grid, layers, levels = TokenGrid.of(shape), self._groups(shape), map_sizes(shape)[2:]
        first, last = {group[0] for group in layers}, {group[-1] for group in layers}
        for site in backbone.sites("block"):
            count = (site.layer in last) * (1 + self.extra_extractors * (site.layer == shape.depth - 1))
            inject = Injector(shape.width, heads, ratio) if site.layer in first else None
            extract = [Extractor(shape.width, heads, ratio) for _ in range(count)]
            for module in (inject, *extract):
                if module is not None:
                    initialise(module)
                    module.attention.reset(levels if module is inject else [min(shape.grid)])
            site.wrap(partial(InteractionBlock, grid=grid, inject=inject, extract=extract))
        for site in backbone.sites("norm.final"):
            site.module.requires_grad_(False)
            site.wrap(Unused)
        prior, outlet = SpatialPrior(shape.width), Outlet(shape.width)
        initialise(prior)
        initialise(outlet)
        backbone.net = WithBranch(backbone.net, prior)
        backbone.readout, backbone.feature_dim = outlet, sum(outlet.map_widths)

    def expected_params(self, shape: BackboneShape) -> int:
        d = shape.width
        heads, ratio = self._attention(shape)
        inside, hidden = int(d * ratio), int(d * HIDDEN)

        def attention(levels: int) -> int:
            return 3 * heads * levels * NUM_POINTS * (d + 1) + 2 * d * inside + inside + d

        channels = (STEM, *STAGES)
        prior = 9 * (3 * STEM + 2 * STEM**2) + 6 * STEM + len(STAGES) * d
        prior += sum(9 * a * b + 2 * b for a, b in zip(channels, STAGES, strict=False))
        prior += sum((c + 1) * d for c in channels)
        injector = 5 * d + attention(len(STAGES))
        extractor = 6 * d + attention(1) + 2 * d * hidden + hidden + d + 10 * hidden
        count = len(self._groups(shape))
        outlet = 4 * d**2 + d + 2 * d * len(channels)
        trained = 0
        if self.train_backbone:
            trained = shape.num_parameters - sum(site.num_parameters for site in shape.at("norm.final"))
        return prior + count * injector + (count + self.extra_extractors) * extractor + outlet + trained

    def inert(self, backbone: Backbone) -> dict[str, slice | Tensor]:
        """Taps of the last convolutions that see nothing but padding, on maps of one or two cells a side.

        And the key third of a qkv bias that trains: it shifts all scores of a query equally, which softmax cancels.
        """
        found: dict[str, slice | Tensor] = dict(key_third(backbone, "bias"))
        sizes = map_sizes(backbone.shape)[1:]
        for name, tensor in backbone.trainable:
            stage = next((i for i in range(len(STAGES)) if name.endswith(f"prior.stages.{i}.0.weight")), None)
            if stage is not None and sizes[stage] <= 2:
                seen = [[-1 + tap + 2 * i for i in range(-(-sizes[stage] // 2))] for tap in range(3)]
                live = torch.tensor([any(0 <= place < sizes[stage] for place in places) for places in seen])
                found[name] = ~(live[:, None] & live[None]).expand_as(tensor)
        return found

    def _groups(self, shape: BackboneShape) -> list[range]:
        """The blocks of each interaction: equal parts, one for each block where there are fewer blocks."""
        count = min(self.num_interactions, shape.depth)
        bounds = [shape.depth * number // count for number in range(count + 1)]
        return [range(start, stop) for start, stop in pairwise(bounds)]

    def _attention(self, shape: BackboneShape) -> tuple[int, float]:
        """Heads and share of the width of the deformable attention."""
        if shape.family != "vit":
            raise NotApplicable(f"{self.name} builds a pyramid beside a flat network; {shape.family} is one itself")
        heads = self.num_heads or {192: 6}.get(shape.width, shape.num_heads)
        ratio = self.value_ratio or (0.5 if shape.width >= 768 else 1.0)
        if int(shape.width * ratio) % heads or not int(shape.width * HIDDEN):
            raise NotApplicable(
                f"{heads} heads do not divide the values' width {int(shape.width * ratio)}; choose another "
                "method.num_heads or method.value_ratio"
            )
        return heads, ratio


def map_sizes(shape: BackboneShape) -> list[int]:
    """Cells a side of the maps at strides 2 to 32."""
    sizes = [shape.patch_size * min(shape.grid)]
    for _ in range(2 + len(STAGES)):
        sizes.append(-(-sizes[-1] // 2))
    return sizes[1:]


def as_maps(tokens: Tensor, sizes: Sequence[Size]) -> list[Tensor]:
    """Tokens [batch, sum of h w, channels] of several maps -> the maps [batch, channels, h, w]."""
    parts = tokens.split([height * width for height, width in sizes], dim=1)
    return [part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]


def initialise(module: nn.Module) -> None:
    """Linear maps truncated normal of std 0.02, convolutions normal by fan out, biases 0."""
    init_linears(module)
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)):
            fan_out = part.kernel_size[0] * part.kernel_size[1] * part.out_channels // part.groups
            nn.init.normal_(part.weight, std=math.sqrt(2 / fan_out))
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def _conv(inside: int, outside: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outside), nn.ReLU()
