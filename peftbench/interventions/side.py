"""A network beside the frozen one: what it reads of the blocks, and what it hands on from block to block.

Nothing is stored on a module during the forward pass. A wrapped block receives (stream, state) from the block
before it and gives the pair to the next; the last one lets only the stream go on. Two passes at the same time,
recomputation under gradient checkpointing and copies of the model therefore cannot mix their states.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from peftbench.backbones.base import Readout
from peftbench.interventions.base import Intervention

Carried = Tensor | tuple[Tensor, Any]


class SideBlock(Intervention):
    """A frozen block and one step of the network beside it.

    `step(x, y, state)` sees the block's input and output and returns the stream and the state for the next block;
    the state is None at the first one. With `detach`, no gradient leaves the block through its input. As a map stands
    the stream, or what `step.map_of(stream, state)` makes of the pair.
    """

    def __init__(self, base: nn.Module, step: nn.Module, last: bool, detach: bool = False) -> None:
        super().__init__(base)
        self.step = step
        self.last, self.detach = last, detach

    def forward(self, x: Carried, **arguments: Any) -> Carried:
        stream, state = x if isinstance(x, tuple) else (x, None)
        if self.detach:
            stream = stream.detach()
        y, state = self.step(stream, self.base(stream, **arguments), state)
        return y if self.last else (y, state)

    def map_of(self, output: Carried) -> Tensor:
        if not isinstance(output, tuple):
            return output
        joined: Any = getattr(self.step, "map_of", None)
        found: Tensor = output[0] if joined is None else joined(*output)
        return found


class MeanPatch(Intervention):
    """The last block of a plain transformer, whose output is one token: the mean of the patches, [batch, 1, width].

    The final norm then sees the mean, where a mean behind the norm would see normalised patches. Maps are of the
    patches.
    """

    def __init__(self, base: nn.Module, num_prefix: int) -> None:
        super().__init__(base)
        self.num_prefix = num_prefix

    @property
    def mapped(self) -> nn.Module:
        """The module that still gives all tokens."""
        return self.base

    def forward(self, x: Carried, **arguments: Any) -> Tensor:
        return self.base(x, **arguments)[:, self.num_prefix :].mean(dim=1, keepdim=True)


class OnlyToken(Readout):
    """Features of a sequence that is one token, behind the norm that some plain transformers have after pooling."""

    def forward(self, tokens: Tensor) -> Tensor:
        pooled: Tensor = self.net.fc_norm(tokens[:, 0])
        return pooled


def small_block(width: int, num_heads: int, hidden: int) -> Block:
    """A pre-norm transformer block of its own: matrices from a truncated normal of std 0.02, biases zero.

    12 width^2 + 13 width parameters for hidden = 4 width.
    """
    block = Block(width, num_heads, mlp_ratio=hidden / width, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6))
    init_linears(block)
    return block


def init_linears(root: nn.Module) -> None:
    """Every linear map below `root`: weight from a truncated normal of std 0.02, bias zero."""
    for module in root.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class MetaTokens(Intervention):
    """A block that sees its own learnable tokens ahead of the sequence; they are cut off and kept for a side network.

    tokens: [batch, length, width] -> the same, and in the state one pair per block so far: the block's own tokens
    [batch, num_tokens, width] and the whole output behind them.
    """

    def __init__(self, base: nn.Module, num_tokens: int, width: int) -> None:
        super().__init__(base)
        self.tokens = nn.Parameter(torch.empty(1, num_tokens, width))
        nn.init.xavier_uniform_(self.tokens)

    def forward(self, x: Carried, **arguments: Any) -> Carried:
        stream, kept = x if isinstance(x, tuple) else (x, ())
        own = self.tokens.expand(stream.shape[0], -1, -1).to(stream.dtype)
        y = self.base(torch.cat([own, stream], dim=1), **arguments)
        own, y = y[:, : own.shape[1]], y[:, own.shape[1] :]
        return y, (*kept, (own, y))


class Unused(Intervention):
    """A module that the method's network goes around: what comes in goes out."""

    def forward(self, x: Carried) -> Carried:
        return x


class WithImages(Intervention):
    """A timm model whose features come with the images, for a readout that looks at the pixels as well."""

    def forward_features(self, images: Tensor) -> tuple[Tensor, Any]:
        return images, self.base.forward_features(images)  # type: ignore[operator]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.base.set_grad_checkpointing(enable)  # type: ignore[operator]
