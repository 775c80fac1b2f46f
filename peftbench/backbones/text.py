"""Text towers: a transformer over token ids, with the sites and roles that methods know from image towers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import QuickGELU
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape, InputSpec, Site, SiteShape
from peftbench.backbones.families import transformer_sites
from peftbench.backbones.text_options import TextSpec

_ACTIVATIONS = {"quick_gelu": QuickGELU, "gelu": nn.GELU, "gelu_tanh": partial(nn.GELU, approximate="tanh")}


class TextNet(nn.Module):
    """Pre-norm timm blocks over embedded tokens; causal for CLIP, where no token sees those behind it.

    Names of tensors are those of a timm VisionTransformer as far as it has them.
    """

    def __init__(self, spec: TextSpec) -> None:
        super().__init__()
        self.spec = spec
        norm = partial(nn.LayerNorm, eps=spec.norm_eps)
        self.token_embed = nn.Embedding(spec.num_tokens, spec.width)
        self.pos_embed = nn.Parameter(torch.empty(1, spec.context, spec.width))
        act = _ACTIVATIONS[spec.activation]
        self.blocks = nn.ModuleList(
            Block(spec.width, spec.num_heads, spec.mlp_width / spec.width, True, norm_layer=norm, act_layer=act)
            for _ in range(spec.depth)
        )
        self.norm = norm(spec.width)
        self._initialise()

    def _initialise(self) -> None:
        """As CLIP starts (openai/CLIP, `initialize_parameters`), but for biases of the MLPs: zero, as all others."""
        nn.init.normal_(self.token_embed.weight, std=0.02)
        nn.init.normal_(self.pos_embed, std=0.01)
        inner = self.spec.width**-0.5
        residual = inner * (2 * self.spec.depth) ** -0.5
        for block in self.blocks:
            stds = {"attn.qkv": inner, "attn.proj": residual, "mlp.fc1": (2 * self.spec.width) ** -0.5}
            for name, std in (stds | {"mlp.fc2": residual}).items():
                linear: Any = block.get_submodule(name)
                nn.init.normal_(linear.weight, std=std)
                nn.init.zeros_(linear.bias)

    def forward(self, embedded: Tensor, ahead: Tensor | None = None) -> Tensor:
        """Embedded tokens [texts, length, width], without positions -> tokens behind the final norm, same shape.

        ahead: tokens [texts, number, width] of another kind that stand before them and have no positions here.
        """
        x = embedded + self.pos_embed[:, : embedded.shape[1]].to(embedded.dtype)
        if ahead is not None:
            x = torch.cat([ahead.to(x.dtype), x], dim=1)
        for block in self.blocks:
            x = block(x, is_causal=self.spec.causal)
        normed: Tensor = self.norm(x)
        return normed if ahead is None else normed[:, ahead.shape[1] :]


class TextTower(Backbone):
    """`forward(ids)`: token ids int64 [texts, length] -> features [texts, width], ahead of the pair's projection.

    A causal tower reads them where the text ends, at its end token, which has the highest of all ids; others at their
    last position.
    """

    inputs = ("text",)

    def __init__(self, net: TextNet, shape: BackboneShape, sites: Sequence[Site]) -> None:
        super().__init__(net, shape, sites, InputSpec(0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "none"))
        self.spec = net.spec

    def forward(self, ids: Tensor) -> Tensor:
        return self.read(self.embed(ids), self.ends(ids))

    def embed(self, ids: Tensor) -> Tensor:
        """[texts, length] -> [texts, length, width], without positions."""
        embedded: Tensor = self.net.token_embed(ids)  # type: ignore[operator]
        return embedded

    def ends(self, ids: Tensor) -> Tensor:
        """Where the feature of each text is read, [texts]."""
        if self.spec.causal:
            return ids.argmax(dim=-1)
        return torch.full(ids.shape[:-1], ids.shape[-1] - 1, device=ids.device)

    def cut(self, ids: Tensor) -> Tensor:
        """Without the columns behind the end of the longest text, where no feature depends on them."""
        return ids[:, : int(self.ends(ids).max()) + 1] if self.spec.causal else ids

    def read(self, embedded: Tensor, ends: Tensor, ahead: Tensor | None = None) -> Tensor:
        """Features of texts given as embedded tokens [texts, length, width], read at `ends` [texts].

        `ahead` as in `TextNet.forward`: what the texts are read behind.
        """
        before = 0 if ahead is None else ahead.shape[1]
        self.lengths = before + ends + 1 if self.spec.causal else None
        tokens: Tensor = self.net(embedded) if ahead is None else self.net(embedded, ahead)
        return tokens[torch.arange(len(tokens), device=tokens.device), ends]

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return (self.spec.context,)

    @property
    def num_pooled(self) -> int | None:
        return None


def build_text(spec: TextSpec) -> TextTower:
    """A text tower with the starting weights of pretraining, frozen."""
    net = TextNet(spec)
    sites = [site for layer in range(spec.depth) for site in transformer_sites(net.blocks, str(layer), layer)]
    sites.append(Site(net, "norm", SiteShape("norm.final", -1, spec.width, spec.width, True, 2 * spec.width)))
    shape = BackboneShape(
        family="text",
        width=spec.width,
        depth=spec.depth,
        num_heads=spec.num_heads,
        patch_size=1,
        grid=(0, 0),
        num_prefix_tokens=1,
        num_parameters=sum(parameter.numel() for parameter in net.parameters()),
        sites=tuple(site.shape for site in sites),
        num_positions=spec.context,
    )
    tower = TextTower(net, shape, sites)
    tower.freeze()
    return tower
