"""Work on the two residual halves of a block: parallel branches, operations on the stream, and on the shortcut.

A pre-norm half computes x + drop(scale(core(norm(x)))), where core is attention or the MLP, scale is LayerScale and
drop is stochastic depth. Wrapping modules alone cannot reach the stream between the halves, so this is the one
place that writes the forward pass of a timm block again, for each family; a test holds it equal to timm's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import timm.models.vision_transformer_sam as sam
from timm.models.beit import Block as BeitBlock
from timm.models.eva import EvaBlock
from torch import Tensor, nn

from peftbench.foundation.errors import NotApplicable
from peftbench.interventions.base import Intervention

Step = Callable[..., Tensor]


def _same(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Half:
    """The parts of one residual half, read from the block at every call so that wrapped modules count.

    `enter` brings the stream to channels last, the layout in which the other parts and all taps work; `leave` brings
    it back. For tokens both do nothing. `norm` reads the stream as it is.
    """

    norm: Step
    core: Step
    scale: Step
    drop: Step
    enter: Step = _same
    leave: Step = _same

    def added(self, x: Tensor) -> Tensor:
        """drop(scale(core(norm(x)))): what the half adds to a stream x, channels last."""
        y: Tensor = self.drop(self.scale(self.core(self.norm(x))))
        return y


@dataclass(frozen=True)
class Tap:
    """A module at one half of a block (`half`: attn or mlp), given and giving channels last.

    `place`: `beside` (parallel to the half, outside LayerScale and stochastic depth), `inside` (added to attention's
    or the MLP's output before them), `behind` (y + module(y) on what they leave, ahead of the residual addition),
    `before` (x = module(x) ahead of norm and shortcut), `stream` (the same behind the residual addition), `skip` (on
    the shortcut).
    `reads` says what a parallel branch is given: `raw` (the stream) or `normed` (behind the half's norm).
    `drop_path` sends a branch beside the half through the half's stochastic depth, with a draw of its own.
    """

    half: str
    module: nn.Module
    place: str = "beside"
    reads: str = "normed"
    drop_path: bool = False


class BlockTaps(Intervention):
    """A block with taps on its halves. Tokens [batch, length, width], or maps in the family's own layout."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.taps = nn.ModuleList()
        self._where: list[tuple[str, str, str, bool]] = []

    def add(self, tap: Tap) -> None:
        self.taps.append(tap.module)
        self._where.append((tap.half, tap.place, tap.reads, tap.drop_path))

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        for name, half in halves(self.base, arguments).items():
            for module, _, _ in self._at(name, "before"):
                x = half.leave(module(half.enter(x)))
            normed = half.norm(x)
            core = half.core(normed)
            shortcut, beside = x, []
            for module, reads, _ in self._at(name, "inside"):
                core = core + module(half.enter(x) if reads == "raw" else normed)
            for module, reads, drop_path in self._at(name, "beside"):
                added = module(half.enter(x) if reads == "raw" else normed)
                beside.append(half.drop(added) if drop_path else added)
            for module, _, _ in self._at(name, "skip"):
                shortcut = half.leave(module(half.enter(shortcut)))
            y = half.drop(half.scale(core))
            for module, _, _ in self._at(name, "behind"):
                y = y + module(y)
            x = shortcut + half.leave(y)
            for added in beside:
                x = x + half.leave(added)
            for module, _, _ in self._at(name, "stream"):
                x = half.leave(module(half.enter(x)))
        return x

    def _at(self, half: str, place: str) -> list[tuple[nn.Module, str, bool]]:
        return [
            (module, reads, drop_path)
            for module, (h, p, reads, drop_path) in zip(self.taps, self._where, strict=True)
            if (h, p) == (half, place)
        ]


def tap_block(block: nn.Module, taps: Sequence[Tap]) -> nn.Module:
    """`block` with `taps`; adds to an existing BlockTaps rather than nesting a second one.

    Raises `NotApplicable` if the family's block has no such half.
    """
    wrapped = block if isinstance(block, BlockTaps) else BlockTaps(block)
    known = halves(wrapped.base, {})
    for tap in taps:
        if tap.half not in known:
            raise NotApplicable(f"a {type(wrapped.base).__name__} has no {tap.half} half to work on")
    for tap in taps:
        wrapped.add(tap)
    return wrapped


def halves(block: Any, arguments: dict[str, Any]) -> dict[str, Half]:
    """The residual halves of a timm block in order. `arguments` are the keyword arguments attention is called with.

    A ConvNeXt block has one residual only; its depthwise convolution counts as part of the norm ahead of the MLP.
    """
    kind = type(block).__name__
    if isinstance(block, (EvaBlock, BeitBlock)):
        return {
            "attn": Half(block.norm1, lambda x: block.attn(x, **arguments), _by(block.gamma_1), block.drop_path1),
            "mlp": Half(block.norm2, block.mlp, _by(block.gamma_2), block.drop_path2),
        }
    if isinstance(block, sam.Block):
        return {
            "attn": Half(block.norm1, lambda x: _in_windows(block, x), block.ls1, block.drop_path1),
            "mlp": Half(block.norm2, block.mlp, block.ls2, block.drop_path2),
        }
    if kind in ("Block", "RelPosBlock"):
        return {
            "attn": Half(block.norm1, lambda x: block.attn(x, **arguments), block.ls1, block.drop_path1),
            "mlp": Half(block.norm2, block.mlp, block.ls2, block.drop_path2),
        }
    if kind == "SwinTransformerBlock":
        return {
            "attn": Half(block.norm1, block._attn, _same, block.drop_path1),
            "mlp": Half(block.norm2, block.mlp, _same, block.drop_path2),
        }
    if kind == "VideoSwinBlock":
        return {
            "attn": Half(block.norm1, block._attn, _same, block.stochastic_depth),
            "mlp": Half(block.norm2, block.mlp, _same, block.stochastic_depth),
        }
    if kind == "ConvNeXtBlock":
        return {"mlp": _convnext(block)}
    raise NotApplicable(f"no residual halves are known for blocks of type {kind}")


def joins_as_it_is(block: nn.Module, half: str) -> bool:
    """Whether what a half of a timm block gives is added to the stream without LayerScale."""
    try:
        found = halves(block, {}).get(half)
    except NotApplicable:
        return False
    return found is not None and (found.scale is _same or isinstance(found.scale, nn.Identity))


def _in_windows(block: sam.Block, x: Tensor) -> Tensor:
    """SAM's attention of maps [batch, height, width, channels], within windows but in a few blocks."""
    if not block.window_size:
        whole: Tensor = block.attn(x)
        return whole
    windows, padded = sam.window_partition(x, block.window_size)
    joined: Tensor = sam.window_unpartition(block.attn(windows), block.window_size, x.shape[1:3], padded)
    return joined


def _by(gamma: Tensor | None) -> Step:
    """Multiplication by a LayerScale vector, where there is one."""
    return _same if gamma is None else lambda y: y * gamma


def _convnext(block: Any) -> Half:
    def maps(operation: Step) -> Step:
        return lambda x: _last(operation(_first(x)))

    if block.use_conv_mlp:
        norm, core = (lambda x: _last(block.norm(block.conv_dw(x)))), maps(block.mlp)
    else:
        norm, core = (lambda x: block.norm(_last(block.conv_dw(x)))), block.mlp
    return Half(norm, core, _by(block.gamma), block.drop_path, enter=_last, leave=_first)


def _last(x: Tensor) -> Tensor:
    """Maps [batch, channels, height, width] -> [batch, height, width, channels]."""
    return x.permute(0, 2, 3, 1)


def _first(x: Tensor) -> Tensor:
    """Maps [batch, height, width, channels] -> [batch, channels, height, width]."""
    return x.permute(0, 3, 1, 2)
