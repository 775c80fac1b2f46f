"""SynQT (Zhang et al., ECCV 2024, arXiv:2407.06964): queries made by a network of their own ask every frozen block."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import (
    CarriedReadout,
    Intervention,
    OwnAttention,
    Thinned,
    Unused,
    ask_block,
    refer,
    require_plain,
    share,
)
from peftbench.methods.base import METHODS, Method

# of every block so far: its answer, and what its attention and its MLP added to the queries, [batch, 1, width] each
Carried = tuple[tuple[Tensor, ...], ...]
# share of the summarised vectors left out in training
DROP_PATH = 0.3


class Residual(nn.Module):
    """x + dropout(up(dropout(gelu(down(x))))), width -> hidden -> width, drawn as torch draws linear maps."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.dropout(self.up(self.dropout(F.gelu(self.down(x)))))
        return x + added


class QueryAttention(nn.Module):
    """Attention of queries [batch, number, width] to each other, one head, with `Residual` in place of linear maps."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm_q, self.norm_kv = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.proj = (Residual(width, hidden, 0.0) for _ in range(4))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        asking, seen = self.norm_q(x), self.norm_kv(x)
        scores = self.q(asking) @ self.k(seen).transpose(-2, -1) * x.shape[-1] ** -0.5
        mixed: Tensor = self.dropout(self.proj(self.dropout(scores.softmax(dim=-1)) @ self.v(seen)))
        return mixed


class Synthesis(nn.Module):
    """The queries of one block: learnt ones, U(-1, 1), with the last block's answer, through a small block."""

    def __init__(self, width: int, options: SynQT) -> None:
        super().__init__()
        hidden, dropout = options.bottleneck, options.dropout
        self.queries = nn.Parameter(torch.empty(options.num_tokens, width).uniform_(-1, 1))
        self.enter = Residual(width, hidden, dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = QueryAttention(width, options.attn_bottleneck, dropout), Residual(width, hidden, dropout)
        self.attn_scale = nn.Parameter(torch.full((1,), options.attn_scale))
        self.mlp_scale = nn.Parameter(torch.full((1,), options.mlp_scale))
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: int, answer: Tensor | None) -> Tensor:
        """[batch, num_tokens, width]; `answer` [batch, 1, width] is scaled already, None for the first block."""
        queries = self.queries.expand(batch, -1, -1)
        x = self.enter(queries if answer is None else queries + answer)
        x = x + self.attn(self.norm1(x)) * self.attn_scale
        x = x + self.mlp(self.norm2(x)) * self.mlp_scale
        dropped: Tensor = self.dropout(x)
        return dropped


