"""SA2VP (Pei et al., AAAI 2024, arXiv:2312.10376): prompts as a second map, place by place beside the image's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import Bottleneck, Headed, TokenGrid, refer, require_plain
from peftbench.interventions.attention import Heads, output
from peftbench.interventions.streams import LastOfTwo
from peftbench.methods.base import METHODS, Method
from peftbench.methods.vpt import token_sequence

_BIAS_STD = 1e-6
Streams = tuple[Tensor, Tensor]


class PromptMap(nn.Module):
    """A token for every place of the sequence, `hidden_dim` numbers brought to the width: -> [1, length, width].

    Numbers from a truncated normal of std 0.02, the linear map xavier-uniform.
    """

    def __init__(self, length: int, hidden_dim: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(1, length, hidden_dim))
        self.up = nn.Linear(hidden_dim, width)
        nn.init.trunc_normal_(self.tokens, std=0.02)
        nn.init.xavier_uniform_(self.up.weight)
        nn.init.normal_(self.up.bias, std=_BIAS_STD)

    def forward(self) -> Tensor:
        prompts: Tensor = self.up(self.tokens)
        return prompts


class FirstPrompts(nn.Module):
    """The prompts of the first block: their map and the network's own position embedding, where it has one."""

    net: Any

    def __init__(self, net: nn.Module, prompts: PromptMap, num_patches: int, dropout: float) -> None:
        super().__init__()
        refer(self, "net", net)
        self.prompts, self.num_patches, self.dropout = prompts, num_patches, nn.Dropout(dropout)

    def forward(self, batch: int) -> Tensor:
        prompts = self.prompts()
        positions = getattr(self.net, "pos_embed", None)
        if positions is not None:
            # prefix tokens without a position stand behind those that have one
            before, patches = positions[:, : -self.num_patches], positions[:, -self.num_patches :]
            without = prompts.shape[1] - positions.shape[1]
            prompts = prompts + torch.cat([F.pad(before, (0, 0, 0, without)), patches], dim=1)
        dropped: Tensor = self.dropout(prompts.expand(batch, -1, -1))
        return dropped


