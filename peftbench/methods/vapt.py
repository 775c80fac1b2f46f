"""VAPT (Le et al., ICLR 2026, arXiv:2501.18936): prompts that each block makes from the tokens it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import InsertTokens, Intervention, refer, share, strip_tokens
from peftbench.methods.base import METHODS, Method
from peftbench.methods.vpt import token_sequence


class Refinement(nn.Module):
    """p -> p + U dropout(relu(V p)) with V [hidden, width] and U [width, hidden], one for all blocks."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.down = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(hidden, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, prompts: Tensor) -> Tensor:
        refined: Tensor = prompts + self.up(self.dropout(F.relu(self.down(prompts))))
        return refined


class AdaptiveTokens(Intervention):
    """A block that is given prompts made of its own input's patches, and gives back its tokens without them.

    prompts = refine(linear(conv(patches of norm(x)))): `kernel` [size, size] slides over the map of patches, the same
    for all channels, and `mixing` takes the places that are left to `num_tokens`; it starts at zero, and so do the
    prompts. x: [batch, prefix + patches, width].
    """

    refinement: Refinement

    def __init__(
        self,
        base: nn.Module,
        shape: BackboneShape,
        refinement: Refinement,
        num_tokens: int,
        kernel_size: int,
        channel_dropout: float,
    ) -> None:
        super().__init__(base)
        refer(self, "refinement", refinement)
        self.norm = nn.LayerNorm(shape.width)
        self.kernel = nn.Parameter(torch.randn(kernel_size, kernel_size))
        rows, columns = (side - kernel_size + 1 for side in shape.grid)
        self.mixing = nn.Linear(rows * columns, num_tokens)
        nn.init.zeros_(self.mixing.weight)
        nn.init.zeros_(self.mixing.bias)
        # whole channels of an image
        self.dropout = nn.Dropout2d(channel_dropout)
        self.grid, self.num_prefix, self.num_tokens = shape.grid, shape.num_prefix_tokens, num_tokens

    def prompts(self, x: Tensor) -> Tensor:
        """What the block is given beside its tokens x, [batch, num_tokens, width]."""
        maps = self.norm(x)[:, self.num_prefix :].transpose(1, 2).unflatten(2, self.grid)
        kernel = self.kernel.expand(maps.shape[1], 1, -1, -1)
        gathered = self.dropout(F.conv2d(maps, kernel, groups=maps.shape[1])).flatten(2)
        return self.refinement(self.mixing(gathered).transpose(1, 2))

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        made = self.prompts(x).to(x.dtype)
        x = torch.cat([x[:, : self.num_prefix], made, x[:, self.num_prefix :]], dim=1)
        return strip_tokens(self.base(x, **arguments), self.num_prefix, self.num_tokens)


@METHODS.add("vapt")
@dataclass(frozen=True)
class VAPT(Method):
    """The first block gets learned tokens, as VPT; every later one p prompts made of the patches that it is given.

    p = `num_tokens`: a convolution shared by all channels, a linear map from the places to p, and a bottleneck of
    `hidden_dim` shared by all blocks. p D + 2 D h + (L - 1)(2 D + k^2 + p (P + 1)) parameters with P places left by the
    kernel of k = `kernel_size`: 55,608 on ViT-B/16. `dropout` is that of the learned tokens, `hidden_dropout` of the
    bottleneck, `channel_dropout` of the convolution's channels, all 0.1 in the released run. Not unchanged at the
    start: prompts of zeros are looked at too.
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "arXiv:2501.18936"
    identity_at_init: ClassVar[bool] = False
    version: ClassVar[int] = 2
    size_option: ClassVar[str] = "num_tokens"

    num_tokens: int = option(10, ge=1)
    hidden_dim: int = option(8, ge=1)
    kernel_size: int = option(2, ge=1)
    dropout: float = option(0.1, ge=0, lt=1)
    hidden_dropout: float = option(0.1, ge=0, lt=1)
    channel_dropout: float = option(0.1, ge=0, lt=1)

    def attach(self, backbone: Backbone) -> None:
        shape = backbone.shape
        first, *later = token_sequence(self.name, backbone)
        if shape.times > 1:
            raise NotApplicable(f"{self.name} reads tokens as one feature map; a clip's tubelets are one for each time")
        if min(shape.grid) < self.kernel_size:
            raise NotApplicable(
                f"method.kernel_size = {self.kernel_size} is more than the patches of a side here, {shape.grid}"
            )
        first.wrap(
            lambda block: InsertTokens(
                block, self.num_tokens, shape.width, shape.patch_size, shape.num_prefix_tokens, self.dropout, strip=True
            )
        )
        refinement = share(backbone, "refinement", Refinement(shape.width, self.hidden_dim, self.hidden_dropout))
        for site in later:
            site.wrap(
                lambda block: AdaptiveTokens(
                    block, shape, refinement, self.num_tokens, self.kernel_size, self.channel_dropout
                )
            )

    def expected_params(self, shape: BackboneShape) -> int:
        rows, columns = (side - self.kernel_size + 1 for side in shape.grid)
        each = 2 * shape.width + self.kernel_size**2 + self.num_tokens * (rows * columns + 1)
        return self.num_tokens * shape.width + 2 * shape.width * self.hidden_dim + (shape.depth - 1) * each