class AnswerScale(nn.Module):
    """The number by which a block's answer enters the queries of the next one, the same for all blocks."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.full((1,), start))


class SynthesisedQueries(Intervention):
    """A block that its own synthesised queries ask; its tokens pass as if there were none.

    tokens [batch, length, width] go on with what was brought back so far. Behind the last block the vectors of all
    blocks stand in their place, [batch, 1 + 3 * blocks, width]: the last answer, then all blocks' answers, what their
    attention and what their MLPs added to the queries; each is the mean over a block's queries.
    """

    answer_scale: AnswerScale

    def __init__(self, base: nn.Module, synthesis: Synthesis, answer_scale: AnswerScale, last: bool) -> None:
        super().__init__(base)
        require_plain(base.get_submodule("attn"))
        self.synthesis, self.own, self.last = synthesis, OwnAttention(), last
        refer(self, "answer_scale", answer_scale)

    def forward(self, x: Tensor | tuple[Tensor, Carried], **arguments: Any) -> Tensor | tuple[Tensor, Carried]:
        tokens, carried = x if isinstance(x, tuple) else (x, ())
        # nothing before this block changes the tokens, so no gradient needs their path
        tokens = tokens.detach()
        answer = carried[-1][0] * self.answer_scale.value if carried else None
        queries = self.synthesis(tokens.shape[0], answer).to(tokens.dtype)
        tokens, queries, added = ask_block(self.base, self.own, arguments, tokens, queries)
        carried = (*carried, tuple(found.mean(dim=1, keepdim=True) for found in (queries, *added)))
        if not self.last:
            return tokens, carried
        return torch.cat([carried[-1][0], *(block[kind] for kind in range(3) for block in carried)], dim=1)


class Combination(nn.Module):
    """The vectors of all blocks [batch, number, width] -> features [batch, width], a mean weighted by the first one.

    The last norm starts as a copy of the network's own.
    """

    no_maps = CarriedReadout.no_maps

    def __init__(self, width: int, number: int, own_norm: nn.Module, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(width), Residual(width, hidden, dropout)
        self.weights = nn.Linear(width, number - 1)
        self.dropout, self.thinned = nn.Dropout(dropout), Thinned(nn.Identity(), DROP_PATH)
        self.norm_out = nn.LayerNorm(width)
        for name in ("weight", "bias"):
            if isinstance(start := getattr(own_norm, name, None), Tensor):
                setattr(self.norm_out, name, nn.Parameter(start.detach().clone()))

    def forward(self, vectors: Tensor) -> Tensor:
        vectors = vectors + self.mlp(self.norm(vectors))
        first, others = vectors[:, :1], vectors[:, 1:]
        weights = self.dropout(F.gelu(self.weights(first[:, 0]))).tanh().unsqueeze(2)
        others = self.thinned(others.flatten(0, 1)).view_as(others)
        features: Tensor = self.norm_out(torch.cat([first, weights * others], dim=1).mean(dim=1))
        return features


@METHODS.add("synqt")
@dataclass(frozen=True)
class SynQT(Method):
    """Q_l = S_l(P_l + c a_(l-1)) asks block l, and what all blocks answer a_l is combined to features.

    Queries [num_tokens, D] pass a residual bottleneck, a block of their own (attention among them with bottlenecks for
    its maps) and the frozen block's attention and MLP, as in VQT; no gradient runs through the token path. The answer,
    and what attention and MLP added to the queries, each a mean over the queries, go to the readout of 1 + 3 L vectors.
    All bottlenecks have a hidden width of `bottleneck`, those in the attention of `attn_bottleneck`. With h and a for
    these and t = `num_tokens`, L (D (t + 4 h + 8 a + 17) + 2 h + 4 a + 5) + D (2 h + 5) + h + 1 parameters. The
    released class has 2 D L + 3 L + 1 more that nothing reads.

    The release sets tokens and the three scales for each task; the defaults are those it takes most often.
    """

    family: ClassVar[str] = "side"
    paper: ClassVar[str] = "arXiv:2407.06964"
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "num_tokens"

    num_tokens: int = option(16, ge=1)
    bottleneck: int = option(48, ge=1)
    attn_bottleneck: int = option(8, ge=1)
    answer_scale: float = option(0.1, ge=0)
    attn_scale: float = option(0.1, ge=0)
    mlp_scale: float = option(0.1, ge=0)
    dropout: float = option(0.1, ge=0, lt=1)

    def attach(self, backbone: Backbone) -> None:
        shape = backbone.shape
        if shape.family != "vit":
            raise NotApplicable(
                f"{self.name} asks one token sequence in all blocks; {shape.family} has windows or maps"
            )
        scale = share(backbone, "answer_scale", AnswerScale(self.answer_scale))
        for site in backbone.sites("block"):
            synthesis, last = Synthesis(shape.width, self), site.layer == shape.depth - 1
            site.wrap(partial(SynthesisedQueries, synthesis=synthesis, answer_scale=scale, last=last))
        norms = [site for site in backbone.all_sites if site.shape.role == "norm.final"]
        own = norms[-1].module if norms else nn.Identity()
        for site in norms:
            site.wrap(Unused)
        backbone.readout = Combination(shape.width, 1 + 3 * shape.depth, own, self.bottleneck, self.dropout)

    def expected_params(self, shape: BackboneShape) -> int:
        width, depth = shape.width, shape.depth
        wide, narrow = (2 * width * hidden + hidden + width for hidden in (self.bottleneck, self.attn_bottleneck))
        block = self.num_tokens * width + 2 * wide + 4 * narrow + 8 * width + 2
        return depth * block + 1 + wide + 4 * width + 3 * depth * (width + 1)

    def inert(self, backbone: Backbone) -> dict[str, slice]:
        """What shifts all keys alike, which softmax cancels; with one query, which sees itself alone, all of both."""
        dead = ["attn.q.", "attn.k.", "attn.norm_q."] if self.num_tokens == 1 else ["attn.k.up.bias"]
        return {
            name: slice(None) for name, _ in backbone.trainable if any(f".synthesis.{part}" in name for part in dead)
        }
