"""The bottleneck of the adapter family, and modules with a frozen one: behind it, beside it or ahead of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.foundation.channels import channels_at, channels_last
from peftbench.foundation.errors import NotApplicable
from peftbench.interventions.base import Intervention


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), the cheap form of GELU."""
    return x * torch.sigmoid(1.702 * x)


def _no_activation(x: Tensor) -> Tensor:
    return x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
    "none": _no_activation,
}
INITS = ("lora", "lora_xavier", "xavier")


class Bottleneck(nn.Module):
    """x -> scale * up(dropout(act(down(x)))), width -> bottleneck -> width, with biases that start at zero.

    `init`: `lora` as in AdaptFormer's code and LoRA (down kaiming-uniform with a = sqrt(5), up zero, so that the added
    path is silent at the start yet receives gradient), `lora_xavier` (down xavier-uniform, up zero), `xavier` (both
    xavier-uniform: not silent).
    """

    def __init__(
        self,
        width: int,
        bottleneck: int,
        activation: str = "gelu",
        dropout: float = 0.0,
        scale: float = 1.0,
        init: str = "lora",
    ) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        self.activation = activation
        self.dropout = nn.Dropout(dropout)
        self.scale = scale
        if init == "lora":
            nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        else:
            nn.init.xavier_uniform_(self.down.weight)
        if init == "xavier":
            nn.init.xavier_uniform_(self.up.weight)
        else:
            nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(ACTIVATIONS[self.activation](self.down(x)))
        return self.scale * self.up(hidden)


class _Adding(Intervention):
    """Base of what adds a module's output to that of `base`.

    `module` sees channels last; `channel_dim` says where `base` has them, in and out.
    """

    def __init__(self, base: nn.Module, module: nn.Module, channel_dim: int = -1) -> None:
        super().__init__(base)
        self.module = module
        self.channel_dim = channel_dim

    def added(self, x: Tensor) -> Tensor:
        added: Tensor = self.module(channels_last(x, self.channel_dim))
        return channels_at(added, self.channel_dim)


class Behind(_Adding):
    """y + module(y) with y = base(x)."""

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        y: Tensor = self.base(x, **arguments)
        return y + self.added(y)


class Beside(_Adding):
    """base(x) + module(x)."""

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        y: Tensor = self.base(x, **arguments)
        return y + self.added(x)


class BehindSlices(Intervention):
    """y_i + module_i(y_i) for some of the `num_slices` equal parts of y = base(x) (3 for a fused qkv)."""

    def __init__(self, base: nn.Module, modules: Mapping[int, nn.Module], num_slices: int = 1) -> None:
        super().__init__(base)
        self.num_slices = num_slices
        self.behind = nn.ModuleDict({str(number): module for number, module in modules.items()})

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.base(x).chunk(self.num_slices, dim=-1))
        for number, module in self.behind.items():
            parts[int(number)] = parts[int(number)] + module(parts[int(number)])
        return torch.cat(parts, dim=-1)


class Ahead(Intervention):
    """base(x + module(x)) for a linear map or a 1 x 1 convolution; folds into it where `module` is affine.

    W (x + M x + m) + b = (W + W M) x + (W m + b).
    """

    def __init__(self, base: nn.Module, module: nn.Module, channel_dim: int = -1) -> None:
        super().__init__(base)
        if not isinstance(base, (nn.Linear, nn.Conv2d, Intervention)):
            raise NotApplicable(f"a module ahead of a linear map cannot stand before a {type(base).__name__}")
        self.module = module
        self.channel_dim = channel_dim

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.module(channels_last(x, self.channel_dim))
        y: Tensor = self.base(x + channels_at(added, self.channel_dim))
        return y

    def folded(self) -> nn.Module | None:
        pointwise = isinstance(self.base, nn.Linear) or (
            isinstance(self.base, nn.Conv2d) and self.base.weight[0, 0].numel() == 1 and self.base.groups == 1
        )
        if not pointwise or not hasattr(self.module, "affine"):
            return None
        plain = copy.deepcopy(self.base)
        weight = plain.weight.flatten(1)  # type: ignore[operator]
        matrix, offset = self.module.affine()  # type: ignore[operator]
        bias = weight @ offset if plain.bias is None else weight @ offset + plain.bias
        plain.weight.add_((weight @ matrix).view_as(plain.weight))  # type: ignore[operator]
        plain.bias = nn.Parameter(bias, requires_grad=False)
        return plain
