"""E2VPT (Han et al., ICCV 2023, arXiv:2307.13770): prompts in the sequence, and prompts among keys and values."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import AttentionHook, InsertTokens, hook_attention, refer, share
from peftbench.methods.base import METHODS, Method
from peftbench.methods.observation import Evidence, Findings
from peftbench.methods.vpt import token_sequence

# of a prompt: piece i holds its channels i, i + 16, ...
PIECES = 16
# that every prompt keeps, and prompts that stay, as released
LEAST_PIECES, LEAST_TOKENS = 4, 1
_AT_ONCE = 32


class KeyValuePrompts(AttentionHook):
    """K' = [P; K], V' = [P; V] with one P [heads, num_tokens, head_dim] for both, behind the projections.

    Kaiming-uniform as a tensor of three axes. Dropout takes other entries in each image, for keys and for values.
    """

    def __init__(self, num_heads: int, num_tokens: int, head_dim: int, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(num_heads, num_tokens, head_dim))
        bound = math.sqrt(6 / (num_tokens * head_dim))
        nn.init.uniform_(self.tokens, -bound, bound)
        self.dropout = nn.Dropout(dropout)

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = (self.dropout(self.tokens.expand(k.shape[0], -1, -1, -1)).to(k.dtype) for _ in range(2))
        return torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)


class Masks(nn.Module):
    """Factors of prompts and of their pieces, the same for all blocks: `tokens` [number], `pieces` [number, 16].

    Ones that train, or fixed zeros and ones of what is `kept`, {"tokens", "pieces"}.
    """

    tokens: Tensor
    pieces: Tensor

    def __init__(self, number: int, kept: Findings | None = None, device: torch.device | None = None) -> None:
        super().__init__()
        for name, size in (("tokens", (number,)), ("pieces", (number, PIECES))):
            if kept is None:
                self.register_parameter(name, nn.Parameter(torch.ones(size)))
            else:
                self.register_buffer(name, kept[name].to(device, torch.float32), persistent=False)

    def forward(self, prompts: Tensor) -> Tensor:
        """Prompts [batch, number, width]."""
        return prompts * self.of(prompts.shape[2]).to(prompts.dtype)

    def of(self, width: int) -> Tensor:
        """The factor of every entry, [number, width]."""
        channels = torch.arange(width, device=self.pieces.device) % PIECES
        return self.tokens.unsqueeze(1) * self.pieces[:, channels]


class MaskedTokens(InsertTokens):
    """Learnable tokens that enter multiplied by masks, behind dropout."""

    masks: Masks

    def __init__(self, base: nn.Module, masks: Masks, *sizes: Any, **options: Any) -> None:
        super().__init__(base, *sizes, **options)
        refer(self, "masks", masks)

    def inserted(self, batch: int) -> Tensor:
        masked: Tensor = self.masks(super().inserted(batch))
        return masked


@METHODS.add("e2vpt")
@dataclass(frozen=True)
class E2VPT(Method):
    """VPT-deep, and t prompts ahead of the keys and of the values of every block, the same for both.

    L (p D + t D) parameters. With a `token_share` or a `piece_share` a first training with the cell's recipe, on the
    images that searches train on, comes ahead; masks on the prompts, one number each and one for each of 16 pieces of a
    prompt, the same in all blocks, train with it. At its end the gradients of the loss of the masks are summed over the
    training images; that share of prompts, and of every prompt's pieces, whose sums are smallest is left out (one
    prompt stays, and four pieces of each) and all starts anew. The published numbers try shares of 10 to 90 % of both
    on val200. What is left out is counted, and gets no gradient.
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "arXiv:2307.13770"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "Prompts are not pruned unless `token_share` or `piece_share` say how many, which the paper tries out."
    )
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "num_tokens"

    num_tokens: int = option(10, ge=1)
    num_key_values: int = option(5, ge=1)
    dropout: float = option(0.1, ge=0, lt=1)
    key_value_dropout: float = option(0.0, ge=0, lt=1)
    token_share: float = option(0.0, ge=0, lt=1, later=True)
    piece_share: float = option(0.0, ge=0, lt=1, later=True)

    @property
    def looks_first(self) -> bool:
        return self.token_share > 0 or self.piece_share > 0

    def observe(self, evidence: Evidence) -> Findings:
        """What is kept, `tokens` [num_tokens] and `pieces` [num_tokens, 16], and the `importance` of all prompts."""
        backbone = copy.deepcopy(evidence.backbone)
        masks = share(backbone, "masks", Masks(self.num_tokens).to(backbone.device))
        self._insert(backbone, masks)
        model = evidence.classifier(backbone)
        evidence.fit(model, evidence.loss, evidence.epochs)
        model.eval()
        of_masks = [masks.tokens, masks.pieces]
        sums = [torch.zeros_like(mask) for mask in of_masks]
        for batch in evidence.images(_AT_ONCE):
            for total, slope in zip(sums, torch.autograd.grad(evidence.loss(model, batch), of_masks), strict=True):
                total += slope
        tokens, pieces = (total.detach().cpu() for total in sums)
        return {
            "tokens": kept(tokens, int(self.num_tokens * self.token_share), LEAST_TOKENS),
            "pieces": kept(pieces, int(PIECES * self.piece_share), LEAST_PIECES),
            "importance": tokens,
        }

    def attach(self, backbone: Backbone) -> None:
        self._insert(backbone, None)

    def attach_with(self, backbone: Backbone, findings: Findings) -> None:
        self._insert(backbone, share(backbone, "masks", Masks(self.num_tokens, findings, backbone.device)))

    def _insert(self, backbone: Backbone, masks: Masks | None) -> None:
        shape = backbone.shape
        blocks = token_sequence(self.name, backbone)
        for site in backbone.sites("attn"):
            head_dim = shape.width // shape.num_heads
            hook = KeyValuePrompts(shape.num_heads, self.num_key_values, head_dim, self.key_value_dropout)
            site.wrap(partial(hook_attention, hooks=[hook]))
        made: Callable[..., nn.Module] = InsertTokens if masks is None else partial(MaskedTokens, masks=masks)
        sizes: dict[str, Any] = {
            "num_tokens": self.num_tokens,
            "width": shape.width,
            "patch_size": shape.patch_size,
            "num_prefix": shape.num_prefix_tokens,
            "dropout": self.dropout,
        }
        for site in blocks:
            site.wrap(partial(made, strip=True, **sizes))

    def expected_params(self, shape: BackboneShape) -> int:
        return shape.depth * (self.num_tokens + self.num_key_values) * shape.width

    def inert(self, backbone: Backbone) -> dict[str, Tensor]:
        """Prompts, and pieces of them, that are left out."""
        blocks = [site.module for site in backbone.sites("block")]
        masked = {id(block.tokens): block.masks for block in blocks if isinstance(block, MaskedTokens)}
        return {
            name: (masked[id(tensor)].of(tensor.shape[2]) == 0).unsqueeze(0)
            for name, tensor in backbone.trainable
            if id(tensor) in masked
        }

    def summary(self, findings: Findings) -> dict[str, Any]:
        return {"prompts": int(findings["tokens"].sum()), "pieces_of_each": int(findings["pieces"][0].sum())}


def kept(scores: Tensor, number: int, least: int) -> Tensor:
    """Which entries of the last axis stay, uint8: all but the `number` smallest, `least` at the least."""
    number = max(min(number, scores.shape[-1] - least), 0)
    order = scores.sort(dim=-1, stable=True).indices
    return torch.ones_like(scores, dtype=torch.uint8).scatter(-1, order[..., :number], 0)
