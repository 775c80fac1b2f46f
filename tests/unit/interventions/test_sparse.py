"""Single entries of frozen tensors: they alone move, they alone cost, and they fold away exactly."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from peftbench.foundation.errors import NotApplicable
from peftbench.interventions import ScaleShift, SparseDelta, fold_all


def moved(base: nn.Module, **entries: list[int]) -> SparseDelta:
    sparse = SparseDelta(base.requires_grad_(False), {name: torch.tensor(places) for name, places in entries.items()})
    with torch.no_grad():
        for tensor in sparse.parameters():
            if tensor.requires_grad:
                tensor.copy_(torch.arange(1.0, len(tensor) + 1))
    return sparse


def test_nothing_changes_at_first() -> None:
    base, x = nn.Linear(4, 3), torch.randn(2, 4)
    assert torch.equal(SparseDelta(base, {"weight": torch.tensor([0, 5])})(x), base(x))


@pytest.mark.parametrize(
    ("base", "x"),
    [
        (nn.Linear(4, 3), torch.randn(2, 4)),
        (nn.LayerNorm(4), torch.randn(2, 4)),
        (nn.Conv2d(1, 4, 2), torch.randn(2, 1, 5, 5)),
    ],
    ids=["linear", "norm", "convolution"],
)
def test_chosen_entries_move_and_fold_into_a_plain_module(base: nn.Module, x: torch.Tensor) -> None:
    expected = copy.deepcopy(base)
    with torch.no_grad():
        expected.weight.view(-1)[1] += 1.0  # type: ignore[union-attr, operator]
        expected.weight.view(-1)[3] += 2.0  # type: ignore[union-attr, operator]
        expected.bias[2] += 1.0  # type: ignore[index, operator]
        before = {name: tensor.clone() for name, tensor in base.named_parameters()}
        model = nn.Sequential(moved(base, weight=[1, 3], bias=[2]))
        torch.testing.assert_close(model(x), expected(x))
        assert fold_all(model) == [] and type(model[0]) is type(base)
        torch.testing.assert_close(model(x), expected(x))
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.named_parameters())


def test_only_chosen_entries_are_parameters_and_get_gradients() -> None:
    sparse = moved(nn.Linear(4, 3), weight=[2, 9])
    trainable = {name: tensor for name, tensor in sparse.named_parameters() if tensor.requires_grad}
    assert {name: tensor.shape for name, tensor in trainable.items()} == {"weight_values": (2,)}
    assert "weight_places" not in sparse.state_dict()
    x = torch.randn(2, 4)
    sparse(x).sum().backward()
    full = x.sum(dim=0).expand(3, -1)
    torch.testing.assert_close(trainable["weight_values"].grad, full.flatten()[[2, 9]])


def test_entries_are_chosen_in_plain_modules() -> None:
    with pytest.raises(NotApplicable, match="plain modules, not in a ScaleShift"):
        SparseDelta(ScaleShift(nn.Linear(2, 2), 2), {"weight": torch.tensor([0])})
