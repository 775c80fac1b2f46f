"""Binary adapters (Jie et al., ICCV 2023, arXiv:2307.16867): AdaptFormer and LoRA with weights of few bits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import LinearDelta, Tap, tap_block
from peftbench.interventions.head import ChangedHead
from peftbench.interventions.sequential import ACTIVATIONS
from peftbench.methods.base import METHODS, Method


def codebook(bits: int) -> tuple[Tensor, Tensor]:
    """Code values [2^bits] for a standard normal variable, and the boundaries [2^bits - 1] between them.

    A boundary lies half way between two values; a value splits the probability between its boundaries in half: what
    500 steps from zeros come to, as in the released code. For one bit the values are +-0.6745. Up to four bits that is
    the fixed point to a float's precision; beyond, the steps stop short of it, for eight bits at +-2.81 outermost.
    """
    number = 2**bits
    values, boundaries = torch.zeros(number, dtype=torch.float64), torch.empty(0)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for _ in range(500):
        boundaries = (values[1:] + values[:-1]) / 2
        below = torch.cat([ends[:1], torch.special.ndtr(boundaries), ends[1:]])
        values = torch.special.ndtri((below[1:] + below[:-1]) / 2)
    return values.float(), boundaries.float()


def snapped(weight: Tensor, codes: Tensor, boundaries: Tensor) -> Tensor:
    """`weight` standardised by its own mean and deviation, every entry snapped to the code, and brought back.

    The gradient passes the snapping unchanged.
    """
    mean, deviation = weight.mean(), weight.std()
    standard = (weight - mean) / (deviation + 1e-5)
    nearest = codes[torch.bucketize(standard.detach(), boundaries)]
    return (standard + (nearest - standard).detach()) * deviation + mean


class HiddenDropoutPair(nn.Module):
    """x -> scale * B dropout(act(A x)) with A [bottleneck, in_dim] and B [out_dim, bottleneck].

    A is kaiming-uniform with a = sqrt(5), B zero.
    """

    def __init__(
        self, in_dim: int, out_dim: int, bottleneck: int, scale: float, dropout: float, activation: str
    ) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(bottleneck, in_dim))
        self.up = nn.Parameter(torch.zeros(out_dim, bottleneck))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)
        self.dropout = nn.Dropout(dropout)
        self.scale, self.activation = scale, activation

    def acting(self, weight: Tensor) -> Tensor:
        """A or B as it is multiplied by."""
        return weight

    def forward(self, x: Tensor) -> Tensor:
        hidden = ACTIVATIONS[self.activation](F.linear(x, self.acting(self.down)))
        return self.scale * F.linear(self.dropout(hidden), self.acting(self.up))

    def weight(self) -> Tensor:
        """The matrix [out_dim, in_dim] that a pair without activation adds to the frozen one."""
        return self.scale * self.acting(self.up) @ self.acting(self.down)


class FewBitPair(HiddenDropoutPair):
    """The same with both quantised, each as a whole (see `snapped`).

    B is a truncated normal of std 0.001, since a code of one bit has no zero.
    """

    codes: Tensor
    boundaries: Tensor

    def __init__(
        self, in_dim: int, out_dim: int, bottleneck: int, bits: int, scale: float, dropout: float, activation: str
    ) -> None:
        super().__init__(in_dim, out_dim, bottleneck, scale, dropout, activation)
        nn.init.trunc_normal_(self.up, std=0.001, a=-0.002, b=0.002)
        codes, boundaries = codebook(bits)
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("boundaries", boundaries, persistent=False)

    def acting(self, weight: Tensor) -> Tensor:
        return snapped(weight, self.codes, self.boundaries)


class FewBitHead(ChangedHead):
    """A linear head without bias whose weight [classes, width] is quantised like those of a `FewBitPair`."""

    codes: Tensor
    boundaries: Tensor

    def __init__(self, head: nn.Linear, bits: int) -> None:
        super().__init__(head, bias=False)
        codes, boundaries = codebook(bits)
        self.register_buffer("codes", codes.to(self.weight.device), persistent=False)
        self.register_buffer("boundaries", boundaries.to(self.weight.device), persistent=False)

    def acting(self) -> Tensor:
        return snapped(self.weight, self.codes, self.boundaries)


@dataclass(frozen=True)
class _Binary(Method):
    """What both share. The paper picks `scale` in {0.01, 0.1, 1, 10} for each task and counts bits, not parameters.

    `head_bits` makes a classifier's linear head one of so many bits without bias, which starts as every head does: with
    1 this is the paper's Bi-Head, of which the release takes other scales.
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "arXiv:2307.16867"
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "bottleneck"

    bottleneck: int = option(32, ge=1)
    bits: int = option(1, ge=1, le=8)
    scale: float = option(1.0, gt=0)
    dropout: float = option(0.1, ge=0, lt=1)
    head_bits: int | None = option(None, ge=1, le=8, later=True)

    def on_head(self, head: nn.Module) -> nn.Module:
        if self.head_bits is None:
            return head
        if type(head) is not nn.Linear:
            raise NotApplicable(
                f"{self.name} quantises the linear head of a classifier, and here that is {type(head).__name__}; "
                "leave method.head_bits out"
            )
        return FewBitHead(head, self.head_bits)

    def _pair(self, in_dim: int, out_dim: int, activation: str) -> FewBitPair:
        return FewBitPair(in_dim, out_dim, self.bottleneck, self.bits, self.scale, self.dropout, activation)


@METHODS.add("bi_adaptformer")
@dataclass(frozen=True)
class BiAdaptFormer(_Binary):
    """x = x + mlp_half(x) + scale * B relu(A x), x the stream after attention, A and B of `bits` bits, no biases.

    2 L D h parameters on a plain ViT; each takes `bits` bits, and each matrix two more numbers.
    """

    def attach(self, backbone: Backbone) -> None:
        for site in backbone.sites("block"):
            branch = self._pair(site.shape.out_dim, site.shape.out_dim, "relu")
            site.wrap(partial(tap_block, taps=[Tap("mlp", branch, reads="raw")]))

    def expected_params(self, shape: BackboneShape) -> int:
        return sum(2 * site.out_dim * self.bottleneck for site in shape.at("block"))


@METHODS.add("bi_lora")
@dataclass(frozen=True)
class BiLoRA(_Binary):
    """W' = W + scale * B A for q and v, A and B of `bits` bits. Folds exactly into W. 4 L D h parameters."""

    mergeable: ClassVar[bool] = True

    def attach(self, backbone: Backbone) -> None:
        for site in backbone.sites("attn.qkv"):
            deltas = {number: self._pair(site.shape.in_dim, site.shape.out_dim // 3, "none") for number in (0, 2)}
            site.wrap(partial(LinearDelta, deltas=deltas, num_slices=3))

    def expected_params(self, shape: BackboneShape) -> int:
        return sum(2 * (site.in_dim + site.out_dim // 3) * self.bottleneck for site in shape.at("attn.qkv"))
