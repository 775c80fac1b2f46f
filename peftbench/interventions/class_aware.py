"""Prompts of an image that are made of the classes it may show (DPT, arXiv:2208.08340, section 3.3).

The untouched image goes through the blocks beside the prompted one, so that what it says chooses the classes ahead of
the last block; between blocks stands the pair (prompted, untouched) of sequences [batch, length, width].
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.interventions.base import Intervention
from peftbench.interventions.shared import refer

Both = tuple[Tensor, Tensor]
# width of queries and keys, and of learned tokens among what is looked at (released code)
_KEYS, _LOOKED_AT = 32, 10
_STD = 0.02


class PromptedBeside(Intervention):
    """A block with tokens at the end of the prompted sequence, cut off behind it; the untouched one has none.

    The first such block takes one sequence and makes the pair of it.
    """

    def __init__(self, base: nn.Module, tokens: nn.Module) -> None:
        super().__init__(base)
        self.tokens = tokens

    def forward(self, x: Tensor | Both, **arguments: Any) -> Both:
        prompted, untouched = x if isinstance(x, tuple) else (x, x)
        with torch.no_grad():
            untouched = self.base(untouched, **arguments)
        tokens = self.tokens().to(prompted.dtype)
        entering = torch.cat([prompted, tokens.expand(prompted.shape[0], -1, -1)], dim=1)
        return self.base(entering, **arguments)[:, : -len(tokens)], untouched


class Said(NamedTuple):
    """What a training pass gave beside its features: what each prompt found in the image [batch, prompts, width], the
    classes that they are of, int64 [batch, prompts], and untouched image features [batch, joint].
    """

    found: Tensor
    chosen: Tensor
    untouched: Tensor


class ClassPrompts(nn.Module):
    """Class features [batch, prompts, joint], an image's tokens [batch, length, width] -> prompts and what they find.

    q = A w; o = V softmax(Q q (K z)^T / sqrt 32) z with z the image's tokens, without a gradient, and ten learned ones;
    prompts LN(o + q), and o itself: [batch, prompts, width] each.
    """

    def __init__(self, joint: int, width: int) -> None:
        super().__init__()
        self.to_query = nn.Linear(joint, width)
        self.query, self.key = (nn.Linear(width, _KEYS, bias=False) for _ in range(2))
        self.value = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.tokens = nn.Parameter(torch.empty(_LOOKED_AT, width).normal_(std=_STD))

    def forward(self, classes: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        asked = self.to_query(classes)
        seen = torch.cat([tokens.detach(), self.tokens.to(tokens.dtype).expand(tokens.shape[0], -1, -1)], dim=1)
        scores = self.query(asked) @ self.key(seen).transpose(1, 2) / math.sqrt(_KEYS)
        found = self.value(scores.softmax(dim=-1) @ seen)
        return self.norm(found + asked), found


class ClassAware(Intervention):
    """The last block, with prompts for the `number` classes that the untouched image is nearest to.

    known: features of the classes as the untouched pair reads them [classes, joint]. `reader`: the pair, which says
    what the classes are now and what an image's tokens behind the blocks are; `norm` is the one behind its blocks.
    `take` gives what the last training pass said to an objective, where one `listens`.
    """

    known: Tensor
    reader: Any
    norm: nn.Module

    def __init__(
        self,
        base: nn.Module,
        prompts: ClassPrompts,
        known: Tensor,
        number: int,
        reader: nn.Module,
        norm: nn.Module,
    ) -> None:
        super().__init__(base)
        self.prompts, self.number = prompts, number
        self.register_buffer("known", F.normalize(known, dim=-1), persistent=False)
        refer(self, "reader", reader)
        refer(self, "norm", norm)
        self.listens = False
        self._said: Said | None = None

    def take(self) -> Said:
        """What the last training pass said, once."""
        assert self._said is not None, "the prompts speak in a training pass, to one that listens"
        said, self._said = self._said, None
        return said

    def forward(self, x: Both, **arguments: Any) -> Tensor:
        prompted, untouched = x
        with torch.no_grad():
            tokens = self.norm(self.base(untouched, **arguments))
            features = self.reader.image_projection(self.reader.image.readout(tokens))
            chosen = (features @ self.known.T).topk(self.number, dim=1).indices
        prompts, found = self.prompts(self.reader.class_features(features)[chosen], prompted)
        if self.training and self.listens:
            self._said = Said(found, chosen, features)
        entering = torch.cat([prompted, prompts.to(prompted.dtype)], dim=1)
        out: Tensor = self.base(entering, **arguments)
        return out[:, : -self.number]
