"""Self-prompt tuning (Wang et al., ICML 2024, arXiv:2402.02382): prompts that start as patches of training images."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.exact import exact
from peftbench.foundation.spec import option
from peftbench.methods.base import METHODS
from peftbench.methods.observation import Batch, Evidence, Findings
from peftbench.methods.vpt import Started, token_sequence

POOLINGS = ("none", "mean", "max")


class Lot:
    """`number` rows drawn from all that are offered, each as likely as any other: those with the smallest of numbers
    drawn from U(0, 1).
    """

    def __init__(self, number: int) -> None:
        self._number, self._keys = number, torch.empty(0, device="cpu")
        self.rows: Batch = {}

    def offer(self, rows: Batch) -> None:
        """Tensors under the same names each time, of as many rows each."""
        keys = torch.cat([self._keys, torch.rand(len(next(iter(rows.values()))), device="cpu")])
        order = keys.argsort(stable=True)[: self._number]
        joined = {name: torch.cat([self.rows[name], more]) if self.rows else more for name, more in rows.items()}
        self._keys, self.rows = keys[order], {name: own[order.to(own.device)] for name, own in joined.items()}


@METHODS.add("self_prompt")
@dataclass(frozen=True)
class SelfPrompt(Started):
    """VPT whose prompts start as tokens that the frozen network makes of training images, drawn at random.

    Deep: those of block l are drawn from what the block is given, all but the prefix, block by block; shallow (`deep`
    false, 100 prompts in the paper): ahead of the first block only. There they are patches without their position.
    `pooling` draws among means or maxima of p - 1 windows of an image's patches and of the rest instead. L p D
    parameters, p D of the shallow form. The paper's k-means starts from files that were not released. The release saves
    a moving average of the weights beside them, which its test does not read; there is none here. Of networks that pool
    patches it averages the prompts in as well; here they are left out, as in `vpt_deep`.
    """

    paper: ClassVar[str] = "arXiv:2402.02382"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "Every training image is looked at once as it is, where the release draws images with replacement and augments "
        "them."
    )

    num_tokens: int = option(20, ge=1)
    deep: bool = option(True)
    pooling: str = option("none", choices=POOLINGS)
    dropout: float = option(0.0, ge=0, lt=1)
    batch_size: int = option(32, ge=1)

    def observe(self, evidence: Evidence) -> Findings:
        """Tokens [num_tokens, width] for each block that gets prompts, under its number."""
        backbone = copy.deepcopy(evidence.backbone).eval()
        blocks = len(token_sequence(self.name, backbone)) if self.deep else 1
        if self.pooling != "none" and not 2 <= self.num_tokens <= backbone.shape.num_patches + 1:
            raise NotApplicable(
                f"method.pooling={self.pooling} makes num_tokens - 1 windows of {backbone.shape.num_patches} patches"
            )
        lots: dict[int, Lot] = {}
        for batch in evidence.images(self.batch_size):
            for layer, tokens in enumerate(inputs_of_blocks(backbone, batch, blocks)):
                rows = exact(self.candidates(tokens)).flatten(0, 1)
                lots.setdefault(layer, Lot(self.num_tokens)).offer({"tokens": rows})
        if not lots or len(lots[0].rows["tokens"]) < self.num_tokens:
            raise NotApplicable(f"method.num_tokens = {self.num_tokens} is more than the training images have patches")
        return {str(layer): lot.rows["tokens"].cpu() for layer, lot in lots.items()}

    def candidates(self, tokens: Tensor) -> Tensor:
        """What is drawn from, [batch, number, width], of an image's patches [batch, length, width]."""
        if self.pooling == "none":
            return tokens
        length, windows = tokens.shape[1], self.num_tokens - 1
        size = length // windows
        parts = [tokens[:, start : start + size] for start in range(0, windows * size, size)]
        # as released: of all patches where the windows leave none over
        parts.append(tokens[:, length - length % size :] if length % size else tokens)
        pooled = [part.mean(dim=1) if self.pooling == "mean" else part.amax(dim=1) for part in parts]
        return torch.stack(pooled, dim=1)


@torch.no_grad()
def inputs_of_blocks(backbone: Backbone, batch: Batch, number: int) -> list[Tensor]:
    """Tokens [batch, patches, width] that the first `number` blocks are given, without the prefix.

    Those of the first are patches as they are embedded, ahead of their position and behind a norm that stands before
    the blocks.
    """
    net: Any = backbone.net
    seen: list[Tensor] = []
    sources = [net.patch_embed, *(site.module for site in backbone.sites("block")[: number - 1])]
    with ExitStack() as hooks:
        for module in sources:
            hooks.callback(module.register_forward_hook(lambda *call: seen.append(call[-1])).remove)
        backbone(*(batch[name] for name in backbone.inputs))
    first, *later = seen
    patches = getattr(net, "norm_pre", nn.Identity())(first.flatten(1, -2))
    return [patches, *(tokens[:, backbone.shape.num_prefix_tokens :] for tokens in later)]
