"""The lean functions give the bits of what autograd runs on the operations written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftbench.foundation.seeding import deterministic
from peftbench.interventions import LinearDelta, LowRank, ScaleShift
from peftbench.interventions.base import Intervention

WIDTH, TOKENS = 48, (4, 17)


class Written(Intervention):
    """The intervention as the equations say, operation by operation."""

    def __init__(self, lean: Any) -> None:
        super().__init__(lean.base)
        self.lean = lean

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        if isinstance(self.lean, ScaleShift):
            shape = [1] * y.ndim
            shape[self.lean.channel_dim] = -1
            return y * self.lean.scale.view(shape) + self.lean.shift.view(shape)
        parts = list(y.chunk(self.lean.num_slices, dim=-1))
        for number, delta in self.lean.deltas.items():
            parts[int(number)] = parts[int(number)] + delta(x).to(y.dtype)
        return torch.cat(parts, dim=-1)


def lora(numbers: tuple[int, ...], dropout: float, scale: float = 1.0) -> LinearDelta:
    slices = 3 if numbers != (0,) else 1
    base = nn.Linear(WIDTH, slices * WIDTH).requires_grad_(False)
    deltas = {number: LowRank(WIDTH, WIDTH, 8, scale, dropout) for number in numbers}
    for delta in deltas.values():
        nn.init.normal_(delta.up, std=0.1)
    return LinearDelta(base, deltas, slices)


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "q and v, dropout": lambda: lora((0, 2), 0.1),
    "q, k and v, scaled": lambda: lora((0, 1, 2), 0.3, scale=1.7),
    "without dropout": lambda: lora((0, 2), 0.0),
    "one slice": lambda: lora((0,), 0.1),
    "a norm": lambda: ScaleShift(nn.LayerNorm(WIDTH).requires_grad_(False), WIDTH),
    "a linear map": lambda: ScaleShift(nn.Linear(WIDTH, WIDTH).requires_grad_(False), WIDTH),
    "nothing": lambda: ScaleShift(nn.Identity(), WIDTH),
}


def passed(module: nn.Module, device: str, precision: str, needs_grad: bool) -> tuple[list[Tensor], int]:
    """Output and gradients behind something that keeps what it reads, and the bytes autograd kept."""
    torch.manual_seed(1)
    x = torch.randn(*TOKENS, WIDTH).to(device).requires_grad_(needs_grad)
    torch.manual_seed(2)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        read = x * 1.5
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            y = module(read)
        loss = (torch.tanh(y.float()) * torch.linspace(-1, 1, y.numel(), device=device).view_as(y)).sum()
    loss.backward()
    grads = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    return [y.detach(), *grads, *([x.grad] if x.grad is not None else [])], sum(kept.values())


def compare(name: str, precision: str, needs_grad: bool, device: str) -> tuple[int, int]:
    torch.manual_seed(0)
    lean = BUILDERS[name]().to(device).train()
    with deterministic(device):
        found, kept = passed(lean, device, precision, needs_grad)
        lean.zero_grad(set_to_none=True)
        expected, usual = passed(Written(lean).train(), device, precision, needs_grad)
    assert len(found) == len(expected) > 2
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)
    return kept, usual


@pytest.mark.parametrize("needs_grad", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", BUILDERS)
def test_same_bits_and_no_more_kept(name: str, precision: str, needs_grad: bool) -> None:
    kept, usual = compare(name, precision, needs_grad, "cpu")
    assert kept <= usual


@pytest.mark.gpu
@pytest.mark.parametrize("needs_grad", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", BUILDERS)
def test_same_bits_on_cuda(name: str, precision: str, needs_grad: bool) -> None:
    compare(name, precision, needs_grad, "cuda")


def test_what_is_kept_of_the_usual_low_rank_pair() -> None:
    # x, and of each of two pairs a mask of one byte and the hidden values, against dropped inputs and float masks
    kept, usual = compare("q and v, dropout", "fp32", True, "cpu")
    entries, rows = TOKENS[0] * TOKENS[1] * WIDTH, TOKENS[0] * TOKENS[1]
    weights = sum(tensor.numel() * 4 for tensor in lora((0, 2), 0.1).parameters() if tensor.ndim > 1)
    assert kept == weights + entries * (4 + 2) + rows * 8 * 4 * 2
    assert usual - kept >= entries * (2 * (4 + 4) - (4 + 2)) - 1
