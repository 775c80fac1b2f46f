"""Gated prompt tuning (Yoo et al., ICML 2023, arXiv:2306.05067): blocks change prompts as far as gates let them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape, Readout
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import AttentionHook, InsertTokens, Intervention, StripTokens, hook_attention
from peftbench.methods.base import METHODS, Method
from peftbench.methods.vpt import token_sequence

# of a temperature, as released
COLDEST, HOTTEST = 0.01, 10.0


class GatedTokens(Intervention):
    """A block behind which its prompts are g P_out + (1 - g) P_in, g = sigmoid(`logit`); the other tokens stay.

    x: [batch, prefix + num_tokens + patches, width].
    """

    def __init__(self, base: nn.Module, num_tokens: int, num_prefix: int, gate_init: float) -> None:
        super().__init__(base)
        self.logit = nn.Parameter(torch.tensor([-gate_init]))
        self.prompts = slice(num_prefix, num_prefix + num_tokens)

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        y = self.base(x, **arguments)
        gate = self.logit.sigmoid()
        mixed = gate * y[:, self.prompts] + (1 - gate) * x[:, self.prompts]
        return torch.cat([y[:, : self.prompts.start], mixed.to(y.dtype), y[:, self.prompts.stop :]], dim=1)


class Temperature(AttentionHook):
    """softmax(q k^T / (t sqrt(d))) with one trained t, 1 at the start and set back to [0.01, 10] ahead of each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(1))

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            self.temperature.clamp_(COLDEST, HOTTEST)
        return (k / self.temperature).to(k.dtype), v


class WithPrompts(Readout):
    """The network's own average over all that stands behind its prefix: patches and prompts."""

    no_maps = "prompts stay among its patches, so that they lie on no grid: set method.pool_prompts=false"


@METHODS.add("gated_prompt")
@dataclass(frozen=True)
class GatedPrompt(Method):
    """VPT-shallow whose tokens each block but the last changes as far as its gate lets it, and a temperature a block.

    Gates are sigmoid(-`gate_init`) at the start, almost shut, so that all blocks see nearly the same prompts. p D + 2 L
    - 1 parameters. Prompts are left out of an average over patches, as of every prompt method here; the released code,
    made for MAE and MoCo, averages them in: `pool_prompts`, for networks that pool patches.
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "arXiv:2306.05067"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "Prompts are left out of an average over patches unless `pool_prompts`, where the release averages them in."
    )
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "num_tokens"

    num_tokens: int = option(100, ge=1)
    dropout: float = option(0.1, ge=0, lt=1)
    gate_init: float = option(5.0, ge=0)
    pool_prompts: bool = option(False, later=True)

    def attach(self, backbone: Backbone) -> None:
        shape = backbone.shape
        blocks, prefix = token_sequence(self.name, backbone), shape.num_prefix_tokens
        if self.pool_prompts:
            if backbone.num_pooled is not None or type(backbone.readout) is not Readout:
                raise NotApplicable(f"{self.name} pools prompts with patches, which this network does not pool")
            backbone.readout = WithPrompts(backbone.net)
        for site in backbone.sites("attn"):
            site.wrap(partial(hook_attention, hooks=[Temperature()]))
        for site in blocks[:-1]:
            site.wrap(lambda block: GatedTokens(block, self.num_tokens, prefix, self.gate_init))
        # around the gate: what it mixes is there by then
        blocks[0].wrap(
            lambda block: InsertTokens(
                block,
                self.num_tokens,
                shape.width,
                shape.patch_size,
                prefix,
                self.dropout,
                strip=len(blocks) == 1 and not self.pool_prompts,
            )
        )
        if len(blocks) > 1 and not self.pool_prompts:
            blocks[-1].wrap(lambda block: StripTokens(block, self.num_tokens, prefix))

    def expected_params(self, shape: BackboneShape) -> int:
        return self.num_tokens * shape.width + 2 * shape.depth - 1