class CrossBlock(nn.Module):
    """z = MLP(LN(x + A(x, y))): what one stream x takes from the other, y, by the frozen maps of the block's attention.

    A patch of x looks at the 3 x 3 patches of y around its place, a prefix token at all tokens of y. Heads are the
    attention's own and places beyond the edge are left out; with `single_head` the heads are one of the whole width and
    a place beyond the edge is a key and a value of zeros. The MLP is a bottleneck with dropout in and behind it.
    """

    def __init__(self, grid: TokenGrid, width: int, hidden_dim: int, dropout: float, single_head: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Bottleneck(width, hidden_dim, "gelu", dropout, init="xavier")
        for linear in (self.mlp.down, self.mlp.up):
            nn.init.normal_(linear.bias, std=_BIAS_STD)
        self.dropout = nn.Dropout(dropout)
        self.grid, self.single_head = grid, single_head

    def forward(self, attn: nn.Module, x: Tensor, seen: Tensor, own: Heads, other: Heads) -> Tensor:
        """x and `seen`, the same behind the block's norm: [batch, length, width]; `own` heads of it, `other` of y."""
        (q, _, _), (_, k, v) = own, other
        if self.single_head:
            q, k, v = (part.transpose(1, 2).flatten(2).unsqueeze(1) for part in (q, k, v))
        prefix = F.scaled_dot_product_attention(q[:, :, : self.grid.num_prefix], k, v)
        mixed = torch.cat([prefix, self._around(q, k, v)], dim=2)
        if self.single_head:
            mixed = mixed.squeeze(1).unflatten(2, (own[0].shape[1], -1)).transpose(1, 2)
        taken: Tensor = self.mlp(self.norm(x + self.dropout(output(attn, seen, mixed))))
        return self.dropout(taken)

    def _around(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of every patch to the nine around it, [batch, heads, patches, head_dim]."""
        q, k, v = (part[:, :, self.grid.num_prefix :].unflatten(2, self.grid.size) for part in (q, k, v))
        k, v = (_nine(F.pad(part, (0, 0, 1, 1, 1, 1))) for part in (k, v))
        scores = torch.einsum("bhrcd,bhrcdij->bhrcij", q, k) * q.shape[-1] ** -0.5
        if not self.single_head:
            inside = _nine(F.pad(q.new_ones(*self.grid.size, 1), (0, 0, 1, 1, 1, 1)))
            scores = scores.masked_fill(inside.squeeze(2) == 0, float("-inf"))
        shares = scores.flatten(-2).softmax(dim=-1).view_as(scores).to(v.dtype)
        return torch.einsum("bhrcij,bhrcdij->bhrcd", shares, v).flatten(2, 3)


def _nine(maps: Tensor) -> Tensor:
    """[..., rows + 2, columns + 2, width] -> of every place the 3 x 3 around it, [..., rows, columns, width, 3, 3]."""
    return maps.unfold(-3, 3, 1).unfold(-3, 3, 1)


class PairedBlock(LastOfTwo):
    """A frozen block on two streams of tokens, image and prompts, of which one takes from the other: + scale z.

    `inward`: the prompts take from the image, else the image from them. `first`: makes the prompts. `new`: a map that
    goes through the block by itself and joins the prompts, weighted by channel.
    """

    def __init__(self, base: nn.Module, cross: CrossBlock, scale: float, inward: bool, last: bool) -> None:
        super().__init__(base)
        require_plain(base.get_submodule("attn"))
        self.cross = cross
        self.first: FirstPrompts | None = None
        self.new: PromptMap | None = None
        self.scale, self.inward, self.last = scale, inward, last

    def renew(self, prompts: PromptMap, width: int) -> None:
        """Let new `prompts` join; their weights are drawn from N(0, 0.02)."""
        self.new = prompts
        self.gate = nn.Parameter(torch.normal(0.0, 0.02, (1, width)))

    def forward(self, x: Tensor | Streams, **arguments: Any) -> Tensor | Streams:
        streams = x if isinstance(x, tuple) else (x, self._start(x))
        headed = Headed(self.base, arguments)
        seen = [headed.seen(stream) for stream in streams]
        heads = [headed.heads(stream) for stream in seen]
        taker, giver = (1, 0) if self.inward else (0, 1)
        taken = self.cross(headed.block.attn, streams[taker], seen[taker], heads[taker], heads[giver])
        wanted = range(2) if not self.last or (self.both and self.training) else range(1)
        outs = [headed.through(streams[number], seen[number], heads[number]) for number in wanted]
        if self.new is not None:
            outs[1] = outs[1] + self.gate * self.base(self.new(), **arguments)
        outs[taker] = outs[taker] + self.scale * taken
        if not self.last:
            return outs[0], outs[1]
        return torch.cat(outs)

    def _start(self, x: Tensor) -> Tensor:
        assert self.first is not None
        prompts: Tensor = self.first(x.shape[0])
        return prompts

    def map_of(self, out: Tensor | Streams) -> Tensor:
        return out[0] if isinstance(out, tuple) else out


@METHODS.add("sa2vp")
@dataclass(frozen=True)
class SA2VP(Method):
    """Prompts as long as the sequence go through the same frozen blocks beside it; in each, one takes from the other.

    In blocks 0, `period`, 2 `period`, ... prompts take from the image, in all others and the last the image from the
    prompts, `scale` times what a trained bottleneck of `hidden_dim` makes of it. From the second of these blocks on new
    prompts join there. With N tokens, h = `hidden_dim` and n maps of new ones, (1 + n) (N h + h D + D) + n D +
    L (2 D h + h + 3 D) parameters. The forward pass costs twice that of the network. `single_head` is the attention of
    the faster released code, which differs. The loss on the prompts' own class token is the objective `prompt_stream`.
    The paper takes `hidden_dim` and `scale` for each group of VTAB-1k: 8 and 0.1, 16 and 1.5, 32 and 1.5.
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "arXiv:2312.10376"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "The frozen network drops nothing, where the release drops 10 % in its MLPs and at its input."
    )
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "hidden_dim"

    hidden_dim: int = option(16, ge=1)
    scale: float = option(0.1, gt=0)
    period: int = option(4, ge=1)
    single_head: bool = option(False)
    dropout: float = option(0.1, ge=0, lt=1)

    def attach(self, backbone: Backbone) -> None:
        shape, grid = backbone.shape, TokenGrid.of(backbone.shape)
        blocks = token_sequence(self.name, backbone)
        length = shape.num_prefix_tokens + shape.num_patches
        for layer, site in enumerate(blocks):
            last = layer == len(blocks) - 1
            inward = layer % self.period == 0 and not last
            cross = CrossBlock(grid, shape.width, self.hidden_dim, self.dropout, self.single_head)
            paired = PairedBlock(site.module, cross, self.scale, inward, last)
            if layer == 0:
                prompts = PromptMap(length, self.hidden_dim, shape.width)
                paired.first = FirstPrompts(backbone.net, prompts, shape.num_patches, self.dropout)
            elif inward:
                paired.renew(PromptMap(length, self.hidden_dim, shape.width), shape.width)
            site.wrap(lambda _, paired=paired: paired)  # type: ignore[misc]

    def expected_params(self, shape: BackboneShape) -> int:
        width, hidden = shape.width, self.hidden_dim
        new = (shape.depth - 2) // self.period if shape.depth > 1 else 0
        maps = (1 + new) * ((shape.num_prefix_tokens + shape.num_patches) * hidden + hidden * width + width)
        return maps + new * width + shape.depth * (2 * width * hidden + hidden + 3 * width)
