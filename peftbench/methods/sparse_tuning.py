"""Sparse-Tuning (Liu et al., 2024, arXiv:2405.14700): dense adapters, and patches that few look at become one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import Intervention, require_plain
from peftbench.interventions.attention import Heads, attend_self, heads_of
from peftbench.interventions.block import halves
from peftbench.methods.base import METHODS, Method
from peftbench.methods.fpet import MergedReadout, require_mergeable

Dense = Tensor | tuple[Tensor, Tensor]


class DenseAdapter(nn.Module):
    """x -> up2(down3([a; up1 a]) + z) with z = relu(down1 x) [h] and a = down2 z [h / 2], all with biases.

    Maps down are kaiming-uniform with a = sqrt(5), maps up and biases zero.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        narrow = hidden // 2
        self.down1, self.down2 = nn.Linear(width, hidden), nn.Linear(hidden, narrow)
        self.down3 = nn.Linear(narrow + hidden, hidden)
        self.up1, self.up2 = nn.Linear(narrow, hidden), nn.Linear(hidden, width)
        for linear in (self.down1, self.down2, self.down3):
            nn.init.kaiming_uniform_(linear.weight, a=math.sqrt(5))
        for tensor in (self.up1.weight, self.up2.weight, *(linear.bias for linear in self.children())):
            nn.init.zeros_(tensor)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        z = F.relu(self.down1(x))
        a = self.down2(z)
        added: Tensor = self.up2(self.down3(torch.cat([a, self.up1(a)], dim=-1)) + z)
        return added


class SparsifyingBlock(Intervention):
    """A plain block with a branch beside its MLP, ahead of which it may merge patches.

    [batch, prefix + patches, width] -> the same, or prefix + ceil(`keep` patches) + 1 tokens where `keep` is below 1:
    the patches that the class token looks at most, and one that is the sum of the others times how much it looks at
    them. What branches have added goes on with the tokens, up to a block that adds the sum to the stream: `joins` says
    whether this one's is part of it, `closes` whether it is such a block. The first block's part includes its input.
    """

    def __init__(
        self, base: nn.Module, num_prefix: int, branch: nn.Module, keep: float, first: bool, joins: bool, closes: bool
    ) -> None:
        super().__init__(base)
        require_plain(base.get_submodule("attn"))
        self.branch, self.num_prefix, self.keep = branch, num_prefix, keep
        self.first, self.joins, self.closes = first, joins, closes

    def forward(self, x: Dense, **arguments: Any) -> Dense:
        tokens, dense = x if isinstance(x, tuple) else (x, x if self.first else None)
        block: Any = self.base
        attn, mlp = halves(block, arguments).values()
        seen = attn.norm(tokens)
        heads = heads_of(block.attn, seen)
        tokens = tokens + attn.drop(attn.scale(attend_self(block.attn, seen, heads, **arguments)))
        tokens = self.merged(tokens, heads, block.attn.scale)
        added = self.branch(tokens)
        tokens = tokens + mlp.added(tokens) + added
        if self.joins:
            dense = added if dense is None else dense + added
        if dense is None:
            return tokens
        return tokens + dense if self.closes else (tokens, dense)

    def merged(self, tokens: Tensor, heads: Heads, scale: float) -> Tensor:
        prefix, patches = tokens[:, : self.num_prefix], tokens[:, self.num_prefix :]
        number = patches.shape[1]
        kept = math.ceil(self.keep * number)
        if kept == number:
            return tokens
        q, k, _ = heads
        looks = (q[:, :, :1] @ k.transpose(-2, -1) * scale).softmax(dim=-1)
        looks = looks.mean(dim=1)[:, 0, self.num_prefix :]
        order = looks.argsort(dim=1, descending=True, stable=True)
        patches = patches.gather(1, order[..., None].expand(-1, -1, patches.shape[2]))
        looks = looks.gather(1, order)[..., None].to(patches.dtype)
        rest = (looks[:, kept:] * patches[:, kept:]).sum(dim=1, keepdim=True)
        return torch.cat([prefix, patches[:, :kept], rest], dim=1)

    def map_of(self, out: Dense) -> Tensor:
        return out[0] if isinstance(out, tuple) else out


@METHODS.add("sparse_tuning")
@dataclass(frozen=True)
class SparseTuning(Method):
    """x = x + mlp_half(x) + A(x), A a dense adapter; on the way the patches that the class token looks at least merge.

    Patches merge at a quarter, half and three quarters of the blocks, behind attention (blocks 3, 6 and 9 of 12 as
    released): the share `keep` of them stays, the others become one token, their sum weighed by the class token's
    attention, a mean over heads (the paper's; in the release a flag, `--fuse_token`, without which they are dropped).
    At the end of each stage between the merges what its adapters added is added to the stream once more, in the first
    with the tokens that entered it, in the last without the last block's, as released. The adapter is released for h =
    64. L (2 D h + 5/2 h^2 + D + 7/2 h) parameters.
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "arXiv:2405.14700"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "Maps up start at zero, as the released adapter sets them before its network overwrites that, and there is no "
        "batch norm ahead of the head."
    )
    identity_at_init: ClassVar[bool] = False
    shortens: ClassVar[bool] = True
    size_option: ClassVar[str] = "bottleneck"

    bottleneck: int = option(64, ge=2)
    keep: float = option(0.7, gt=0, le=1)

    def problems(self) -> list[str]:
        odd = self.bottleneck % 2
        return [f"method.bottleneck must be even, half of it is a narrower one, got {self.bottleneck}"] if odd else []

    def attach(self, backbone: Backbone) -> None:
        require_mergeable(self.name, backbone)
        shape, merging = backbone.shape, self._merging(backbone.shape)
        for number, site in enumerate(backbone.sites("block")):
            last = number == shape.depth - 1
            made = partial(
                SparsifyingBlock,
                num_prefix=shape.num_prefix_tokens,
                branch=DenseAdapter(shape.width, self.bottleneck),
                keep=self.keep if number in merging else 1.0,
                first=number == 0,
                joins=not last,
                closes=last or number + 1 in merging,
            )
            site.wrap(made)
        backbone.readout = MergedReadout(backbone.net)

    def _merging(self, shape: BackboneShape) -> set[int]:
        """The blocks that merge."""
        return {round(shape.depth * quarter / 4) for quarter in (1, 2, 3)} - {0}

    def expected_params(self, shape: BackboneShape) -> int:
        h, width = self.bottleneck, shape.width
        return shape.depth * (2 * width * h + 5 * h * h // 2 + width + 7 * h // 2)
