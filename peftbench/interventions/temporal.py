"""Work across the frames of a clip, whose frames are folded into the batch: [batch * frames, ...]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from peftbench.interventions.base import Intervention, innermost
from peftbench.interventions.block import halves
from peftbench.interventions.side import small_block


def over_time(operation: Callable[[Tensor], Tensor], x: Tensor, frames: int) -> Tensor:
    """`operation` on the sequence of frames at every place.

    x: [batch * frames, places, width]; the operation sees [batch * places, frames, width], clip by clip.
    """
    clips = x.unflatten(0, (-1, frames)).transpose(1, 2)
    moved = operation(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
    return moved.transpose(1, 2).flatten(0, 1)


class TemporalConvAdapter(nn.Module):
    """x -> x + up(conv(down(x))) on the patches, conv over the `kernel` frames around, channel by channel.

    x: [batch * frames, prefix + patches, width], or maps [batch * frames, height, width, channels]. Prefix tokens stay
    as they are, and beyond its ends a clip is zero. conv starts at zero, with its bias; down and up as torch draws a
    Linear, their biases at zero. Equal to a depthwise Conv3d of kernel (kernel, 1, 1).
    """

    def __init__(self, width: int, bottleneck: int, frames: int, num_prefix: int, kernel: int = 3) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.conv = nn.Conv1d(bottleneck, bottleneck, kernel, padding=kernel // 2, groups=bottleneck)
        self.up = nn.Linear(bottleneck, width)
        self.frames, self.num_prefix = frames, num_prefix
        for tensor in (self.conv.weight, self.conv.bias, self.down.bias, self.up.bias):
            assert tensor is not None
            nn.init.zeros_(tensor)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            return x + self._added(x.flatten(1, 2)).view_as(x)
        prefix, patches = x[:, : self.num_prefix], x[:, self.num_prefix :]
        return torch.cat([prefix, patches + self._added(patches)], dim=1)

    def _added(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.up(over_time(self._convolved, self.down(x), self.frames))
        return mixed

    def _convolved(self, x: Tensor) -> Tensor:
        convolved: Tensor = self.conv(x.transpose(1, 2))
        return convolved.transpose(1, 2)


class TemporalPass(Intervention):
    """A block and, ahead of it, a pass of its own frozen attention over time: x + drop(module(attn(ahead(norm(x))))).

    Every token of a frame, prefix tokens among them, attends to the tokens at its place in all frames of its clip.
    Norm and attention are those of the block; what a method puts around the block's half does not act in this pass.
    `drop` is stochastic depth, with a draw for each frame.
    """

    def __init__(
        self, base: nn.Module, module: nn.Module, frames: int, ahead: nn.Module | None = None, drop: float = 0.0
    ) -> None:
        super().__init__(base)
        self.module, self.frames = module, frames
        self.ahead = nn.Identity() if ahead is None else ahead
        self.drop = DropPath(drop)

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        half = halves(innermost(self.base), {})["attn"]
        normed = self.ahead(half.norm(x))
        attended = over_time(half.core, normed, self.frames)
        y: Tensor = self.base(x + self.drop(self.module(attended)), **arguments)
        return y


class FrameOffsets(Intervention):
    """base(x + offset of the frame) on all tokens; the offsets [1, frames, width] start at zero."""

    def __init__(self, base: nn.Module, frames: int, width: int) -> None:
        super().__init__(base)
        self.offsets = nn.Parameter(torch.zeros(1, frames, width))

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        placed = x.unflatten(0, (-1, self.offsets.shape[1])) + self.offsets[:, :, None].to(x.dtype)
        y: Tensor = self.base(placed.flatten(0, 1), **arguments)
        return y


class TemporalShift(Intervention):
    """base(x) with the first `part` channels of the frame behind and the next `part` of the frame ahead.

    What comes out of base is [batch * frames, ..., width]; beyond its ends a clip is zero.
    """

    def __init__(self, base: nn.Module, frames: int, part: int) -> None:
        super().__init__(base)
        self.frames, self.part = frames, part

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        y = self.base(x, **arguments).unflatten(0, (-1, self.frames))
        behind, ahead, stay = y.tensor_split((self.part, 2 * self.part), dim=-1)
        nothing = torch.zeros_like(y[:, :1])
        behind = torch.cat([behind[:, 1:], nothing[..., : self.part]], dim=1)
        ahead = torch.cat([nothing[..., : self.part], ahead[:, :-1]], dim=1)
        return torch.cat([behind, ahead, stay], dim=-1).flatten(0, 1)


class FrameTransformer(Intervention):
    """base(blocks(x + place)) on the features of every frame: x [batch, frames, width], as is what base is given.

    Places [1, frames, width] start at zero, and so do the last maps of each block's halves: at the start this is base.
    """

    def __init__(self, base: nn.Module, frames: int, width: int, num_heads: int, depth: int) -> None:
        super().__init__(base)
        self.places = nn.Parameter(torch.zeros(1, frames, width))
        self.blocks = nn.ModuleList(small_block(width, num_heads, 4 * width) for _ in range(depth))
        for block in self.blocks:
            for name in ("attn.proj", "mlp.fc2"):
                nn.init.zeros_(block.get_submodule(name).weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.places.to(x.dtype)
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.base(x)
        return y


class Added(nn.Module):
    """x + drop(module(x)) with stochastic depth, or without the shortcut drop(module(x))."""

    def __init__(self, module: nn.Module, drop: float = 0.0, shortcut: bool = True) -> None:
        super().__init__()
        self.module, self.drop, self.shortcut = module, DropPath(drop), shortcut

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.drop(self.module(x))
        return x + added if self.shortcut else added
