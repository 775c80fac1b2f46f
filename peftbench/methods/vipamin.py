"""VIPAMIN (Park and Chung, NeurIPS 2025, arXiv:2510.16446): prompts that start at patches and beyond their span."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.exact import exact
from peftbench.foundation.spec import option
from peftbench.interventions import InsertTokens
from peftbench.interventions.tokens import prompt_bound
from peftbench.methods.base import METHODS
from peftbench.methods.observation import Evidence, Findings
from peftbench.methods.vpt import Started, token_sequence

_AT_ONCE = 32


class Mean:
    """The mean over images of what one module is given or makes, without a gradient: a hook ahead of it or behind."""

    def __init__(self, place: str, module: Any) -> None:
        self._sum, self._number = torch.zeros(()), 0
        register = module.register_forward_pre_hook if place == "ahead" else module.register_forward_hook
        self.remove = register(self._add).remove

    def _add(self, module: Any, arguments: tuple[Tensor, ...], made: Tensor | None = None) -> None:
        x = exact(arguments[0] if made is None else made)
        self._sum, self._number = self._sum + x.sum(dim=0).cpu(), self._number + len(x)

    @property
    def value(self) -> Tensor:
        """[length, width], on the CPU."""
        return self._sum / self._number


@METHODS.add("vipamin")
@dataclass(frozen=True)
class VIPAMIN(Started):
    """VPT whose prompts start at (1 - `expansion`) M + `expansion` E, one pass over the training images says where.

    M, matching: a random prompt becomes the mean of the `num_matched` patches whose keys are nearest to its own, by the
    cosine of keys that are means over images and heads. E, expanding: the value of a random prompt loses its part in
    the span of what the frozen attention brings its tokens back, ahead of the output projection, and is turned into a
    prompt by W_v^-1, past the norm. p D parameters of the shallow form, L p D of the deep one (20 prompts in the
    paper). The release tries 2, 8, 32 and 128 patches and expansions of 0, 0.5 and 1 for each task, and multiplies by
    the transposed inverse, `inverse: released`.
    """

    paper: ClassVar[str] = "arXiv:2510.16446"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "Means are of all training images as they are, where the release takes one random batch of 256, augmented."
    )

    num_tokens: int = option(100, ge=1)
    deep: bool = option(False)
    num_matched: int = option(8, ge=1)
    expansion: float = option(0.5, ge=0, le=1)
    inverse: str = option("exact", choices=("exact", "released"))
    dropout: float = option(0.0, ge=0, lt=1)

    def observe(self, evidence: Evidence) -> Findings:
        """Tokens [num_tokens, width] for each block that gets prompts, under its number."""
        shape, bare = evidence.backbone.shape, evidence.backbone
        layers = range(len(token_sequence(self.name, bare)) if self.deep else 1)
        self._refuse(bare)
        plain, prompted = (copy.deepcopy(bare).eval() for _ in range(2))
        sizes = self.num_tokens, shape.width, shape.patch_size, shape.num_prefix_tokens
        for site in prompted.sites("block", layers):
            site.wrap(lambda block: InsertTokens(block, *sizes, dropout=0.0, strip=True))
        prompted.to(next(bare.parameters()).device)
        with ExitStack() as hooks, torch.no_grad():
            given, mapped, mixed = (
                [Mean(place, site.module) for site in network.sites(role, layers)]
                for network, role, place in (
                    (prompted, "block", "ahead"),
                    (prompted, "attn.qkv", "behind"),
                    (plain, "attn.proj", "ahead"),
                )
            )
            for mean in (*given, *mapped, *mixed):
                hooks.callback(mean.remove)
            for batch in evidence.images(_AT_ONCE):
                for network in (prompted, plain) if self.expansion else (prompted,):
                    network(*(batch[name] for name in network.inputs))
        found = {}
        for layer, attention, qkv in zip(layers, bare.sites("attn"), bare.sites("attn.qkv"), strict=False):
            keys = mapped[layer].value.chunk(3, dim=1)[1].unflatten(1, (attention.module.num_heads, -1)).mean(dim=1)
            prefix = shape.num_prefix_tokens
            start = self.matched(keys[prefix:], given[layer].value[prefix:])
            if self.expansion:
                expanded = self.expanded(mixed[layer].value, qkv.module, prompt_bound(shape.patch_size, shape.width))
                start = (1 - self.expansion) * start + self.expansion * expanded
            found[str(layer)] = start
        return found

    def _refuse(self, backbone: Backbone) -> None:
        """Raises `NotApplicable` where patches or directions do not suffice."""
        shape, length = backbone.shape, backbone.shape.num_prefix_tokens + backbone.shape.num_patches
        if len(backbone.sites("attn.qkv")) < shape.depth:
            raise NotApplicable(f"{self.name} compares keys of all heads, which grouped queries do not have")
        if self.num_matched > shape.num_patches:
            raise NotApplicable(f"method.num_matched = {self.num_matched} is more than the {shape.num_patches} patches")
        if self.expansion and length >= shape.width:
            raise NotApplicable(
                f"{length} tokens leave none of {shape.width} directions to expand into; set method.expansion=0"
            )

    def matched(self, keys: Tensor, patches: Tensor) -> Tensor:
        """Prompts [num_tokens, width] of keys [num_tokens + number, head_dim] and the patches [number, width]."""
        units = F.normalize(keys, dim=1)
        nearest = (units[: self.num_tokens] @ units[self.num_tokens :].T).topk(self.num_matched).indices
        return patches[nearest].mean(dim=1)

    def expanded(self, mixed: Tensor, qkv: Any, bound: float) -> Tensor:
        """Prompts [num_tokens, width] of what attention brings back [length, width] and U(-bound, bound)."""
        weight = exact(qkv.weight.detach()).chunk(3)[2].cpu()
        bias = 0.0 if qkv.bias is None else exact(qkv.bias.detach()).chunk(3)[2].cpu()
        drawn = torch.empty(self.num_tokens, weight.shape[1], dtype=weight.dtype, device="cpu")
        values = drawn.uniform_(-bound, bound) @ weight.T + bias
        basis = torch.linalg.qr(mixed.T).Q
        beyond = values - (values @ basis) @ basis.T
        inverse = torch.linalg.pinv(weight)
        expanded: Tensor = (beyond - bias) @ (inverse.T if self.inverse == "exact" else inverse)
        return expanded
