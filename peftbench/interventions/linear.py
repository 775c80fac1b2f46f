"""Changes of a linear map that stay linear: y = W x + b + delta(x), and maps behind it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.foundation.errors import NotApplicable
from peftbench.interventions.base import Intervention
from peftbench.interventions.dropped import Dropped
from peftbench.interventions.lean import updated
from peftbench.interventions.remade import made_again


class _Pair(nn.Module):
    """x -> scale * B A dropout(x) with `down` A [rank, in_dim] and `up` B [out_dim, rank] of a subclass."""

    down: Tensor
    up: Tensor

    def __init__(self, scale: float, dropout: float) -> None:
        super().__init__()
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.linear(F.linear(self.dropout(x), self.down), self.up)

    def weight(self) -> Tensor:
        """The matrix [out_dim, in_dim] that this adds to the frozen one."""
        return self.scale * self.up @ self.down


class LowRank(_Pair):
    """x -> scale * B A dropout(x) with A [rank, in_dim] and B [out_dim, rank]; B = 0 at the start.

    A is drawn from kaiming-uniform with a = sqrt(5), as loralib and the PEFT library do (LoRA, arXiv:2106.09685,
    section 4.1, writes a Gaussian).
    """

    def __init__(self, in_dim: int, out_dim: int, rank: int, scale: float = 1.0, dropout: float = 0.0) -> None:
        super().__init__(scale, dropout)
        self.down = nn.Parameter(torch.empty(rank, in_dim))
        self.up = nn.Parameter(torch.zeros(out_dim, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))


class FixedDown(_Pair):
    """x -> scale * B A dropout(x) with a frozen A [rank, in_dim] and B [out_dim, rank], zero at the start."""

    def __init__(self, down: Tensor, out_dim: int, scale: float = 1.0, dropout: float = 0.0) -> None:
        super().__init__(scale, dropout)
        made_again(self, "down", down)
        self.up = nn.Parameter(torch.zeros(out_dim, len(down)))


class FixedUp(_Pair):
    """x -> scale * B A dropout(x) with a frozen B [out_dim, rank] and A [rank, in_dim], zero at the start."""

    def __init__(self, in_dim: int, up: Tensor, scale: float = 1.0, dropout: float = 0.0) -> None:
        super().__init__(scale, dropout)
        made_again(self, "up", up)
        self.down = nn.Parameter(torch.zeros(up.shape[1], in_dim))


class ShiftedLowRank(LowRank):
    """x -> scale * (B A dropout(x) - B_0 A_0 x) with B_0, A_0 what B and A start from: silent at the start.

    The frozen pair is the part of a pretrained weight that B A takes over, as though it had been cut out of it.
    """

    start_down: Tensor
    start_up: Tensor

    def __init__(self, down: Tensor, up: Tensor, scale: float = 1.0, dropout: float = 0.0) -> None:
        super().__init__(down.shape[1], len(up), len(down), scale, dropout)
        self.down, self.up = (nn.Parameter(tensor.detach().clone()) for tensor in (down, up))
        self.register_buffer("start_down", down.detach().clone(), persistent=False)
        self.register_buffer("start_up", up.detach().clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - self.scale * F.linear(F.linear(x, self.start_down), self.start_up)

    def weight(self) -> Tensor:
        """The matrix [out_dim, in_dim] that this adds to the frozen one."""
        return super().weight() - self.scale * self.start_up @ self.start_down


class FrozenEnds(_Pair):
    """x -> scale * B C A dropout(x) with A [rank, in_dim] and B [out_dim, rank] frozen, C from `core`; a base class."""

    def __init__(self, down: Tensor, up: Tensor, scale: float = 1.0, dropout: float = 0.0) -> None:
        super().__init__(scale, dropout)
        made_again(self, "down", down.detach().clone())
        made_again(self, "up", up.detach().clone())

    def core(self) -> Tensor:
        """C [rank, rank] as it acts now."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.linear(F.linear(F.linear(self.dropout(x), self.down), self.core()), self.up)

    def weight(self) -> Tensor:
        """The matrix [out_dim, in_dim] that this adds to the frozen one."""
        return self.scale * self.up @ self.core() @ self.down


