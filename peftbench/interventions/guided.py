"""Prompts that stand for groups of classes, what an objective sees of them, and how classes are grouped."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import BackboneShape
from peftbench.interventions.attention import require_plain
from peftbench.interventions.block import halves
from peftbench.interventions.tokens import InsertTokens, strip_tokens

# of k-means, as DA-VPT's code has it
ROUNDS, TOLERANCE = 20, 1e-4
Watched = Tensor | tuple[Tensor, tuple[Tensor, ...]]


def grouped(means: Tensor, number: int, centroids: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Classes in `number` groups by k-means under the cosine: centroids [number, width], group of each class [classes].

    means: [classes, width], a row of zeros where nothing was seen of a class, which gets a random group; the others are
    normed like a LayerNorm does. Starts from `centroids`, or from `number` classes drawn at random.
    """
    known = (means != 0).any(dim=1)
    rows = F.layer_norm(means[known], means.shape[1:])
    if centroids is None:
        centroids = rows[torch.randperm(len(rows))[:number].to(rows.device)]
    for _ in range(ROUNDS):
        nearest = F.cosine_similarity(rows[:, None], centroids[None], dim=2).argmax(dim=1)
        moved = centroids.clone()
        for group in nearest.unique():
            moved[group] = rows[nearest == group].mean(dim=0)
        still = bool((centroids - moved).norm(dim=1).sum() < TOLERANCE)
        if still:
            break
        centroids = moved
    groups = torch.randint(number, (len(means),)).to(means.device)
    groups[known] = nearest
    return centroids, groups


class Guidance(nn.Module):
    """Which prompt each class belongs to (`groups` [classes]), and the sums of features that an epoch adds up for it.

    Belongs to training alone and to no adapter. Groups move at the ends of epochs from `renew_from` on, counted from 0;
    never where that is 0 or each class has a prompt.
    """

    groups: Tensor
    centroids: Tensor
    sums: Tensor
    counts: Tensor

    def __init__(self, groups: Tensor, centroids: Tensor) -> None:
        super().__init__()
        width = centroids.shape[1]
        sums = {"sums": centroids.new_zeros(len(groups), width), "counts": centroids.new_zeros(len(groups))}
        for name, tensor in {"groups": groups.long().clone(), "centroids": centroids.clone(), **sums}.items():
            self.register_buffer(name, tensor, persistent=False)
        # the objective sets the first; k-means starts anew where all classes once fell into one group
        self.renew_from, self.begun, self.epoch = 0, True, 0

    @torch.no_grad()
    def add(self, features: Tensor, labels: Tensor) -> None:
        """features: [batch, width]. The same work in every step, so that steps can be replayed."""
        self.sums.index_add_(0, labels, features.to(self.sums.dtype))
        self.counts.index_add_(0, labels, torch.ones_like(labels, dtype=self.counts.dtype))

    @torch.no_grad()
    def renew(self) -> None:
        """Group the classes anew by what was added since the last call, at the end of an epoch."""
        moves = 0 < self.renew_from <= self.epoch and len(self.centroids) < len(self.groups)
        if moves and int((self.counts > 0).sum()) >= len(self.centroids):
            means = self.sums / self.counts.clamp(min=1)[:, None]
            centroids, groups = grouped(means, len(self.centroids), self.centroids if self.begun else None)
            self.begun = len(groups.unique()) > 1
            if self.begun:
                self.centroids.copy_(centroids)
                self.groups.copy_(groups)
        self.sums.zero_()
        self.counts.zero_()
        self.epoch += 1


class GuidedTokens(InsertTokens):
    """A block with prompts that an objective may watch (`watched`), in training only.

    What it then sees goes with the tokens, two more of each such block: the mean of its patches and the class token's
    query. The last block gives all of them behind the sequence, [batch, length + 2 blocks, width].
    """

    def __init__(self, base: nn.Module, shape: BackboneShape, start: Tensor, dropout: float, last: bool) -> None:
        number, width = start.shape
        super().__init__(base, number, width, shape.patch_size, shape.num_prefix_tokens, dropout, True, start=start)
        require_plain(base.get_submodule("attn"))
        self.last, self.watched = last, False

    def forward(self, x: Watched, **arguments: Any) -> Watched:  # type: ignore[override]
        tokens, kept = x if isinstance(x, tuple) else (x, ())
        prompts = self.inserted(tokens.shape[0]).to(tokens.dtype)
        tokens = torch.cat([tokens[:, : self.num_prefix], prompts, tokens[:, self.num_prefix :]], dim=1)
        if self.watched and self.training:
            kept = (*kept, self._seen(tokens))
        tokens = strip_tokens(self.base(tokens, **arguments), self.num_prefix, prompts.shape[1])
        if not kept:
            return tokens
        return torch.cat([tokens, *kept], dim=1) if self.last else (tokens, kept)

    def _seen(self, tokens: Tensor) -> Tensor:
        patches = tokens[:, self.num_prefix + self.tokens.shape[1] :].mean(dim=1, keepdim=True)
        block: Any = self.base
        query = block.attn.qkv(halves(block, {})["attn"].norm(tokens[:, :1]))[..., : tokens.shape[2]]
        return torch.cat([patches, query.to(patches.dtype)], dim=1)

    def map_of(self, out: Watched) -> Tensor:
        return out[0] if isinstance(out, tuple) else out
