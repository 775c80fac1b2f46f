"""AttnScale with DRA (Basu et al., AAAI 2024, arXiv:2304.01917). Details unverified: see `AttnScale`."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import AttentionHook, Intervention, ValueScale, hook_attention
from peftbench.methods.base import METHODS, Method

# the layers whose outputs are those of the two halves of a block
OFFSETS = ("attn.proj", "mlp.fc2")


class ScaledProbabilities(AttentionHook):
    """alpha * softmax(q k^T / sqrt(d)), entry by entry, alpha [tokens, tokens] shared by the heads and 1 at first."""

    needs_probabilities = True

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(num_tokens, num_tokens))

    def rescale(self, probabilities: Tensor) -> Tensor:
        return probabilities * self.alpha.to(probabilities.dtype)


class Offset(Intervention):
    """y = base(x) + offset, a vector of the output's width that starts at zero."""

    def __init__(self, base: nn.Module, width: int) -> None:
        super().__init__(base)
        self.offset = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y + self.offset.to(y.dtype)

    def folded(self) -> nn.Module | None:
        if not isinstance(self.base, nn.Linear):
            return None
        plain = copy.deepcopy(self.base)
        bias = self.offset.clone() if plain.bias is None else plain.bias + self.offset
        plain.bias = nn.Parameter(bias, requires_grad=False)
        return plain


@dataclass(frozen=True)
class _Scaled(Method):
    """What both forms share: the plain transformer they need, and DRA's offsets."""

    family: ClassVar[str] = "reparametrisation"
    paper: ClassVar[str] = "arXiv:2304.01917"

    # DRA: a learnable offset on the output of attention and of the MLP
    offsets: bool = option(True)

    def _check(self, backbone: Backbone) -> None:
        if backbone.shape.family != "vit":
            raise NotApplicable(f"{self.name} scales one attention over all tokens; {backbone.shape.family} has none")

    def _attach_offsets(self, backbone: Backbone) -> None:
        for site in (site for role in OFFSETS if self.offsets for site in backbone.sites(role)):
            site.wrap(partial(Offset, width=site.shape.out_dim))

    def _offset_params(self, shape: BackboneShape) -> int:
        return sum(site.out_dim for site in shape.at(*OFFSETS)) if self.offsets else 0


@METHODS.add("attnscale")
@dataclass(frozen=True)
class AttnScale(_Scaled):
    """(alpha * softmax(q k^T / sqrt(d))) v with alpha [N, N] per block, and offsets on both halves of a block (DRA).

    The abstract says no more than that scaling parameters are learned for each attention matrix: where alpha acts
    (on the probabilities), that heads share it, and that the offsets lie inside LayerScale is this project's reading.
    The released code that DRA comes from, whose network has no LayerScale, adds them outside stochastic depth.
    N counts all tokens, so the number of parameters, L N^2 + 2 L D, depends on the image size.
    """

    faithfulness: ClassVar[str] = "details not published"

    def attach(self, backbone: Backbone) -> None:
        self._check(backbone)
        num_tokens = backbone.shape.num_patches + backbone.shape.num_prefix_tokens
        for site in backbone.sites("attn"):
            site.wrap(partial(hook_attention, hooks=[ScaledProbabilities(num_tokens)]))
        self._attach_offsets(backbone)

    def expected_params(self, shape: BackboneShape) -> int:
        return shape.depth * (shape.num_patches + shape.num_prefix_tokens) ** 2 + self._offset_params(shape)

    def inert(self, backbone: Backbone) -> dict[str, slice]:
        """The last block's rows of queries that the pooling does not read."""
        # an average reads the patches and leaves the prefix tokens out
        unread = slice(0, backbone.shape.num_prefix_tokens)
        if backbone.num_pooled is not None:
            unread = slice(backbone.num_pooled, None)
        elif not unread.stop:
            return {}
        (hook,) = backbone.sites("attn")[-1].module.hooks  # type: ignore[misc]
        names = {id(parameter): name for name, parameter in backbone.trainable}
        return {names[id(hook.alpha)]: unread}


@METHODS.add("attnscale_head")
@dataclass(frozen=True)
class AttnScaleHead(_Scaled):
    """AttnScale with one scalar per head in place of alpha [N, N]: independent of image size, and it folds.

    a_h softmax(...) v_h = softmax(...) (a_h v_h), so the scalars act on the rows of qkv that give the values. This
    light form is this project's, not the paper's. L H + 2 L D parameters.
    """

    mergeable: ClassVar[bool] = True
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = "One scalar per head in place of the paper's map over all token pairs."

    def attach(self, backbone: Backbone) -> None:
        self._check(backbone)
        for site in backbone.sites("attn.qkv"):
            site.wrap(partial(ValueScale, num_heads=backbone.shape.num_heads))
        self._attach_offsets(backbone)

    def expected_params(self, shape: BackboneShape) -> int:
        return shape.depth * shape.num_heads + self._offset_params(shape)
