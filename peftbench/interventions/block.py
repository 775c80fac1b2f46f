"""Taps on the two residual halves of a block, for branches that need the residual stream itself.

A pre-norm half computes x + finish(core(norm(x))), where core is attention or the MLP and finish is LayerScale
and stochastic depth. Wrapping modules alone cannot reach the stream between the halves, so this is the one place
that writes the forward pass of a timm block again, for the three families; a test holds it equal to timm's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from peftbench.errors import NotApplicable
from peftbench.interventions.base import Intervention

Step = Callable[..., Tensor]


@dataclass(frozen=True)
class Half:
    """The parts of one residual half, read from the block at every call so that wrapped modules count."""

    norm: Step
    core: Step
    finish: Step


@dataclass(frozen=True)
class Tap:
    """A parallel branch on one half: `half` is attn or mlp, `reads` is raw (the stream) or normed (after the norm).

    The branch's output is added to the half's output: inside LayerScale and stochastic depth if `inside`, else
    beside them.
    """

    half: str
    branch: nn.Module
    reads: str = "normed"
    inside: bool = False


class BlockTaps(Intervention):
    """A block with parallel branches on its halves. Tokens [batch, length, width], or maps in timm's layout."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.branches = nn.ModuleList()
        self._taps: list[tuple[str, str, bool]] = []

    def add(self, tap: Tap) -> None:
        self.branches.append(tap.branch)
        self._taps.append((tap.half, tap.reads, tap.inside))

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        for name, half in halves(self.base, arguments).items():
            normed = half.norm(x)
            core = half.core(normed)
            beside: list[Tensor] = []
            for branch, (where, reads, inside) in zip(self.branches, self._taps, strict=True):
                if where != name:
                    continue
                added = branch(x if reads == "raw" else normed)
                if inside:
                    core = core + added
                else:
                    beside.append(added)
            x = x + half.finish(core)
            for added in beside:
                x = x + added
        return x


def tap_block(block: nn.Module, taps: Sequence[Tap]) -> nn.Module:
    """`block` with `taps`; adds to an existing BlockTaps rather than nesting a second one.

    Raises `NotApplicable` if the family's block has no such half.
    """
    wrapped = block if isinstance(block, BlockTaps) else BlockTaps(block)
    known = halves(wrapped.base, {})
    for tap in taps:
        if tap.half not in known:
            raise NotApplicable(f"{type(wrapped.base).__name__} has no {tap.half} half")
        wrapped.add(tap)
    return wrapped


def halves(block: Any, arguments: dict[str, Any]) -> dict[str, Half]:
    """The residual halves of a timm block in order. `arguments` are the keyword arguments attention is called with."""
    kind = type(block).__name__
    if kind == "Block":
        return {
            "attn": Half(block.norm1, lambda x: block.attn(x, **arguments), lambda y: block.drop_path1(block.ls1(y))),
            "mlp": Half(block.norm2, block.mlp, lambda y: block.drop_path2(block.ls2(y))),
        }
    if kind == "SwinTransformerBlock":
        return {
            "attn": Half(block.norm1, block._attn, block.drop_path1),
            "mlp": Half(block.norm2, block.mlp, block.drop_path2),
        }
    raise NotApplicable(f"no residual halves are known for blocks of type {kind}")