class MatrixDelta(nn.Module):
    """x -> delta x with a matrix that `weight` makes anew at every pass, in training `dropped`; a base class."""

    dropped = Dropped()

    def weight(self) -> Tensor:
        """The matrix [out_dim, in_dim] that this adds to the frozen one."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dropped(self.weight()) if self.training else self.weight())


class AffineLowRank(nn.Module):
    """x -> scale * (B dropout(A x + a) + b), A [rank, in_dim] xavier-uniform, B [out_dim, rank] and the biases 0."""

    def __init__(self, in_dim: int, out_dim: int, rank: int, scale: float = 1.0, dropout: float = 0.0) -> None:
        super().__init__()
        self.down = nn.Linear(in_dim, rank)
        self.up = nn.Linear(rank, out_dim)
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.down.weight)
        for tensor in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(tensor)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.up(self.dropout(self.down(x)))

    def weight(self) -> Tensor:
        """The matrix [out_dim, in_dim] of the map."""
        return self.scale * self.up.weight @ self.down.weight

    def offset(self) -> Tensor:
        """What the map adds without input: [out_dim]."""
        return self.scale * (self.up.weight @ self.down.bias + self.up.bias)


class Thinned(nn.Module):
    """A delta with stochastic depth of its own: in training it acts on each sample with probability 1 - `drop_path`.

    What acts is divided by that probability, so that the mean stays.
    """

    def __init__(self, delta: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.delta = delta
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.drop_path(self.delta(x))
        return y

    def weight(self) -> Tensor:
        """The matrix of the delta as it acts in evaluation."""
        matrix: Tensor = self.delta.weight()  # type: ignore[operator]
        return matrix

    def offset(self) -> Tensor | None:
        """What the delta adds without input, None where it is linear."""
        return self.delta.offset() if hasattr(self.delta, "offset") else None  # type: ignore[operator]


class LinearDelta(Intervention):
    """A frozen linear map whose output slices receive deltas.

    `deltas` maps a slice number to a module with `forward(x)` [..., width], `weight()` [width, in_dim] and, if it is
    affine, `offset()` [width]; the output is cut into `num_slices` equal parts (3 for a fused qkv: q is 0, k is 1, v
    is 2). `dropout` acts on what all deltas read, with one mask for them.
    """

    def __init__(
        self, base: nn.Module, deltas: Mapping[int, nn.Module], num_slices: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__(base)
        if not isinstance(base, (nn.Linear, Intervention)):
            raise NotApplicable(f"a linear delta needs a linear map, not a {type(base).__name__}")
        self.num_slices = num_slices
        self.dropout = nn.Dropout(dropout)
        self.deltas = nn.ModuleDict({str(number): delta for number, delta in deltas.items()})

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        x = self.dropout(x)
        lean = self._updated(y, x)
        if lean is not None:
            return lean
        if self.num_slices == 1:
            return y + self.deltas["0"](x).to(y.dtype)
        parts = list(y.chunk(self.num_slices, dim=-1))
        for number, delta in self.deltas.items():
            parts[int(number)] = parts[int(number)] + delta(x).to(y.dtype)
        return torch.cat(parts, dim=-1)

    def _updated(self, y: Tensor, x: Tensor) -> Tensor | None:
        """The sum by the lean function; None where that would be another one or would not help."""
        deltas: dict[str, Any] = dict(self.deltas.items())
        plain = type(self.base) is nn.Linear and not self.base._forward_hooks
        training = self.training and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if not (plain and training) or any(type(delta) is not LowRank for delta in deltas.values()):
            return None
        rates = {delta.dropout.p for delta in deltas.values()}
        updates = [(delta.down, delta.up, delta.scale, int(number)) for number, delta in deltas.items()]
        return updated(y, x, updates, self.num_slices, rates.pop()) if len(rates) == 1 else None

    def folded(self) -> nn.Module | None:
        if not isinstance(self.base, nn.Linear):
            return None
        plain = copy.deepcopy(self.base)
        width = plain.out_features // self.num_slices
        for number, delta in self.deltas.items():
            rows = slice(int(number) * width, (int(number) + 1) * width)
            plain.weight[rows] += delta.weight()  # type: ignore[operator]
            offset = delta.offset() if hasattr(delta, "offset") else None  # type: ignore[operator]
            if offset is not None:
                bias_of(plain)[rows] += offset
        return plain


class ParallelAndSequential(Intervention):
    """y + parallel(x) + sequential(y) around a frozen linear map y = W x + b; both branches are affine maps."""

    def __init__(self, base: nn.Module, parallel: AffineLowRank, sequential: AffineLowRank) -> None:
        super().__init__(base)
        if not isinstance(base, (nn.Linear, Intervention)):
            raise NotApplicable(f"branches around a linear map need one, not a {type(base).__name__}")
        self.parallel, self.sequential = parallel, sequential

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y + self.parallel(x).to(y.dtype) + self.sequential(y).to(y.dtype)

    def folded(self) -> nn.Module | None:
        if not isinstance(self.base, nn.Linear):
            return None
        plain = copy.deepcopy(self.base)
        behind, bias = self.sequential.weight(), bias_of(plain)
        plain.weight += self.parallel.weight() + behind @ self.base.weight
        bias += self.parallel.offset() + behind @ bias + self.sequential.offset()
        return plain


class LinearScale(Intervention):
    """scale * base(x), one factor for each output channel, 1 at the start. `channel_dim` is 1 for feature maps."""

    def __init__(self, base: nn.Module, width: int, channel_dim: int = -1) -> None:
        super().__init__(base)
        self.scale = nn.Parameter(torch.ones(width))
        self.channel_dim = channel_dim

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        shape = [1] * y.ndim
        shape[self.channel_dim] = -1
        return y * self.scale.view(shape)

    def folded(self) -> nn.Module | None:
        if not isinstance(self.base, (nn.Linear, nn.Conv2d)):
            return None
        plain = copy.deepcopy(self.base)
        plain.weight *= self.scale.view(-1, *[1] * (plain.weight.ndim - 1))
        if plain.bias is not None:
            plain.bias *= self.scale
        return plain


def bias_of(linear: nn.Linear) -> Tensor:
    """The bias of a linear map, created as zeros where it has none."""
    if linear.bias is None:
        linear.bias = nn.Parameter(linear.weight.new_zeros(linear.out_features), requires_grad=False)
    return linear.bias
